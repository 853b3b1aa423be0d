"""A sweep's runs cut into cases: those that differ along one axis and in seed alone."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.intervals import WIDTH, WIDTHS_PER_LAYER
from ntkrun.evidence.estimates.per_run import Tables, done, per_run

AT = "at"  # the column of a case's tables that holds the value on the axis


@dataclass(frozen=True)
class Axis:
    """Something that a sweep varies and claims are made about. `values` reads it from runs; `keys` are the config keys
    that may vary along it (at fixed time, twice the step size takes half the steps). `paired`: runs of one seed start
    from the same network at every value; networks of different widths are independent."""

    name: str
    keys: tuple[str, ...]
    values: Callable[[pd.DataFrame], pd.Series]
    further: str  # along it lies the limit that claims speak of
    towards: str = "large"
    paired: bool = False


def _widths(runs: pd.DataFrame) -> pd.Series:
    return pd.to_numeric(runs[WIDTH], errors="coerce")


def _output_scales(runs: pd.DataFrame) -> pd.Series:
    return runs[SCALE].map(_scale).astype(float)


def _scale(value: Any) -> float:
    """1.0, "1.0" or '{"centred": 1.0}': tables hold mappings as text."""
    found = json.loads(value) if isinstance(value, str) else value
    return float(found["centred"] if isinstance(found, dict) else found)


SCALE = "training.output_scale"
STEP_KEYS = ("training.step_size", "training.steps", "probes.every", "probes.detail")
AXES = {
    "width": Axis("width", (WIDTH,), _widths, "wider networks"),
    "step size": Axis("step size", STEP_KEYS, lambda runs: runs["step_size"], "smaller steps", "small", paired=True),
    "output scale": Axis("output scale", (SCALE,), _output_scales, "larger scales", paired=True),
}


@dataclass(frozen=True)
class Case:
    """Runs that differ along the axis and in seed alone. `settings` are the values of what else the sweep varies;
    `plan` and `runs` the planned and the trained ones, with their value on the axis as `at`."""

    axis: Axis
    settings: dict[str, Any]
    plan: pd.DataFrame
    runs: pd.DataFrame
    trained: pd.DataFrame  # per_run of them
    tables: Tables

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """per_run of the runs that reached their last step."""
        return done(self.trained)

    @cached_property
    def outputs(self) -> pd.DataFrame:
        """The outputs table of the case's finished runs, with `at` and `seed`."""
        return self._of(self.tables.outputs)

    @cached_property
    def modes(self) -> pd.DataFrame:
        """The modes table of the case's finished runs, with `at` and `seed`."""
        return self._of(self.tables.modes)

    @property
    def first(self) -> pd.Series:
        """A planned run, for what all of them have in common."""
        return self.plan.iloc[0]

    @property
    def depth(self) -> int:
        return int(self.first["network.depth"])

    @property
    def smallest(self) -> float:
        """The smallest value of the axis that a power law may be fitted from."""
        return WIDTHS_PER_LAYER * self.depth if self.axis.name == "width" else 0.0

    @property
    def widest(self) -> float:
        """The largest value of the axis that a finished run has; nan if none has."""
        return float(self.statistics[AT].max()) if len(self.statistics) else float("nan")

    def at(self, value: float) -> pd.DataFrame:
        return self.statistics[self.statistics[AT] == value]

    def _of(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.merge(self.statistics[["run_id", "seed", AT]], on="run_id")


def cases(tables: Tables, axis: Axis) -> Iterator[Case]:
    """The cases of a sweep along an axis, in the order of its plan."""
    plan = tables.plan.assign(**{AT: axis.values(tables.plan.merge(_step_sizes(tables), on="run_id", how="left"))})
    trained = per_run(tables.runs, tables.steps, tables.layers).merge(plan[["run_id", AT]], on="run_id")
    runs = tables.runs.merge(plan[["run_id", AT]], on="run_id")
    for settings, part in split(plan, axis.keys):
        ids = part["run_id"]
        yield Case(axis, settings, part, runs[runs["run_id"].isin(ids)], trained[trained["run_id"].isin(ids)], tables)


def split(plan: pd.DataFrame, without: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The plan by the config values that it varies, but for those of the keys `without`, with these values."""
    varied = [name for name in plan.columns if "." in name and name not in without and _varies(plan[name])]
    if not varied:
        yield {}, plan
        return
    for values, part in plan.groupby(varied, sort=False, dropna=False):
        yield {name: _plain(value) for name, value in zip(varied, values, strict=True) if not pd.isna(value)}, part


def settings_text(settings: dict[str, Any]) -> str:
    """'activation relu, depth 4', or '' when nothing varies."""
    return ", ".join(
        f"{key.split('.', 1)[-1].replace('_', ' ')} {value_text(value)}" for key, value in settings.items()
    )


def value_text(value: Any) -> str:
    """A value of a config in words: '0.1 (centred)' of '{"centred": 0.1}', 'mean field' of 'mean_field'."""
    found = re.fullmatch(r'\{"(\w+)": ([^{}]*)\}', str(value))
    return f"{found.group(2)} ({found.group(1)})" if found else str(value).replace("_", " ")


def _varies(column: pd.Series) -> bool:
    return bool(column.nunique(dropna=False) > 1)


def _step_sizes(tables: Tables) -> pd.DataFrame:
    """η is known of runs that were trained."""
    return tables.runs[["run_id", "step_size"]]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
