"""What may stand in the tables of a results directory, which may come from anywhere: checked once, as they are read."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ntkrun.config.yaml import LARGEST_CONFIG, Document
from ntkrun.errors import UserError
from ntkrun.files import parquet
from ntkrun.files.parquet import LARGEST_FILE
from ntkrun.files.reading import Unreadable, read_bytes, read_npz, read_text
from ntkrun.files.writing import inside
from ntkrun.store.tables import TABLES
from ntkrun.text import printable

ID, WHOLE, NUMBER, FLAG, TEXT, ANY = "an id", "a whole number", "a number", "true or false", "text", "a value"
_TYPES = {ID: pa.large_string(), WHOLE: pa.int64(), NUMBER: pa.float64(), FLAG: pa.bool_(), TEXT: pa.large_string()}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # part of a file's name: no separator, no parent directory
STATUSES = ("done", "diverged", "failed")
MOST_LAYERS = 1000  # as sections.Depth, which imports torch
CURE = "`ntkrun doctor --fix` puts it right, or says how"

_CONFIG = {
    "seed": WHOLE,
    "network.width": ANY,
    "network.depth": WHOLE,
    "network.activation": TEXT,
    "network.beta": NUMBER,
    "network.weight_scale": NUMBER,
    "data.name": TEXT,
    "data.samples": WHOLE,
    "training.loss": TEXT,
    "training.step_size": ANY,
    "training.steps": WHOLE,
    "training.batch": ANY,
    "training.momentum": NUMBER,
    "training.dtype": TEXT,
}
_RUNS = {
    "status": TEXT,
    "reason": TEXT,
    "last_step": NUMBER,
    "step_size": NUMBER,
    "parameters": NUMBER,
    "seconds": NUMBER,
}
_STEP = {"run_id": ID, "step": WHOLE}
# The columns that each kind of file must have, by kind; `stack` is a stack's part of the runs table. Other columns of
# _OF_NUMBERS are numbers, so that the stacks' can be joined.
COLUMNS: dict[str, dict[str, str]] = {
    "plan": {"run_id": ID, **_CONFIG},
    "stack": {"run_id": ID, **_RUNS},
    "runs": {"run_id": ID, **_CONFIG, **_RUNS},
    "steps": {**_STEP, "time": NUMBER, "loss": NUMBER, "test_loss": NUMBER, "kernel_drift": NUMBER},
    "layers": {**_STEP, "layer": WHOLE, "weight_drift": NUMBER},
    "modes": {**_STEP, "mode": WHOLE},
    "outputs": {**_STEP, "part": TEXT, "input": WHOLE, "output": WHOLE},
}
_LATER = {"smooth": FLAG, "device": TEXT, "torch": TEXT, "ntkrun": TEXT, "commit": TEXT}  # of stacks; some lack them
_OF_NUMBERS = ("stack", "steps", "layers", "modes", "outputs")


class _BadTable(Exception):
    """What is wrong with a table."""


def read_table(path: Path, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
    """A table of this kind (a key of COLUMNS), or some of its columns. Raises UserError for whatever else may stand
    there."""
    return read_with_metadata(path, kind, columns)[0]


def read_with_metadata(
    path: Path, kind: str, columns: list[str] | None = None
) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """The same, and what is noted in the file's schema."""
    wanted = {name: COLUMNS[kind][name] for name in columns} if columns else COLUMNS[kind]
    try:
        table, noted = parquet.read_with_metadata(path, columns)
        frame = _frame(table, wanted, NUMBER if kind in _OF_NUMBERS else ANY)
        _check_values(frame, kind)
        return frame, noted
    except (Unreadable, _BadTable) as error:
        raise UserError(f"{path}: cannot be read as a table ({printable(str(error))}); {CURE}") from None


def read_stack(folder: Path, tables: Sequence[str] = TABLES) -> dict[str, pd.DataFrame]:
    """A finished stack's part of each of these tables (`runs` among them), of those that the version which wrote it
    knew. Raises UserError where one is torn or missing, or a finished run has no steps."""
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
    """Whole kernels of a run: `steps` (K,), `ntk` (K, N, N, O, O). Raises UserError for whatever else may stand
    there."""
    try:
        arrays = read_npz(read_bytes(path, LARGEST_FILE), LARGEST_FILE)
        steps, ntk = (arrays.get(name, np.empty(())) for name in ("steps", "ntk"))
        whole = steps.dtype.kind == "i" and ntk.dtype.kind == "f" and ntk.ndim == 5 and 0 not in ntk.shape
        if not whole or steps.shape != ntk.shape[:1] or ntk.shape[1] != ntk.shape[2] or ntk.shape[3] != ntk.shape[4]:
            raise Unreadable("no `steps` (K,) with `ntk` (K, N, N, O, O) in it")
    except Unreadable as error:
        raise UserError(f"{path}: cannot be read as kernels ({printable(str(error))}); {CURE}") from None
    return {"steps": steps, "ntk": ntk}


