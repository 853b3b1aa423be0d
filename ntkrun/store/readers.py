"""Read and check the files of a results directory, which may come from anywhere: each is checked once, when read."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ntkrun.columns import ANY, FLAG, ID, NUMBER, PLAN, TABLES, TEXT, WHOLE, Column
from ntkrun.config.yaml import LARGEST_CONFIG, Document
from ntkrun.errors import UserError
from ntkrun.files import parquet
from ntkrun.files.parquet import LARGEST_FILE
from ntkrun.files.reading import Unreadable, read_bytes, read_npz, read_text
from ntkrun.files.writing import inside
from ntkrun.text import printable

_TYPES = {ID: pa.large_string(), WHOLE: pa.int64(), NUMBER: pa.float64(), FLAG: pa.bool_(), TEXT: pa.large_string()}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # part of a file's name: no separator, no parent directory
STATUSES = ("done", "diverged", "failed")
MOST_LAYERS = 1000  # the limit of sections.Depth, which is not imported because it imports torch
CURE = "`ntkrun doctor --fix` repairs it, or says how"

# The declared columns of each kind of file; `stack` is a stack's part of the runs table. Other columns are numbers, so
# that the tables of stacks can be joined, or values of the config in the kinds _WITH_CONFIG.
FILES = TABLES | {"plan": PLAN, "stack": TABLES["runs"], "runs": PLAN | TABLES["runs"]}
_WITH_CONFIG = ("plan", "runs")


class _BadTable(Exception):
    """A table that is not valid, with the reason as text."""


def read_table(path: Path, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table of this kind (a key of FILES), or some of its columns. Raises UserError where the file is anything
    else."""
    return read_with_metadata(path, kind, columns)[0]


def read_with_metadata(
    path: Path, kind: str, columns: list[str] | None = None
) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """Read a table as `read_table` does, with the metadata in the file's schema."""
    required = columns or [name for name, column in FILES[kind].items() if not column.since]
    try:
        table, metadata = parquet.read_with_metadata(path, columns)
        frame = _frame(table, FILES[kind], required, ANY if kind in _WITH_CONFIG else NUMBER)
        _check_values(frame, kind)
        return frame, metadata
    except (Unreadable, _BadTable) as error:
        raise UserError(f"{path}: cannot be read as a table ({printable(str(error))}); {CURE}") from None


def read_stack(folder: Path, tables: Collection[str] = TABLES) -> dict[str, pd.DataFrame]:
    """Read a finished stack's part of each of these tables, `runs` among them.

    A table that the version which wrote the stack did not know is left out. Raises UserError where a table is damaged
    or missing, or a finished run has no steps.
    """
    paths = {table: inside(folder, f"{table}.parquet") for table in tables}
    parts = {
        table: read_table(path, "stack" if table == "runs" else table) for table, path in paths.items() if path.exists()
    }
    runs = parts.get("runs", pd.DataFrame({"run_id": [], "status": []}))
    done = runs[runs["status"] == "done"]["run_id"]
    for table in ("runs", "steps", "layers"):
        if table not in tables:
            continue
        if table not in parts and (len(done) or table == "runs"):
            raise UserError(f"{folder}: {table}.parquet is missing; {CURE}")
        if len(done) and not done.isin(parts[table]["run_id"]).all():
            raise UserError(f"{folder}: {table}.parquet lacks a run of the stack; {CURE}")
    return parts


def read_kernels(path: Path) -> dict[str, np.ndarray]:
    """Read whole kernels of a run: `steps` (K,), `ntk` (K, N, N, O, O). Raises UserError where the file is anything
    else."""
    try:
        arrays = read_npz(read_bytes(path, LARGEST_FILE), LARGEST_FILE)
        steps, ntk = (arrays.get(name, np.empty(())) for name in ("steps", "ntk"))
        valid = steps.dtype.kind == "i" and ntk.dtype.kind == "f" and ntk.ndim == 5 and 0 not in ntk.shape
        if not valid or steps.shape != ntk.shape[:1] or ntk.shape[1] != ntk.shape[2] or ntk.shape[3] != ntk.shape[4]:
            raise Unreadable("it does not hold `steps` (K,) and `ntk` (K, N, N, O, O)")
    except Unreadable as error:
        raise UserError(f"{path}: cannot be read as kernels ({printable(str(error))}); {CURE}") from None
    return {"steps": steps, "ntk": ntk}


