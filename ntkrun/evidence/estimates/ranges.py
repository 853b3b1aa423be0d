"""Parts of claims that are ranges over runs, for claims about every seed, and brackets between values that were
tried."""

import math
from dataclasses import dataclass, replace

import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.estimate import ALL_RUNS, BRACKET, Estimate, enough_runs
from ntkrun.evidence.estimates.intervals import CONFIDENCE, Interval
from ntkrun.evidence.estimates.parts import MEASURE_IT, Applies, Measure, always, usable
from ntkrun.evidence.reasons import Reason

# The share of λ_max below which an eigenvalue of a kernel in that precision is zero to rounding.
RESOLVED = {"float32": 1e-6, "float64": 1e-14}


@dataclass(frozen=True)
class Extremes:
    """The range, from the smallest to the largest over all runs, of a number that each run gives. Used for claims about
    every seed, and for identities. With `some`, the number exists for some runs only, such as those whose loss rose."""

    key: str
    column: str
    expected: Interval
    applies: Applies = always
    needs: str = MEASURE_IT
    some: bool = False

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: self._measure(case))] if self.applies(case) else []

    def _measure(self, case: Case) -> Estimate:
        table = case.statistics[case.statistics[AT] >= case.smallest]
        values = table[self.column] if self.column in table else pd.Series(dtype=float)
        values = values.dropna() if self.some else values
        if values.empty:
            needs = f"no finished run at {case.axis.name} {case.smallest:g} or more has it: add such values"
            return Estimate(status=Reason.NOT_MEASURED.of(what=self.column, needs=needs))
        status = usable(values.to_numpy(dtype=float), self.column, self.needs)
        if not status.ok:
            return Estimate(status=status)
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


def _range(values: pd.Series) -> Interval:
    return float(values.min()), float(values.max())


# ---------------------------------------------------------------- edge


@dataclass(frozen=True)
class Edge:
    """The value of ηλ_max(K̂_t) beyond which the loss rises.

    It lies between the largest value in runs whose loss never rose, over their whole training, and the smallest value
    at which a run's loss first rose. If the two overlap, the interval is the overlap. If the loss rises in every run,
    or in none, one end is open.
    """

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: edge(case.trained, margin))]


def edge(trained: pd.DataFrame, margin: Interval) -> Estimate:
    """Estimate the edge from per_run of all trained runs, diverged runs included. An interval with an open end is only
    told where it lies outside the margin: it cannot lie within."""
    if trained["step_size"].nunique() < 3:
        return Estimate(status=Reason.FEW_STEP_SIZES.of())
    edges = trained["step_size"] * trained["sharpness"]
    rose = trained["rises"].astype(bool) | (trained["status"] == "diverged")
    stable, unstable = edges[~rose].dropna(), edges[rose].dropna()
    start, end = float(edges.min()), float(edges.max())
    if (unstable.empty and end <= margin[1]) or (stable.empty and start >= margin[0]):
        reason = Reason.NEVER_RISES if unstable.empty else Reason.ALWAYS_RISES
        return Estimate(status=reason.of(low=f"{start:.3g}", high=f"{end:.3g}"))
    if stable.empty or unstable.empty:
        low, high = (0.0, start) if stable.empty else (end, math.inf)
    else:
        low, high = sorted((float(stable.max()), float(unstable.min())))
    seeds = int(trained["seed"].nunique())
    return Estimate(
        math.sqrt(low * high) if 0 < low < high < math.inf else start if stable.empty else end,
        (low, high),
        (start, end),
        seeds,
        enough_runs(seeds, "seed"),
        kind=BRACKET,
        remedy=Reason.COARSE_STEPS.of(),
        remark=_after_rises(trained, rose),
    )


def _after_rises(trained: pd.DataFrame, rose: pd.Series) -> str:
    """Describe how the runs whose loss rose ended. Some return to a small loss, with a flatter kernel (a catapult)."""
    if not rose.any():
        return "the loss rises in no run"
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
