"""The parts that claims are made of. Each computes estimates for a case and has a margin in which they are expected."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates import ensembles
from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.estimate import (
    ALL_RUNS,
    BRACKET,
    Estimate,
    enough_runs,
    listed,
    of_exponent,
    of_level,
)
from ntkrun.evidence.estimates.intervals import (
    CONFIDENCE,
    Interval,
    at_infinity,
    fit_exponent,
    fit_limit,
    fit_power_law,
    jackknife_logs,
    level,
    monotonicity,
)
from ntkrun.evidence.reasons import Reason

# The share of λ_max below which an eigenvalue of a kernel in that precision is zero to rounding.
RESOLVED = {"float32": 1e-6, "float64": 1e-14}
MEASURE_IT = "set probes.detail, or sweep into another --results if these tables are of an earlier version"
Measure = Callable[[float], Estimate]  # returns an estimate with an interval of the given confidence


class Part(Protocol):
    """A part of a claim.

    `key` names its margin in a config. `measures` returns (label, measure) pairs for a case: one, or one for each
    layer, for example. It receives the margin that applies, since whether a part can be judged yet may depend on it.
    """

    @property
    def key(self) -> str: ...
    def margin(self, case: Case) -> Interval: ...
    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]: ...


Applies = Callable[[Case], bool]  # whether a part is about a case
Replicates = Callable[[Case, float, str], Sequence[float] | pd.Series | np.ndarray]


def always(case: Case) -> bool:
    return True


def without_kinks(case: Case) -> bool:
    return smoothness(case.runs) != "kinked"


def without_hidden_layers(case: Case) -> bool:
    return case.depth == 1


def several_outputs(case: Case) -> bool:
    return bool((case.outputs["output"] > 0).any())


def clips(case: Case) -> bool:
    """Return True where the loss clips gradients."""
    return str(case.first["training.loss"]) == "huber"


@dataclass(frozen=True)
class Slope:
    """The exponent along the axis of a number that each run gives: a column of per_run, or one column per layer.

    `c1` and `kinked` are the margins for σ whose slope has kinks, and for σ with kinks, whose gates flip, where they
    differ. `layers` is "" or selects the layers of a column: first, hidden, last, inner (all but the last), upper (all
    but the first) or all. With `pooled`, the number for σ with kinks is the root mean square over seeds, since only
    gates that flip contribute.

    A value that is 0 or not finite has no logarithm. Where some runs have one, the part is not judged without them: it
    is refuted, because sound runs have none.
    """

    key: str
    column: str
    smooth: Interval
    kinked: Interval | None = None
    c1: Interval | None = None
    layers: str = ""
    needs: str = MEASURE_IT
    pooled: bool = False
    applies: Applies = always

    def margin(self, case: Case) -> Interval:
        return self.margin_for(smoothness(case.runs))

    def margin_for(self, smoothness: str) -> Interval:
        margins = {"smooth": self.smooth, "C1": self.c1 or self.smooth, "kinked": self.kinked or self.smooth}
        return margins[smoothness]

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        if not self.applies(case):
            return []
        return [(label, self._measure(case, column)) for label, column in columns(self, case.depth)]

    def _measure(self, case: Case, column: str) -> Measure:
        def measure(confidence: float) -> Estimate:
            table = case.statistics
            if column not in table or table[column].isna().all():
                return Estimate(status=Reason.NOT_MEASURED.of(what=column, needs=self.needs))
            table = table[table[AT] >= case.smallest]
            wrong = int((~(np.isfinite(table[column]) & (table[column] > 0))).sum())
            if wrong:
                return Estimate(status=Reason.IMPOSSIBLE.of(count=wrong, total=len(table), what=column))
            if self.pooled and smoothness(case.runs) == "kinked":
                return _exponent_of_pooled(case, column, confidence)
            pairs = table["seed"] if case.axis.paired else None
            exponent = fit_exponent(table[AT], table[column], case.smallest, confidence, pairs, case.axis.towards)
            estimate = of_exponent(exponent, case.axis.further)
            if estimate.asymptotic:
                return estimate
            tau, p = monotonicity(table[AT], table[column])
            p_text = "" if case.axis.paired else f" (p = {p:.1g})"  # p assumes independence, which paired runs lack
            return replace(estimate, remark=f"Kendall's τ with the {case.axis.name} is {tau:.2f}{p_text}")

        return measure


def _exponent_of_pooled(case: Case, column: str, confidence: float) -> Estimate:
    """Return the exponent of the root mean square of a column over seeds."""
    logs, seeds = {}, {}
    for at in map(float, sorted(case.statistics[AT].unique())):
        sample = case.at(at).set_index("seed")[[column]]
        logs[at] = jackknife_logs(sample, lambda part: float(np.sqrt(np.square(part[column]).mean())))
        seeds[at] = len(sample)
    exponent = fit_power_law(logs, case.smallest, confidence, towards=case.axis.towards)
    return replace(of_exponent(exponent, case.axis.further), seeds=min(seeds.values(), default=0))


@dataclass(frozen=True)
class Pooled:
    """The exponent along the axis of a statistic that all seeds give together, such as a variance. It is fitted to
    jackknife replicates of the logarithm. `sample` returns the table that the statistic is computed from, indexed by
    seed."""

    key: str
    expected: Interval
    sample: Callable[[Case, float], pd.DataFrame]
    statistic: Callable[[pd.DataFrame], float]
    needs: str
    remark: Callable[[Case, float], str] = lambda case, at: ""  # about the seeds at the largest value of the axis

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda confidence: self._measure(case, confidence))]

    def _measure(self, case: Case, confidence: float) -> Estimate:
        logs, seeds = {}, {}
        for at in map(float, sorted(case.statistics[AT].unique())):
            sample = self.sample(case, at)
            if sample.empty:
                return Estimate(status=Reason.NOT_MEASURED.of(what=self.key, needs=self.needs))
            if at >= case.smallest:
                logs[at], seeds[at] = jackknife_logs(sample, self.statistic), int(sample.index.nunique())
        unresolved = [at for at, replicates in logs.items() if not len(replicates)]
        if unresolved:
            names = {"what": self.key, "axis": case.axis.name, "values": listed(unresolved)}
            return Estimate(status=Reason.INDISTINCT.of(**names))
        estimate = of_exponent(fit_power_law(logs, confidence=confidence), case.axis.further)
        # Replicates are blocks of seeds, so the seeds are counted separately.
        return replace(estimate, seeds=min(seeds.values(), default=0), remark=self.remark(case, case.widest))


@dataclass(frozen=True)
class Height:
    """The mean over seeds, at the largest value of the axis, of a number that each run gives. `where` is the place on
    the axis: widest, narrowest or each, for a part at every value.

    `values` returns these numbers, or where `pooled` replicates whose mean is a statistic of all seeds. `drifts` is
    True if the number is off by more than its noise at finite width. A value outside the margin is then not refuted
    while it may still reach the margin in wider networks."""

    key: str
    expected: Interval
    values: Replicates
    layers: str = ""
    column: str = ""
    needs: str = MEASURE_IT
    drifts: bool = False
    where: str = "widest"
    pooled: bool = False
    applies: Applies = always

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        if not self.applies(case):
            return []
        labelled = columns(self, case.depth)
        every = [float(at) for at in sorted(case.statistics[AT].unique())] or [math.nan]
        if self.where == "each":
            places: list[tuple[str, float | None]] = [(f" at {at:g}", at) for at in every]
        else:
            places = [("", {"widest": every[-1], "narrowest": every[0], "all": None}[self.where])]
        return [
            (f"{label}{place}", self._measure(case, column, at, every))
            for label, column in labelled
            for place, at in places
        ]

    def _measure(self, case: Case, column: str, at: float | None, every: Sequence[float]) -> Measure:
        def measure(confidence: float) -> Estimate:
            places = every if at is None else [at]
            values = np.concatenate([self._values(case, place, column) for place in places])
            wrong = int((~np.isfinite(values)).sum())
            if wrong == len(values):
                return Estimate(status=Reason.NOT_MEASURED.of(what=self.key, needs=self.needs))
            if wrong:
                return Estimate(status=Reason.IMPOSSIBLE.of(count=wrong, total=len(values), what=self.key))
            estimate = of_level(level(values, confidence), places[-1])
            if self.pooled:  # replicates are blocks of seeds
                estimate = replace(estimate, seeds=sum(len(case.at(place)) for place in places))
            if at is None:
                return replace(estimate, fit_range=(every[0], every[-1]), at=" in all")
            if not (self.drifts and len(every) > 1 and case.axis.name == "width"):
                return estimate
            second_widest = every[-2], self._values(case, every[-2], column)
            return replace(estimate, limit=at_infinity(second_widest, (at, values), confidence))

        return measure

    def _values(self, case: Case, at: float, column: str) -> np.ndarray:
        return np.asarray(self.values(case, at, column), dtype=float)


@dataclass(frozen=True)
class Ensemble:
    """A `Height` of trained networks on test inputs, at each step after the start whose outputs are stored. `law` is
    what they are compared with: LIMIT or NNGP of ensembles.py."""

    key: str
    expected: Interval
    statistic: Callable[[Case, float, str, str], pd.Series]
    law: str = ensembles.LIMIT
    needs: str = MEASURE_IT

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        steps = [str(step) for step in ensembles.kept_steps(case)] or [""]
        return [
            (f"{self.key}, step {step}" if step else self.key, self._at(step).measures(case, margin)[0][1])
            for step in steps
        ]

    def _at(self, step: str) -> Height:
        def values(case: Case, at: float, column: str) -> pd.Series:
            return self.statistic(case, at, step, self.law)

        return Height(self.key, self.expected, values, needs=self.needs)


CORRECTIONS: dict[str, Callable[[float], float]] = {"large": lambda at: 1 / at, "small": lambda at: at}


@dataclass(frozen=True)
class Limit:
    """The value to which a number tends at the end of the axis, by a straight line in 1/n (or in η): a mean over seeds,
    or a statistic of all seeds by its jackknife replicates. Unlike an exponent, it sees a constant factor."""

    key: str
    expected: Interval
    values: Replicates
    layers: str = ""
    column: str = ""
    needs: str = MEASURE_IT
    applies: Applies = always

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        if not self.applies(case):
            return []
        return [(label, self._measure(case, column)) for label, column in columns(self, case.depth)]

    def _measure(self, case: Case, column: str) -> Measure:
        def measure(confidence: float) -> Estimate:
            every = [float(at) for at in sorted(case.statistics[AT].unique()) if at >= case.smallest]
            replicates = {at: np.asarray(self.values(case, at, column), dtype=float) for at in every}
            replicates = {at: values for at, values in replicates.items() if np.isfinite(values).any()}
            if not replicates:
                return Estimate(status=Reason.NOT_MEASURED.of(what=self.key, needs=self.needs))
            wrong = sum(int((~np.isfinite(values)).sum()) for values in replicates.values())
            if wrong:
                total = sum(map(len, replicates.values()))
                return Estimate(status=Reason.IMPOSSIBLE.of(count=wrong, total=total, what=self.key))
            if len(replicates) < 3:
                return Estimate(status=Reason.FEW_VALUES.of(values=listed(replicates)))
            few = [at for at, values in replicates.items() if len(values) < 3]
            if few:
                return Estimate(status=Reason.FEW_SEEDS.of(values=listed(few)))
            limit = fit_limit(replicates, CORRECTIONS[case.axis.towards], confidence)
            seeds = min(len(case.at(at)) for at in limit.counts)
            return Estimate(limit.value, limit.interval, limit.fit_range, seeds, at=" at each value")

        return measure


@dataclass(frozen=True)
class Extremes:
    """The range, from the smallest to the largest over all runs, of a number that each run gives. Used for claims about
    every seed, and for identities."""

    key: str
    column: str
    expected: Interval
    applies: Applies = always

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: self._measure(case))] if self.applies(case) else []

    def _measure(self, case: Case) -> Estimate:
        table = case.statistics[case.statistics[AT] >= case.smallest]
        values = table[self.column].dropna() if self.column in table else pd.Series(dtype=float)
        if values.empty:
            needs = f"no finished run at {case.axis.name} {case.smallest:g} or more has it: add such values"
            return Estimate(status=Reason.NOT_MEASURED.of(what=self.column, needs=needs))
        seeds = int(table.groupby(AT).size().min())
        return Estimate(
            float(values.median()),
            _range(values),
            _range(table[AT]),
            seeds,
            enough_runs(seeds),
            kind=ALL_RUNS,
            remedy=Reason.MIXED_RUNS.of(),
        )


def column_of(case: Case, at: float, column: str) -> pd.Series:
    """Return the values of a column of per_run, as `Height.values` needs them."""
    table = case.at(at)
    return table[column] if column in table else pd.Series(dtype=float)


def squared_column_of(case: Case, at: float, column: str) -> pd.Series:
    """Return the squares of a column of per_run."""
    return column_of(case, at, column) ** 2


def smoothness(runs: pd.DataFrame) -> str:
    """Return whether σ is `smooth`, has a slope with kinks (`C1`), or is `kinked`, according to the runs table; smooth
    if the table is empty. Results of versions that did not tell the last two apart count as kinked."""
    if not len(runs):
        return "smooth"
    known = runs["smoothness"].iloc[0] if "smoothness" in runs else None
    return str(known) if isinstance(known, str) else "smooth" if bool(runs["smooth"].iloc[0]) else "kinked"


class _Layered(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def layers(self) -> str: ...


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


def _range(values: pd.Series) -> Interval:
    return float(values.min()), float(values.max())


OPEN = math.inf


# ---------------------------------------------------------------- edge


@dataclass(frozen=True)
class Edge:
    """The value of ηλ_max(K̂_t) beyond which the loss rises.

    It lies between the largest value in runs whose loss never rose, over their whole training, and the smallest value
    at which a run's loss first rose. If the two overlap, the interval is the overlap.
    """

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: edge(case.trained))]


def edge(trained: pd.DataFrame) -> Estimate:
    """Estimate the edge from per_run of all trained runs, diverged runs included."""
    if trained["step_size"].nunique() < 3:
        return Estimate(status=Reason.FEW_STEP_SIZES.of())
    edges = trained["step_size"] * trained["sharpness"]
    rose = trained["rises"].astype(bool) | (trained["status"] == "diverged")
    stable, unstable = edges[~rose].dropna(), edges[rose].dropna()
    if stable.empty or unstable.empty:
        reason = Reason.NEVER_RISES if unstable.empty else Reason.ALWAYS_RISES
        return Estimate(status=reason.of(low=f"{edges.min():.3g}", high=f"{edges.max():.3g}"))
    low, high = sorted((float(stable.max()), float(unstable.min())))
    span = (float(edges.min()), float(edges.max()))
    seeds = int(trained["seed"].nunique())
    return Estimate(
        math.sqrt(low * high),
        (low, high),
        span,
        seeds,
        enough_runs(seeds, "seed"),
        kind=BRACKET,
        remedy=Reason.COARSE_STEPS.of(),
        remark=_after_rises(trained, rose),
    )


def _after_rises(trained: pd.DataFrame, rose: pd.Series) -> str:
    """Describe how the runs whose loss rose ended. Some return to a small loss, with a flatter kernel (a catapult)."""
    diverged = int((trained["status"] == "diverged").sum())
    recovered = trained[rose & (trained["status"] == "done") & (trained["loss_ratio"] < 1)]
    largest = (recovered["step_size"] * recovered["lambda_max_end"]).max()
    catapults = f"of the runs whose loss rose, {len(recovered)} ended with a loss below their first"
    return f"{catapults}{f' and with ηλ_max at most {largest:.2f}' if len(recovered) else ''}; {diverged} diverged"


# ---------------------------------------------------------------- vanishing


STILL_FALLING = 0.99  # a run is still falling if its last loss is below this times the loss at half the steps


@dataclass(frozen=True)
class Vanishes:
    """The last loss over the first, from the smallest to the largest of all runs. While a run's loss is above the
    margin and still falls, the claim cannot be judged."""

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: self._measure(case, margin))]

    def _measure(self, case: Case, margin: Interval) -> Estimate:
        ((_, extremes),) = Extremes(self.key, "loss_ratio", self.expected).measures(case, margin)
        estimate = extremes(CONFIDENCE)
        if not estimate.status.ok:
            return estimate
        table = case.statistics[case.statistics[AT] >= case.smallest]
        above = table[table["loss_ratio"] > margin[1]]
        falling = above[above["late_ratio"] < STILL_FALLING]
        if falling.empty:
            return replace(estimate, remark=_smallest_eigenvalue(case))
        factor = f"{falling['late_ratio'].max():.3g}"
        counts = {"count": len(falling), "total": len(table), "edge": f"{margin[1]:g}"}
        return replace(estimate, status=Reason.STILL_FALLING.of(**counts, factor=factor))


def _smallest_eigenvalue(case: Case) -> str:
    """Describe λ_min of K̂_0."""
    table = case.statistics
    share = (table["lambda_min_0"] / table["lambda_max_0"]).median()
    dtype = str(case.first["training.dtype"])
    if share < RESOLVED[dtype]:
        return f"λ_min of K̂_0 is 0 to rounding in {dtype} ({share:.0e} λ_max)"
    return f"λ_min of K̂_0 is {table['lambda_min_0'].median():.3g}"
