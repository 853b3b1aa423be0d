"""`file`: a user's own data, as csv, npz or parquet."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from ntkrun.data.base import Array, Arrays, Component, DataSet, centred, unknown
from ntkrun.errors import FieldError
from ntkrun.files.reading import Unreadable, read_bytes, read_npz

LARGEST_FILE = 2**32  # bytes, unpacked


def _form(value: Any) -> str:
    return "<mapping>" if isinstance(value, dict | Component) else "<list>"


class TableFile(DataSet):
    """A table of examples: the columns `inputs` and `targets` of a csv or parquet file, or the arrays of those names in
    an npz. In place of columns the targets may be a `Component`.

    Rows are chosen by the seed, training and test disjoint. `scale: true` centres and scales the inputs as for digits;
    otherwise they are taken as they stand. The path is relative to the directory that the command runs in.
    """

    statement: ClassVar[str] = "your own table: path (csv, npz, parquet), inputs and targets (column or array names)"
    name: Literal["file"]
    """Which data: `ntkrun list data`."""
    path: str = Field(min_length=1)
    """A .csv, .npz or .parquet file; relative to the directory that the command runs in."""
    inputs: tuple[str, ...] = Field(min_length=1)
    """Names of the columns or arrays that are the inputs."""
    targets: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1), Tag("<list>")] | Annotated[Component, Tag("<mapping>")],
        Discriminator(_form),
    ]
    """Names of the columns or arrays that are the targets; or `{component: k, size: s}`: a kernel principal
    component."""
    scale: bool = False
    """Whether to centre the inputs by the training inputs' mean, and then scale each to norm √n_0; else they are taken
    as they stand."""

    def identity(self) -> dict[str, Any]:
        """The contents of the file in place of its path."""
        return super().identity() | {"path": content_hash("path", self.path)}

    def make(self) -> Arrays:
        read = _READERS.get(Path(self.path).suffix.lower())
        if read is None:
            raise FieldError("path", f"{self.path}: the ending says the format; use {', '.join(_READERS)}")
        columns = read(self.path)
        x = self._columns(columns, "inputs")
        y = unknown(len(x)) if isinstance(self.targets, Component) else self._columns(columns, "targets")
        if len(x) != len(y):
            raise FieldError("targets", f"{self.path} has {len(y)} rows of targets for {len(x)} of inputs")
        train, test = self.split(len(x), self.path)
        x_train, x_test = (x[train], x[test]) if not self.scale else centred(x[train], x[test])
        return x_train, y[train], x_test, y[test]

    def _columns(self, columns: dict[str, Array], field: str) -> Array:
        parts = [self._column(columns, field, name) for name in getattr(self, field)]
        if len({len(part) for part in parts}) > 1:
            raise FieldError(field, f"{self.path}: these have different numbers of rows")
        return np.concatenate(parts, axis=1)

    def _column(self, columns: dict[str, Array], field: str, name: str) -> Array:
        if name not in columns:
            raise FieldError(
                field, f"{self.path} has no column {name!r}; it has {', '.join(map(repr, list(columns)[:20]))}"
            )
        values = columns[name]
        if values.ndim not in (1, 2):
            raise FieldError(
                field, f"{self.path}: {name!r} must be a list of numbers, or of rows of numbers, one a sample"
            )
        return _numbers(values, f"{self.path}, column {name!r}", field).reshape(len(values), *values.shape[1:] or (1,))


def contents(field: str, path: str) -> bytes:
    try:
        return read_bytes(path, LARGEST_FILE)
    except Unreadable as error:
        raise FieldError(field, f"{path} cannot be read ({error})") from None


def content_hash(field: str, path: str) -> str:
    return hashlib.sha256(contents(field, path)).hexdigest()


def _csv(path: str) -> dict[str, Array]:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # Without index_col=False, rows longer than the header shift every column by one.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # a word among numbers is found below, with its row
            frame = pd.read_csv(io.BytesIO(contents("path", path)), index_col=False)
    except pd.errors.ParserWarning:
        raise FieldError("path", f"{path} has rows with more fields than its header") from None
    except (ValueError, OverflowError, MemoryError) as error:  # pandas' parser errors are ValueErrors
        why = (str(error) or "it does not fit into memory").splitlines()[0]
        raise FieldError("path", f"{path} is not a csv table ({why})") from None
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _parquet(path: str) -> dict[str, Array]:
    from ntkrun.files.parquet import read_parquet

    try:
        frame = read_parquet(path, most=LARGEST_FILE).to_pandas()
    except Unreadable as error:
        raise FieldError("path", f"{path} is not a parquet table ({error})") from None
    return {name: frame[name].to_numpy() for name in frame.columns}


def _npz(path: str) -> dict[str, Array]:
    try:
        return read_npz(contents("path", path), LARGEST_FILE)
    except Unreadable as error:
        raise FieldError("path", f"{path}: {error}") from None


_READERS = {".csv": _csv, ".npz": _npz, ".parquet": _parquet}


def _numbers(values: Array, where: str, field: str) -> Array:
    """Finite float64, or the row that is not."""
    if np.iscomplexobj(values):
        raise FieldError(field, f"{where}: complex numbers; give their parts as columns of their own")
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        row = next(k for k, value in enumerate(values) if not _is_number(value))
        raise FieldError(field, f"{where}, row {row + 1}: {str(values[row])[:40]!r} is not a number") from None
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise FieldError(
            field, f"{where}, row {bad[0][0] + 1}: {numbers[tuple(bad[0])]} is not finite; mend it or leave the row out"
        )
    return numbers


def _is_number(value: Any) -> bool:
    try:
        np.asarray(value).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True
