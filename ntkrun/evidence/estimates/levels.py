"""Parts of claims that are levels: means over seeds, and the values to which they tend."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates import ensembles
from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.estimate import Estimate, enough, of_level
from ntkrun.evidence.estimates.intervals import Interval, at_infinity, fit_limit, level
from ntkrun.evidence.estimates.parts import MEASURE_IT, Applies, Measure, always, columns_in, usable

Replicates = Callable[[Case, float, str], Sequence[float] | pd.Series | np.ndarray]


@dataclass(frozen=True)
class Height:
    """The mean over seeds, at the largest value of the axis, of a number that each run gives. `where` is the place on
    the axis: `widest`, `narrowest`, `each` for a part at every value, or `all` for one mean over all runs.

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
        every = [float(at) for at in sorted(case.statistics[AT].unique())] or [math.nan]
        if self.where == "each":
            places: list[tuple[str, float | None]] = [(f" at {at:g}", at) for at in every]
        else:
            places = [("", {"widest": every[-1], "narrowest": every[0], "all": None}[self.where])]
        return [
            (f"{label}{place}", self._measure(case, column, at, every))
            for label, column in columns_in(case, self)
            for place, at in places
        ]

    def _measure(self, case: Case, column: str, at: float | None, every: Sequence[float]) -> Measure:
        def measure(confidence: float) -> Estimate:
            places = every if at is None else [at]
            values = np.concatenate([self._values(case, place, column) for place in places])
            status = usable(values, self.key, self.needs)
            if not status.ok:
                return Estimate(status=status)
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
        return [(label, self._measure(case, column)) for label, column in columns_in(case, self)]

    def _measure(self, case: Case, column: str) -> Measure:
        def measure(confidence: float) -> Estimate:
            every = [float(at) for at in sorted(case.statistics[AT].unique()) if at >= case.smallest]
            replicates = {at: np.asarray(self.values(case, at, column), dtype=float) for at in every}
            status = usable(np.concatenate([*replicates.values(), []]), self.key, self.needs)
            status = status if not status.ok else enough({at: len(values) for at, values in replicates.items()})
            if not status.ok:
                return Estimate(status=status)
            limit = fit_limit(replicates, CORRECTIONS[case.axis.towards], confidence)
            seeds = min(len(case.at(at)) for at in limit.counts)
            return Estimate(limit.value, limit.interval, limit.fit_range, seeds, at=" at each value")

        return measure
