"""Parts of claims: their interface, and helpers that all kinds share. A part computes estimates for a case and has a
margin in which they are expected."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import Case
from ntkrun.evidence.estimates.estimate import Estimate
from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.evidence.reasons import OK, Reason, Status

OPEN = math.inf  # the end of a margin without an edge
MEASURE_IT = "set probes.detail, or sweep into another --results if these tables are of an earlier version"
Measure = Callable[[float], Estimate]  # returns an estimate with an interval of the given confidence
Applies = Callable[[Case], bool]  # whether a part is about a case


class Part(Protocol):
    """A part of a claim.

    `key` names its margin in a config. `measures` returns (label, measure) pairs for a case: one, or one for each
    layer, for example. It receives the margin that applies, since whether a part can be judged yet may depend on it.
    """

    @property
    def key(self) -> str: ...
    def margin(self, case: Case) -> Interval: ...
    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]: ...


def usable(values: np.ndarray, what: str, needs: str) -> Status:
    """Return whether numbers of runs can be judged: not where there are none, nor where only some are finite. What is
    left out might disagree with the others, so that counts as an impossible value."""
    wrong = int((~np.isfinite(values)).sum())
    if wrong == len(values):
        return Reason.NOT_MEASURED.of(what=what, needs=needs)
    return Reason.IMPOSSIBLE.of(count=wrong, total=len(values), what=what) if wrong else OK


# ---------------------------------------------------------------- columns


def column_of(case: Case, at: float, column: str) -> pd.Series:
    """Return the values of a column of per_run, as `Height.values` needs them."""
    table = case.at(at)
    return table[column] if column in table else pd.Series(dtype=float)


class _Layered(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def layers(self) -> str: ...
    @property
    def applies(self) -> Applies: ...


def columns_in(case: Case, part: _Layered) -> list[tuple[str, str]]:
    """Return the `columns` of a part in a case; none where it is not about the case."""
    return columns(part, case.depth) if part.applies(case) else []


def columns(part: _Layered, depth: int) -> list[tuple[str, str]]:
    """Return the (label, column of per_run) pairs that a part uses: one, or one for each layer."""
    if not part.layers:
        return [(part.key, part.column)]
    last = depth - 1
    layers = {
        "first": [0],
        "hidden": range(1, last),
        "last": [last],
        "inner": range(last),
        "upper": range(1, depth),
        "all": range(depth),
    }[part.layers]
    several = len(layers) > 1
    return [(f"{part.key} {layer}" if several else part.key, f"{part.column}.{layer}") for layer in layers]


# ---------------------------------------------------------------- what a part may be about


def always(case: Case) -> bool:
    """Return True."""
    return True


def without_kinks(case: Case) -> bool:
    """Return True where σ has no kinks."""
    return smoothness(case.runs) != "kinked"


def without_hidden_layers(case: Case) -> bool:
    """Return True for networks of depth 1."""
    return case.depth == 1


def several_outputs(case: Case) -> bool:
    """Return True where outputs are stored, and there are two or more."""
    return bool((case.outputs["output"] > 0).any())


def clips(case: Case) -> bool:
    """Return True where the loss clips gradients."""
    return str(case.first["training.loss"]) == "huber"


def smoothness(runs: pd.DataFrame) -> str:
    """Return whether σ is `smooth`, has a slope with kinks (`C1`), or is `kinked`, according to the runs table; smooth
    if the table is empty. Results of versions that did not tell the last two apart count as kinked."""
    if not len(runs):
        return "smooth"
    known = runs["smoothness"].iloc[0] if "smoothness" in runs else None
    return str(known) if isinstance(known, str) else "smooth" if bool(runs["smooth"].iloc[0]) else "kinked"
