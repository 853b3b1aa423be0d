"""The tables of a sweep: their names, their columns and how they are put together."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.columns import DESCENT, LAYER_DETAIL

TABLES = ("runs", "steps", "layers", "modes", "outputs")

# Number columns that tables of an earlier version may lack, where they are nan. `modes` and `outputs`, which may be
# empty, list all their number columns.
_NUMBERS = {
    "runs": ("threads", "smooth", "predicted_kernel_variance", "predicted_kurtosis", "predicted_square_correlation"),
    "steps": ("growth", *DESCENT, "linear_rms_gap", "test_linear_rms_gap", "linear_weight_drift"),
    "layers": LAYER_DETAIL,
    "modes": ("time", "eigenvalue", "residual"),
    "outputs": (
        "value",
        "variance",
        "covariance",
        "kernel",
        "kernel_row",
        "limit_kernel",
        "limit_kernel_row",
        "limit_mean",
        "limit_variance",
        "limit_covariance",
    ),
}
# Text columns likewise, where they are gaps.
_TEXTS = {"layers": ("name",)}
_KEYS: dict[str, dict[str, type]] = {
    "modes": {"run_id": str, "step": int, "mode": int},
    "outputs": {"run_id": str, "step": int, "part": str, "input": int, "output": int},
}
_ORDER = {"modes": ("run_id", "step", "time", "mode", "eigenvalue", "residual")}
# Columns of the other tables that every version has written; an empty table has them too.
_ALWAYS: dict[str, dict[str, type]] = {
    "runs": {"status": str, "reason": str, "last_step": int, "step_size": float, "parameters": int, "seconds": float},
    "steps": {
        "step": int,
        **dict.fromkeys(("time", "loss", "test_loss", "kernel_drift", "weight_drift", "output_drift"), float),
    },
    "layers": {"step": int, "layer": int, "weight_drift": float},
}


def empty(table: str) -> pd.DataFrame:
    """Return a table without rows."""
    columns = {"run_id": str, **_ALWAYS.get(table, {})}
    return completed(pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()}), table)


def completed(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the table with all columns of this version. Those of `modes` and `outputs` are put in order."""
    keys = _KEYS.get(table, {})
    missing = {name: pd.Series(dtype=kind) for name, kind in keys.items() if name not in frame}
    missing |= {name: pd.Series(np.nan, frame.index, float) for name in _NUMBERS[table] if name not in frame}
    missing |= {name: pd.Series(None, frame.index, str) for name in _TEXTS.get(table, ()) if name not in frame}
    frame = frame.assign(**missing)
    if table == "layers":  # beside the number
        frame.insert(frame.columns.get_loc("layer") + 1, "name", frame.pop("name"))
    return frame[list(_ORDER.get(table, (*keys, *_NUMBERS[table])))] if keys else frame


def plan_frame(planned: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the plan as a table. A column that holds text for some runs and numbers for others becomes text, since a
    column has one type."""
    frame = pd.DataFrame(planned)
    for name in frame.columns:
        kinds = {type(value) for value in frame[name].dropna()}
        if str in kinds and len(kinds) > 1:
            frame[name] = [
                value if value is None or isinstance(value, str) else json.dumps(value) for value in frame[name]
            ]
    return frame


def concatenated(parts: Sequence[pd.DataFrame | None], table: str) -> pd.DataFrame:
    """Concatenate the parts of a table. A part is None if its stack's version did not know the table."""
    present = [part for part in parts if part is not None] or [empty(table)]
    filled = [part for part in present if len(part)]  # empty parts must not affect a column's type
    return completed(pd.concat(filled or present, ignore_index=True), table)


def equal(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Return True if two tables hold the same values and gaps. The columns' types may differ, as a file may store other
    types."""
    if list(one) != list(other) or len(one) != len(other):
        return False
    pairs = [(one[name], other[name]) for name in one]
    return all(bool(((a == b) | (a.isna() & b.isna())).all()) for a, b in pairs)


def in_order(frame: pd.DataFrame, order: dict[str, int]) -> pd.DataFrame:
    """Return the rows of planned runs in the plan's order. Rows of one run keep their order."""
    rank = frame["run_id"].map(order)
    return frame[rank.notna()].iloc[np.argsort(rank[rank.notna()].to_numpy(), kind="stable")].reset_index(drop=True)
