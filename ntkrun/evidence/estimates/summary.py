"""The closing table of a sweep as plain data: levels at every width, exponents over the widths."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ntkrun.evidence.estimates.cases import settings_text, split
from ntkrun.evidence.estimates.intervals import WIDTH, WIDTHS_PER_LAYER, Exponent, Level, fit_exponent, level
from ntkrun.evidence.estimates.per_run import done, per_run

LEVELS = ("loss", "loss_ratio", "kernel_drift", "weight_drift")


@dataclass(frozen=True)
class WidthRow:
    """One width of a group: how many runs ended how, and the level of each quantity over those that are done."""

    width: Any
    done: int
    diverged: int
    failed: int
    levels: dict[str, Level]


@dataclass(frozen=True)
class Group:
    """Runs that differ in width and seed alone. `settings` are the values of what else the sweep varies."""

    settings: dict[str, Any]
    runs: pd.DataFrame  # the group's rows of runs.parquet, whatever their status
    statistics: pd.DataFrame  # per_run of those that are done
    rows: list[WidthRow]
    exponents: dict[str, Exponent]  # of kernel_drift, linear_gap, weight_drift and weight_drift.<layer>

    @property
    def label(self) -> str:
        """'activation relu, depth 4', or '' when the sweep varies nothing but the width."""
        return settings_text(self.settings)

    @property
    def has_widths(self) -> bool:
        """Whether there is a width to plot against: at least two, each a number."""
        return bool(pd.api.types.is_numeric_dtype(self.runs[WIDTH]) and self.runs[WIDTH].nunique() > 1)


def groups(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame) -> list[Group]:
    """The groups of a sweep, in the order of its plan."""
    if runs.empty:
        return []
    statistics = done(per_run(runs, steps, layers))
    return [_group(settings, part, statistics) for settings, part in split(runs, (WIDTH,))]


def _group(settings: dict[str, Any], runs: pd.DataFrame, statistics: pd.DataFrame) -> Group:
    of_group = statistics[statistics["run_id"].isin(runs["run_id"])]
    rows = []
    for width, part in runs.groupby(WIDTH, sort=True):
        done = of_group[of_group[WIDTH] == width]
        levels = {name: level(done[name]) for name in LEVELS}
        diverged, failed = (int((part["status"] == status).sum()) for status in ("diverged", "failed"))
        rows.append(WidthRow(width, len(done), diverged, failed, levels))
    return Group(settings, runs, of_group, rows, _exponents(runs, of_group))


def _exponents(runs: pd.DataFrame, statistics: pd.DataFrame) -> dict[str, Exponent]:
    moved = (statistics["weight_drift"] > 0).any()  # networks that were not trained have changes of rounding alone
    if not moved or not pd.api.types.is_numeric_dtype(runs[WIDTH]):
        return {}
    depth = int(runs["network.depth"].iloc[0])
    names = ("kernel_drift", "linear_gap")
    drifts = [name for name in statistics.columns if name in names or _is_weight_drift(name)]
    # A column of layers that only deeper networks of the sweep have is empty here.
    return {
        name: fit_exponent(statistics[WIDTH], statistics[name], WIDTHS_PER_LAYER * depth)
        for name in drifts
        if statistics[name].notna().any()
    }


def _is_weight_drift(name: str) -> bool:
    return name == "weight_drift" or name.startswith("weight_drift.")