def read_description(path: Path) -> dict[str, Any]:
    """Read sweep.yaml: `config`, `config_hash`, `made_by`. Raises UserError where it cannot be read."""
    try:
        document = Document(read_text(path, LARGEST_CONFIG), path.name)
        data = document.plain() if not document.problems else None
        if not isinstance(data, dict) or not all(isinstance(data.get(key), dict) for key in ("config", "made_by")):
            raise Unreadable("it holds no config, or no made_by")
    except Unreadable as error:
        why = printable(str(error))
        raise UserError(f"{path}: cannot be read ({why}); run the sweep again to rewrite it") from None
    return data


def check_id(run_id: str) -> str:
    """Return the id. Raises UserError where it cannot be part of a file's name."""
    if not isinstance(run_id, str) or not _ID.fullmatch(run_id):
        raise UserError(f"{printable(str(run_id))[:80]!r}: no run has this id; see the column run_id of the tables")
    return run_id


def _frame(table: pa.Table, known: Mapping[str, Column], required: Sequence[str], default_kind: str) -> pd.DataFrame:
    for name in required:
        if name not in table.column_names:
            raise _BadTable(f"column {name} is missing or does not hold {known[name].kind}")
    kinds = {name: known[name].kind if name in known else default_kind for name in table.column_names}
    return pa.table({name: _column(table[name], name, kind) for name, kind in kinds.items()}).to_pandas()


def _column(values: pa.ChunkedArray, name: str, kind: str) -> pa.ChunkedArray:
    kind = TEXT if kind == ANY and _is_text(values.type) else kind
    try:
        values = _cast(values, kind)
    except pa.ArrowException:
        raise _BadTable(f"column {name} must be {kind}, not {values.type}") from None
    if kind in (ID, WHOLE) and values.null_count:
        raise _BadTable(f"column {name} has gaps")
    if kind == WHOLE and len(values) and pc.min(values).as_py() < 0:
        raise _BadTable(f"column {name} has negative numbers")
    return _check_text(values, name, kind) if kind in (ID, TEXT) else values


def _cast(values: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """Return the column in the type of its kind; integers stay integers. Raises ArrowException where it is of another
    kind."""
    column_type = values.type
    if kind == ANY or (kind == NUMBER and pa.types.is_integer(column_type)):
        return values
    integer, floating, boolean = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean
    matches = {ID: _is_text, TEXT: _is_text, WHOLE: integer, NUMBER: floating, FLAG: boolean}
    if values.null_count == len(values):
        kind = NUMBER if kind == FLAG else kind  # a column of gaps alone is nan, as for stacks that lack it
    elif not matches[kind](column_type):
        raise pa.ArrowTypeError
    return values.cast(_TYPES[kind])


def _check_text(values: pa.ChunkedArray, name: str, kind: str) -> pa.ChunkedArray:
    """Check ids and remove terminal control characters from text. Each distinct value is processed once."""
    encoded = values.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    for word in words if kind == ID else ():
        if not _ID.fullmatch(word):
            raise _BadTable(f"column {name} holds {word[:80]!r}, which is not a valid id")
    cleaned = pa.array([printable(word) for word in words], pa.large_string())
    return cleaned.take(encoded.indices)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_values(frame: pd.DataFrame, kind: str) -> None:
    """Check what a column's type does not guarantee. Raises _BadTable."""
    if kind in ("plan", "stack", "runs") and frame["run_id"].duplicated().any():
        raise _BadTable("it holds a run twice")
    if "status" in frame and not frame["status"].isin(STATUSES).all():
        raise _BadTable(f"status must be one of {', '.join(STATUSES)}")
    if "network.depth" in frame and not frame["network.depth"].between(1, MOST_LAYERS).all():
        raise _BadTable(f"network.depth must be 1 to {MOST_LAYERS}")
    if "layer" in frame and len(frame) and frame["layer"].max() >= MOST_LAYERS:
        raise _BadTable(f"layer must be less than {MOST_LAYERS}")
    if "training.dtype" in frame and not frame["training.dtype"].isin(["float32", "float64"]).all():
        raise _BadTable("training.dtype must be float32 or float64")
    for value in frame["training.output_scale"].unique() if "training.output_scale" in frame else ():
        _check_scale(value)


def _check_scale(value: Any) -> None:
    """Check that a value is α, or {"centred": α} as text. Raises _BadTable."""
    try:
        scale = json.loads(value) if isinstance(value, str) else value
        float(scale["centred"] if isinstance(scale, dict) else scale)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _BadTable(f"training.output_scale {str(value)[:80]!r} is not valid") from None
