"""Splits a sweep's runs into cases: runs that differ only in the seed and in the value along one axis."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.intervals import WIDTH, WIDTHS_PER_LAYER
from ntkrun.evidence.estimates.per_run import Tables, done, per_run

AT = "at"  # column of a case's tables that holds the value on the axis


@dataclass(frozen=True)
class Axis:
    """A quantity that a sweep varies and that claims are about.

    `values` returns its value for each run. `keys` are the config keys that may vary along it: at fixed time, twice the
    step size takes half the steps. `paired` is True if runs of one seed start from the same network at every value;
    networks of different widths are independent.
    """

    name: str
    keys: tuple[str, ...]
    values: Callable[[pd.DataFrame], pd.Series]
    further: str  # what brings a sweep closer to the limit that the claims are about
    towards: str = "large"  # the end of the axis where that limit lies: "large" or "small"
    paired: bool = False


def _widths(runs: pd.DataFrame) -> pd.Series:
    """Return the width of each run. Of unequal widths the narrowest layer decides; where that is the same in all runs,
    the widest is what varies."""
    hidden = runs[WIDTH].map(_hidden)
    narrowest = hidden.map(min)
    return (narrowest if narrowest.nunique() > 1 else hidden.map(max)).astype(float)


def _hidden(value: Any) -> list[float]:
    """Return the hidden widths as numbers: of 64, '64' or '[64, 128]' (tables store lists as text). A network without
    hidden layers counts as one of width 0."""
    widths = json.loads(value) if isinstance(value, str) else value
    return [float(width) for width in widths] or [0.0] if isinstance(widths, list | tuple) else [float(widths)]


def _output_scales(runs: pd.DataFrame) -> pd.Series:
    return runs[SCALE].map(_scale).astype(float)


def _scale(value: Any) -> float:
    """Return the number in an output scale: 1.0, "1.0" or '{"centred": 1.0}' (tables store mappings as text)."""
    scale = json.loads(value) if isinstance(value, str) else value
    return float(scale["centred"] if isinstance(scale, dict) else scale)


SCALE, DEPTH = "training.output_scale", "network.depth"
STEP_KEYS = ("training.step_size", "training.steps", "probes.every", "probes.detail")
AXES = {
    "width": Axis("width", (WIDTH,), _widths, "wider networks"),
    "step size": Axis(
        "step size", STEP_KEYS, lambda runs: runs["step_size"], "smaller step sizes", "small", paired=True
    ),
    "depth and width": Axis("width", (WIDTH, DEPTH), _widths, "wider networks"),
    "output scale": Axis("output scale", (SCALE,), _output_scales, "larger output scales", paired=True),
}


@dataclass(frozen=True)
class Case:
    """Runs that differ only in the seed and in their value along the axis.

    `settings` are the values of everything else that the sweep varies. `plan` holds the planned runs and `runs` those
    that have ended, each with its value on the axis in the column `at`.
    """

    axis: Axis
    settings: dict[str, Any]
    plan: pd.DataFrame
    runs: pd.DataFrame
    trained: pd.DataFrame  # per_run of the runs
    tables: Tables

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """The rows of `trained` whose run reached its last step."""
        return done(self.trained)

    @cached_property
    def outputs(self) -> pd.DataFrame:
        """The outputs table of the case's finished runs, with the columns `at` and `seed`."""
        return self._of_finished_runs(self.tables.outputs)

    @cached_property
    def modes(self) -> pd.DataFrame:
        """The modes table of the case's finished runs, with the columns `at` and `seed`."""
        return self._of_finished_runs(self.tables.modes)

    @property
    def first(self) -> pd.Series:
        """The first planned run, which has the settings that all runs of the case share."""
        return self.plan.iloc[0]

    @property
    def depth(self) -> int:
        return int(self.first["network.depth"])

    @property
    def smallest(self) -> float:
        """The smallest value of the axis that enters a fit. Without hidden layers no width matters."""
        return WIDTHS_PER_LAYER * self.depth if self.axis is AXES["width"] and self.depth > 1 else 0.0

    @property
    def widest(self) -> float:
        """The largest value of the axis among finished runs; nan if no run is finished."""
        return float(self.statistics[AT].max()) if len(self.statistics) else float("nan")

    def at(self, value: float) -> pd.DataFrame:
        return self.statistics[self.statistics[AT] == value]

    def _of_finished_runs(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.merge(self.statistics[["run_id", "seed", AT]], on="run_id")


def cases(tables: Tables, axis: Axis) -> Iterator[Case]:
    """Yield the cases of a sweep along an axis, in the order of its plan."""
    values = axis.values(tables.plan.merge(_step_sizes(tables), on="run_id", how="left"))
    plan = tables.plan.assign(**{AT: values.to_numpy()})  # by position: rows may be those that a caller has selected
    trained = per_run(tables.runs, tables.steps, tables.layers).merge(plan[["run_id", AT]], on="run_id")
    runs = tables.runs.merge(plan[["run_id", AT]], on="run_id")
    for settings, part in split(plan, axis.keys):
        ids = part["run_id"]
        yield Case(axis, settings, part, runs[runs["run_id"].isin(ids)], trained[trained["run_id"].isin(ids)], tables)


def split(plan: pd.DataFrame, without: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the parts of the plan with equal config values, each with its values. The keys `without`, and keys that do
    not vary, are ignored."""
    varied = [name for name in plan.columns if "." in name and name not in without and _varies(plan[name])]
    if not varied:
        yield {}, plan
        return
    for values, part in plan.groupby(varied, sort=False, dropna=False):
        yield {name: plain(value) for name, value in zip(varied, values, strict=True) if not pd.isna(value)}, part


def settings_text(settings: dict[str, Any]) -> str:
    """Return the settings as text, such as 'activation relu, depth 4', or '' if nothing varies."""
    return ", ".join(
        f"{key.split('.', 1)[-1].replace('_', ' ')} {value_text(value)}" for key, value in settings.items()
    )


EVERY_NETWORK = {"architecture", "depth", "width", "activation", "beta", "weight_scale", "parametrization"}  # its keys


def architecture_text(network: Mapping[str, Any]) -> str:
    """Return the architecture of a config's section `network` with the keys that only its networks have, as in
    'residual, skip 0.5', or '' for a dense one. Results of versions without other architectures do not name theirs."""
    name = value_text(network.get("architecture", "dense"))
    own = {key: value for key, value in network.items() if key not in EVERY_NETWORK}
    shown = settings_text({key: f"{value:g}" if isinstance(value, float) else value for key, value in own.items()})
    return "" if name == "dense" else ", ".join(filter(None, (name, shown)))


def value_text(value: Any) -> str:
    """Return a config value as text: '0.1 (centred)' for '{"centred": 0.1}', 'mean field' for 'mean_field'."""
    mapping = re.fullmatch(r'\{"(\w+)": ([^{}]*)\}', str(value))
    return f"{mapping.group(2)} ({mapping.group(1)})" if mapping else str(value).replace("_", " ")


def _varies(column: pd.Series) -> bool:
    return bool(column.nunique(dropna=False) > 1)


def _step_sizes(tables: Tables) -> pd.DataFrame:
    """Return the step size η of each run in the runs table; runs that have not ended have none yet."""
    return tables.runs[["run_id", "step_size"]]


def plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python value, other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value