def read_description(path: Path) -> dict[str, Any]:
    """What sweep.yaml says: `config`, `config_hash`, `made_by`. Raises UserError."""
    try:
        document = Document(read_text(path, LARGEST_CONFIG), path.name)
        said = document.plain() if not document.problems else None
        if not isinstance(said, dict) or not all(isinstance(said.get(key), dict) for key in ("config", "made_by")):
            raise Unreadable("it holds no config, or not what made it")
    except Unreadable as error:
        why = printable(str(error))
        raise UserError(f"{path}: cannot be read ({why}); run the sweep again to write it anew") from None
    return said


def check_id(run_id: str) -> str:
    """The id, if it can be part of a file's name. Raises UserError."""
    if not isinstance(run_id, str) or not _ID.fullmatch(run_id):
        raise UserError(f"{printable(str(run_id))[:80]!r}: no run has this id; the tables' `run_id` has them")
    return run_id


def _frame(table: pa.Table, wanted: Mapping[str, str], others: str) -> pd.DataFrame:
    for name in wanted:
        if name not in table.column_names:
            raise _BadTable(f"column {name} is missing, or of another kind than {wanted[name]}")
    kinds = {**_LATER, **wanted}
    columns = {name: _column(table[name], name, kinds.get(name, others)) for name in table.column_names}
    return pa.table(columns).to_pandas()


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
    return _shown(values, name, kind) if kind in (ID, TEXT) else values


def _cast(values: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """The column in the type of its kind; numbers that are whole stay so. Raises ArrowException where it has none."""
    found = values.type
    if kind == ANY or (kind == NUMBER and pa.types.is_integer(found)):
        return values
    whole, floating, truth = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean
    kindred = {ID: _is_text, TEXT: _is_text, WHOLE: whole, NUMBER: floating, FLAG: truth}
    if values.null_count == len(values):
        kind = NUMBER if kind == FLAG else kind  # gaps alone are nan, as in the tables of stacks that lack a column
    elif not kindred[kind](found):
        raise pa.ArrowTypeError
    return values.cast(_TYPES[kind])


def _shown(values: pa.ChunkedArray, name: str, kind: str) -> pa.ChunkedArray:
    """Text without what drives a terminal, ids that are ids: of each distinct one once."""
    packed = values.combine_chunks().dictionary_encode()
    words = packed.dictionary.to_pylist()
    for word in words if kind == ID else ():
        if not _ID.fullmatch(word):
            raise _BadTable(f"column {name} holds {word[:80]!r}, which is no id")
    shown = pa.array([printable(word) for word in words], pa.large_string())
    return shown.take(packed.indices)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_values(frame: pd.DataFrame, kind: str) -> None:
    """What a column's type does not tell."""
    if kind in ("plan", "stack", "runs") and frame["run_id"].duplicated().any():
        raise _BadTable("a run stands in it twice")
    if "status" in frame and not frame["status"].isin(STATUSES).all():
        raise _BadTable(f"a status that is not one of {', '.join(STATUSES)}")
    if "network.depth" in frame and not frame["network.depth"].between(1, MOST_LAYERS).all():
        raise _BadTable(f"network.depth must be 1 to {MOST_LAYERS}")
    if "layer" in frame and len(frame) and frame["layer"].max() >= MOST_LAYERS:
        raise _BadTable(f"layer must be less than {MOST_LAYERS}")
    if "training.dtype" in frame and not frame["training.dtype"].isin(["float32", "float64"]).all():
        raise _BadTable("training.dtype must be float32 or float64")
    for value in frame["training.output_scale"].unique() if "training.output_scale" in frame else ():
        _check_scale(value)


def _check_scale(value: Any) -> None:
    """α, or {"centred": α} as text."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        float(found["centred"] if isinstance(found, dict) else found)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _BadTable(f"training.output_scale {str(value)[:80]!r}") from None
