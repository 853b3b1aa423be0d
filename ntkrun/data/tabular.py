"""The data set `file`: a user's data as csv, npz or parquet."""

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

LARGEST_FILE = 2**32  # bytes once unpacked


def _form(value: Any) -> str:
    return "<mapping>" if isinstance(value, dict | Component) else "<list>"


class TableFile(DataSet):
    """A table of examples. `inputs` and `targets` name columns of a csv or parquet file, or arrays in an npz file. The
    targets may also be a `Component`.

    The seed chooses the rows; training and test rows are disjoint. With `scale: true` the inputs are centred and scaled
    as for digits, otherwise they are used unchanged. A relative path starts from the working directory.
    """

    statement: ClassVar[str] = "your own table: path (csv, npz, parquet), inputs and targets (column or array names)"
    name: Literal["file"]
    """Name of the data set, from `ntkrun list data`."""
    path: str = Field(min_length=1)
    """Path of a .csv, .npz or .parquet file, relative to the working directory."""
    inputs: tuple[str, ...] = Field(min_length=1)
    """Names of the columns or arrays with the inputs."""
    targets: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1), Tag("<list>")] | Annotated[Component, Tag("<mapping>")],
        Discriminator(_form),
    ]
    """Names of the columns or arrays with the targets, or `{component: k, size: s}` for a kernel principal
    component."""
    scale: bool = False
    """`true`: subtract the mean training input from all inputs and scale each to norm √n_0. `false`: use the inputs
    unchanged."""

    def identity(self) -> dict[str, Any]:
        """Return the values that identify the data, with a hash of the file's contents in place of its path."""
        return super().identity() | {"path": content_hash("path", self.path)}

    def make(self) -> Arrays:
        read = _READERS.get(Path(self.path).suffix.lower())
        if read is None:
            raise FieldError("path", f"{self.path}: unknown file type; use {', '.join(_READERS)}")
        columns = read(self.path)
        x = self._columns(columns, "inputs")
        y = unknown(len(x)) if isinstance(self.targets, Component) else self._columns(columns, "targets")
        if len(x) != len(y):
            raise FieldError("targets", f"{self.path} has {len(y)} rows of targets for {len(x)} rows of inputs")
        train, test = self.split(len(x), self.path)
        x_train, x_test = (x[train], x[test]) if not self.scale else centred(x[train], x[test])
        return x_train, y[train], x_test, y[test]

    def _columns(self, columns: dict[str, Array], field: str) -> Array:
        parts = [self._column(columns, field, name) for name in getattr(self, field)]
        if len({len(part) for part in parts}) > 1:
            raise FieldError(field, f"{self.path}: these columns have different numbers of rows")
        return np.concatenate(parts, axis=1)

    def _column(self, columns: dict[str, Array], field: str, name: str) -> Array:
        if name not in columns:
            raise FieldError(
                field, f"{self.path} has no column {name!r}; it has {', '.join(map(repr, list(columns)[:20]))}"
            )
        values = columns[name]
        if values.ndim not in (1, 2):
            raise FieldError(field, f"{self.path}: {name!r} must hold one number, or one row of numbers, per sample")
        return _numbers(values, f"{self.path}, column {name!r}", field).reshape(len(values), *values.shape[1:] or (1,))


def contents(field: str, path: str) -> bytes:
    try:
        return read_bytes(path, LARGEST_FILE)
    except Unreadable as error:
        raise FieldError(field, f"{path} cannot be read ({error})") from None


def content_hash(field: str, path: str) -> str:
    return hashlib.sha256(contents(field, path)).hexdigest()


def _read_csv(path: str) -> dict[str, Array]:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # Without index_col=False, rows longer than the header shift every column by one.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # `_numbers` reports text, with its row
            frame = pd.read_csv(io.BytesIO(contents("path", path)), index_col=False)
    except pd.errors.ParserWarning:
        raise FieldError("path", f"{path} has rows with more fields than its header") from None
    except (ValueError, OverflowError, MemoryError) as error:  # pandas' parser errors are ValueErrors
        reason = (str(error) or "it does not fit into memory").splitlines()[0]
        raise FieldError("path", f"{path} is not a csv table ({reason})") from None
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _read_parquet(path: str) -> dict[str, Array]:
    from ntkrun.files.parquet import read_parquet

    try:
        frame = read_parquet(path, most=LARGEST_FILE).to_pandas()
    except Unreadable as error:
        raise FieldError("path", f"{path} is not a parquet table ({error})") from None
    return {name: frame[name].to_numpy() for name in frame.columns}


def _read_npz(path: str) -> dict[str, Array]:
    try:
        return read_npz(contents("path", path), LARGEST_FILE)
    except Unreadable as error:
        raise FieldError("path", f"{path}: {error}") from None


_READERS = {".csv": _read_csv, ".npz": _read_npz, ".parquet": _read_parquet}


def _numbers(values: Array, where: str, field: str) -> Array:
    """Return the values as float64. Raises FieldError with the first row that is not a finite number."""
    if np.iscomplexobj(values):
        raise FieldError(field, f"{where}: complex numbers; give real and imaginary parts as separate columns")
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        row = next(k for k, value in enumerate(values) if not _is_number(value))
        raise FieldError(field, f"{where}, row {row + 1}: {str(values[row])[:40]!r} is not a number") from None
    invalid = np.argwhere(~np.isfinite(numbers))
    if len(invalid):
        first = invalid[0]
        raise FieldError(
            field, f"{where}, row {first[0] + 1}: {numbers[tuple(first)]} is not finite; correct or remove the row"
        )
    return numbers


def _is_number(value: Any) -> bool:
    try:
        np.asarray(value).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True
