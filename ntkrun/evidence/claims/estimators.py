"""What a claim is made of: parts, each of which turns a case into estimates and says what is expected of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from ntkrun.evidence.claims.conditions import RESOLVED
from ntkrun.evidence.claims.findings import ALL_RUNS, BRACKET, Estimate, few_runs, of_exponent, of_level
from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.intervals import (
    CONFIDENCE,
    Interval,
    at_infinity,
    fit_exponent,
    fit_power_law,
    jackknife_logs,
    level,
    monotonicity,
)

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


# ---------------------------------------------------------------- edge


@dataclass(frozen=True)
class Edge:
    """ηλ_max(K̂_t) beyond which the loss rises: between the largest of runs whose loss never rose, over their whole
    training, and the smallest at which one first did. Where the two overlap, the interval is the overlap."""

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: edge(case.trained))]


def edge(trained: pd.DataFrame) -> Estimate:
    """The edge from per_run of all runs that were trained, diverged ones too."""
    if trained["step_size"].nunique() < 3:
        return Estimate(trouble="fewer than 3 step sizes were tried: sweep training.step_size")
    edges = trained["step_size"] * trained["sharpness"]
    rose = trained["rises"].astype(bool) | (trained["status"] == "diverged")
    calm, restless = edges[~rose].dropna(), edges[rose].dropna()
    if calm.empty or restless.empty:
        what = "the loss rises in no run" if restless.empty else "the loss rises in every run"
        side = "larger" if restless.empty else "smaller"
        return Estimate(trouble=f"{what} (ηλ_max from {edges.min():.3g} to {edges.max():.3g}): try {side} step sizes")
    low, high = sorted((float(calm.max()), float(restless.min())))
    span = (float(edges.min()), float(edges.max()))
    seeds = int(trained["seed"].nunique())
    return Estimate(
        math.sqrt(low * high),
        (low, high),
        span,
        seeds,
        trouble=f"{seeds} seeds; it takes at least 3" if seeds < 3 else "",
        remark=_fates(trained, rose),
        kind=BRACKET,
        cure="step sizes in between would tell",
    )


def _fates(trained: pd.DataFrame, rose: pd.Series) -> str:
    """What became of the runs whose loss rose: some come back to a small loss, with a flatter kernel (a catapult)."""
    diverged = int((trained["status"] == "diverged").sum())
    back = trained[rose & (trained["status"] == "done") & (trained["loss_ratio"] < 1)]
    ends = (back["step_size"] * back["lambda_max_end"]).max()
    catapults = f"{len(back)} of the runs whose loss rose ended below its start"
    return f"{catapults}{f', with ηλ_max at most {ends:.2f}' if len(back) else ''}; {diverged} diverged"


# ---------------------------------------------------------------- vanishing


STILL_FALLING = 0.99  # of the loss at half the steps: what has fallen no further has come to rest


@dataclass(frozen=True)
class Vanishes:
    """The loss at the last step over that at the first, from the smallest to the largest of all runs. A run whose loss
    is above the margin and still falls says nothing yet."""

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: self._measure(case, margin))]

    def _measure(self, case: Case, margin: Interval) -> Estimate:
        ((_, extremes),) = Extremes(self.key, "loss_ratio", self.expected).measures(case, margin)
        found = extremes(CONFIDENCE)
        if found.trouble:
            return found
        table = case.statistics[case.statistics[AT] >= case.smallest]
        above = table[table["loss_ratio"] > margin[1]]
        falling = above[above["late_ratio"] < STILL_FALLING]
        if falling.empty:
            return replace(found, remark=_smallest_eigenvalue(case))
        slowest = falling["late_ratio"].max()
        what = f"{len(falling)} of {len(table)} runs are above {margin[1]:g} and still falling (by a factor"
        return replace(found, trouble=f"{what} {slowest:.3g} in the last half of the steps): more steps")


def _smallest_eigenvalue(case: Case) -> str:
    """λ_min of K̂_0 in words."""
    table = case.statistics
    share = (table["lambda_min_0"] / table["lambda_max_0"]).median()
    dtype = str(case.first["training.dtype"])
    if share < RESOLVED[dtype]:
        return f"λ_min of K̂_0 is 0 to rounding in {dtype} ({share:.0e} λ_max)"
    return f"λ_min of K̂_0 is {table['lambda_min_0'].median():.3g}"
