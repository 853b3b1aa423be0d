"""The summary table of a sweep as plain data: levels at every width and exponents over the widths."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ntkrun.evidence.estimates.cases import settings_text, split
from ntkrun.evidence.estimates.intervals import WIDTH, WIDTHS_PER_LAYER, Exponent, Level, fit_exponent, level
from ntkrun.evidence.estimates.per_run import done, per_run

LEVELS = ("loss", "loss_ratio", "kernel_drift", "weight_drift")


@dataclass(frozen=True)
class WidthRow:
    """One width of a group: how many runs are done, diverged and failed, and the level of each quantity over those that
    are done."""

    width: Any
    done: int
    diverged: int
    failed: int
    levels: dict[str, Level]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in width and seed. `settings` are the values of everything else that the sweep varies."""

    settings: dict[str, Any]
    runs: pd.DataFrame  # the group's rows of runs.parquet, whatever their status
    statistics: pd.DataFrame  # per_run of the runs that are done
    rows: list[WidthRow]
    exponents: dict[str, Exponent]  # of kernel_drift, linear_gap, weight_drift and weight_drift.<layer>
    layers: dict[int, str]  # the names of the layers, '' in results of earlier versions

    @property
    def label(self) -> str:
        """The settings as text, such as 'activation relu, depth 4', or '' if the sweep varies only the width."""
        return settings_text(self.settings)

    @property
    def has_widths(self) -> bool:
        """True if the group can be plotted against the width: at least two widths, each a number."""
        return bool(pd.api.types.is_numeric_dtype(self.runs[WIDTH]) and self.runs[WIDTH].nunique() > 1)


def groups(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame) -> list[Group]:
    """Return the groups of a sweep, in the order of its plan."""
    if runs.empty:
        return []
    statistics = done(per_run(runs, steps, layers))
    named = layers.reindex(columns=["run_id", "layer", "name"])
    return [_group(settings, part, statistics, named) for settings, part in split(runs, (WIDTH,))]


def _group(settings: dict[str, Any], runs: pd.DataFrame, statistics: pd.DataFrame, layers: pd.DataFrame) -> Group:
    group_statistics = statistics[statistics["run_id"].isin(runs["run_id"])]
    rows = []
    for width, part in runs.groupby(WIDTH, sort=True):
        finished = group_statistics[group_statistics[WIDTH] == width]
        levels = {name: level(finished[name]) for name in LEVELS}
        diverged, failed = (int((part["status"] == status).sum()) for status in ("diverged", "failed"))
        rows.append(WidthRow(width, len(finished), diverged, failed, levels))
    names = layers[layers["run_id"].isin(runs["run_id"])].drop_duplicates("layer")
    by_layer = {
        int(l): name if isinstance(name, str) else "" for l, name in zip(names["layer"], names["name"], strict=True)
    }
    return Group(settings, runs, group_statistics, rows, _exponents(runs, group_statistics), by_layer)


def _exponents(runs: pd.DataFrame, statistics: pd.DataFrame) -> dict[str, Exponent]:
    trained = (statistics["weight_drift"] > 0).any()  # networks that were not trained change only by rounding
    if not trained or not pd.api.types.is_numeric_dtype(runs[WIDTH]):
        return {}
    depth = int(runs["network.depth"].iloc[0])
    names = ("kernel_drift", "linear_gap")
    drifts = [name for name in statistics.columns if name in names or _is_weight_drift(name)]
    # The columns of layers that only deeper networks of the sweep have are empty in this group.
    return {
        name: fit_exponent(statistics[WIDTH], statistics[name], WIDTHS_PER_LAYER * depth)
        for name in drifts
        if statistics[name].notna().any()
    }


def _is_weight_drift(name: str) -> bool:
    return name == "weight_drift" or name.startswith("weight_drift.")
