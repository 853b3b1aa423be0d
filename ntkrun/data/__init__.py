"""The data sets: each name gives x, y, x_test, y_test as float64 NumPy arrays, without torch. A new data set needs one
file and an entry in DATA_SETS and DataConfig."""

from typing import Annotated

from pydantic import Field

from ntkrun.data.base import Component as Component
from ntkrun.data.base import Data as Data
from ntkrun.data.base import DataSet as DataSet
from ntkrun.data.idx import Idx
from ntkrun.data.labelled import Digits
from ntkrun.data.openml import OpenML
from ntkrun.data.synthetic import Circle, Gaussian, Sphere
from ntkrun.data.tabular import TableFile

DATA_SETS: tuple[type[DataSet], ...] = (Digits, Circle, Sphere, Gaussian, TableFile, Idx, OpenML)

DataConfig = Annotated[
    Digits | Circle | Sphere | Gaussian | TableFile | Idx | OpenML,
    Field(discriminator="name"),
]


def describe() -> list[tuple[str, str]]:
    """Return the name of each data set with a one-line description."""
    return [(data_set.model_fields["name"].annotation.__args__[0], data_set.statement) for data_set in DATA_SETS]  # type: ignore[union-attr]
