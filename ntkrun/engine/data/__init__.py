"""Named data sets -> x, y, x_test, y_test. NumPy in float64; no torch. Adding one means one file and a line in
DATA_SETS."""

from typing import Annotated

from pydantic import Field

from ntkrun.engine.data.base import Component as Component
from ntkrun.engine.data.base import Data as Data
from ntkrun.engine.data.base import DataSet as DataSet
from ntkrun.engine.data.idx import Idx
from ntkrun.engine.data.labelled import Digits
from ntkrun.engine.data.openml import OpenML
from ntkrun.engine.data.synthetic import Circle, Gaussian, Sphere
from ntkrun.engine.data.tables import TableFile

DATA_SETS: tuple[type[DataSet], ...] = (Digits, Circle, Sphere, Gaussian, TableFile, Idx, OpenML)

DataConfig = Annotated[
    Digits | Circle | Sphere | Gaussian | TableFile | Idx | OpenML,
    Field(discriminator="name"),
]


def describe() -> list[tuple[str, str]]:
    """Each data set's name and what it is, in a line."""
    return [(data_set.model_fields["name"].annotation.__args__[0], data_set.statement) for data_set in DATA_SETS]  # type: ignore[union-attr]
