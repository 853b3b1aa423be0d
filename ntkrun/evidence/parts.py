"""What a claim is made of: parts, each of which turns a case into estimates and says what is expected of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from ntkrun.evidence.cases import AT, Case
from ntkrun.evidence.estimates import (
    Interval,
    at_infinity,
    fit_exponent,
    fit_power_law,
    jackknife_logs,
    level,
    monotonicity,
)
from ntkrun.evidence.judging import ALL_RUNS, Estimate, few_runs, of_exponent, of_level

Measure = Callable[[float], Estimate]  # an estimate with an interval of this confidence


class Part(Protocol):
    """A part of a claim. `key` names its margin in a config; `measures` are the estimates it makes of a case (one a
    layer, say), each under its label; the margin that it will be held to may bear on whether it can be judged yet."""

    @property
    def key(self) -> str: ...
    def margin(self, case: Case) -> Interval: ...
    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]: ...


@dataclass(frozen=True)
class Slope:
    """The exponent along the axis of a number that each run gives: a column of per_run, or one a layer.

    `kinked` is the margin for σ with kinks, whose gates flip, where it differs. `layers`: "", or which of a column's
    layers: first, hidden, last, inner (all but the last).
    """

    key: str
    column: str
    smooth: Interval
    kinked: Interval | None = None
    layers: str = ""
    needs: str = "it is not in the tables"

    def margin(self, case: Case) -> Interval:
        return self.margin_for(is_smooth(case.runs))

    def margin_for(self, smooth: bool) -> Interval:
        return self.smooth if self.kinked is None or smooth else self.kinked

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(label, self._measure(case, column)) for label, column in columns(self, case.depth)]

    def _measure(self, case: Case, column: str) -> Measure:
        def measure(confidence: float) -> Estimate:
            table = case.statistics
            if column not in table or table[column].isna().all():
                return Estimate(trouble=f"{column} was not measured: {self.needs}")
            pairs = table["seed"] if case.axis.paired else None
            found = fit_exponent(table[AT], table[column], case.smallest, confidence, pairs, case.axis.towards)
            estimate = of_exponent(found, case.axis.further)
            if not estimate.curved:
                return estimate
            tau, p = monotonicity(table[AT], table[column])
            chance = "" if case.axis.paired else f" (p = {p:.1g})"  # runs of one seed are not independent
            return replace(estimate, remark=f"Kendall's τ with the {case.axis.name} is {tau:.2f}{chance}")

        return measure


@dataclass(frozen=True)
class Pooled:
    """The exponent along the axis of a statistic that all seeds give together, such as a variance: its logarithm with
    jackknife replicates. `sample` is the table that the statistic is made of, indexed by seed."""

    key: str
    expected: Interval
    sample: Callable[[Case, float], pd.DataFrame]
    statistic: Callable[[pd.DataFrame], float]
    needs: str
    remark: Callable[[Case, float], str] = lambda case, at: ""  # on the seeds at the largest value

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda confidence: self._measure(case, confidence))]

    def _measure(self, case: Case, confidence: float) -> Estimate:
        logs, seeds = {}, {}
        for at in map(float, sorted(case.statistics[AT].unique())):
            sample = self.sample(case, at)
            if sample.empty:
                return Estimate(trouble=f"not measured: {self.needs}")
            if at >= case.smallest:
                logs[at], seeds[at] = jackknife_logs(sample, self.statistic), int(sample.index.nunique())
        unseen = [f"{at:g}" for at, found in logs.items() if not len(found)]
        if unseen:
            return Estimate(
                trouble=f"not told from zero at {', '.join(unseen)}: needs more seeds, or narrower networks"
            )
        found = of_exponent(fit_power_law(logs, confidence=confidence), case.axis.further)
        # The replicates are blocks of seeds.
        return replace(found, seeds=min(seeds.values(), default=0), remark=self.remark(case, case.widest))


@dataclass(frozen=True)
class Height:
    """The mean over seeds, at the largest value of the axis, of a number that each run gives. `drifts`: at finite
    width it is off by more than its noise, so that one still on its way to the margin is not held against it."""

    key: str
    expected: Interval
    values: Callable[[Case, float, str], Sequence[float] | pd.Series]
    layers: str = ""
    column: str = ""
    needs: str = "it is not in the tables"
    drifts: bool = False

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(label, self._measure(case, column)) for label, column in columns(self, case.depth)]

    def _measure(self, case: Case, column: str) -> Measure:
        def measure(confidence: float) -> Estimate:
            *narrower, widest = [float(at) for at in sorted(case.statistics[AT].unique())] or [math.nan]
            values = self._values(case, widest, column)
            if not len(values):
                return Estimate(trouble=f"not measured: {self.needs}")
            estimate = of_level(level(values, confidence), widest)
            if not (self.drifts and narrower and case.axis.name == "width"):
                return estimate
            before = narrower[-1], self._values(case, narrower[-1], column)
            return replace(estimate, limit=at_infinity(before, (widest, values), confidence))

        return measure

    def _values(self, case: Case, at: float, column: str) -> np.ndarray:
        values = np.asarray(self.values(case, at, column), dtype=float)
        return values[np.isfinite(values)]


@dataclass(frozen=True)
class Extremes:
    """A number that each run gives, from its smallest to its largest over all runs: what holds of every seed."""

    key: str
    column: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: self._measure(case))]

    def _measure(self, case: Case) -> Estimate:
        table = case.statistics[case.statistics[AT] >= case.smallest]
        values = table[self.column].dropna() if self.column in table else pd.Series(dtype=float)
        if values.empty:
            return Estimate(trouble=f"no finished run of at least {case.smallest:g} has {self.column}")
        seeds = int(table.groupby(AT).size().min())
        return Estimate(
            float(values.median()),
            _range(values),
            _range(table[AT]),
            seeds,
            trouble=few_runs(seeds),
            kind=ALL_RUNS,
            cure="some runs lie within and some do not, which more seeds cannot change: more steps may",
        )


def column_of(case: Case, at: float, column: str) -> pd.Series:
    """`Height.values` of a column of per_run."""
    table = case.at(at)
    return table[column] if column in table else pd.Series(dtype=float)


def is_smooth(runs: pd.DataFrame) -> bool:
    """Whether σ has a derivative everywhere; the runs table says so."""
    return bool(runs["smooth"].iloc[0]) if len(runs) else True


class _Layered(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def layers(self) -> str: ...


def columns(part: _Layered, depth: int) -> list[tuple[str, str]]:
    """(label, column of per_run) of what a part looks at: one, or one a layer."""
    if not part.layers:
        return [(part.key, part.column)]
    last = depth - 1
    which = {"first": [0], "hidden": range(1, last), "last": [last], "inner": range(last)}[part.layers]
    many = len(which) > 1
    return [(f"{part.key} {layer}" if many else part.key, f"{part.column}.{layer}") for layer in which]


def _range(values: pd.Series) -> Interval:
    return float(values.min()), float(values.max())


OPEN = math.inf
