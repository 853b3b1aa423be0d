"""The tables of a sweep: how they are made complete and put together."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.columns import ID, TABLES, TEXT, WHOLE

_TYPES: dict[str, type] = {ID: str, TEXT: str, WHOLE: int}  # other kinds are stored as float where all is missing


def empty(table: str) -> pd.DataFrame:
    """Return a table without rows."""
    return completed(pd.DataFrame(), table)


def completed(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the table with all its columns in the order of their declarations. Columns that it lacked are nan, or gaps
    if they are text. Columns that are not declared, such as config values, follow the run's id."""
    columns = TABLES[table]
    first, *rest = columns
    order = [first, *(name for name in frame if name not in columns), *rest]
    if order == list(frame):
        return frame
    missing = {
        name: pd.Series(None, frame.index, _TYPES.get(column.kind, float))
        for name, column in columns.items()
        if name not in frame
    }
    return frame.assign(**missing)[order]


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
