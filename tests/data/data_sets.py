"""Data sets from plain keys, as a config holds them."""

from typing import Any

from pydantic import TypeAdapter

from ntkrun.data import Data, DataConfig, DataSet
from ntkrun.errors import FieldError

CONFIG: TypeAdapter[DataSet] = TypeAdapter(DataConfig)


def data_set(**keys: Any) -> DataSet:
    return CONFIG.validate_python(keys)


def load(**keys: Any) -> Data:
    return data_set(**keys).load()


def problem(**keys: Any) -> FieldError:
    """The one thing wrong with it."""
    problems = data_set(**keys).problems()
    assert len(problems) == 1
    return problems[0]
