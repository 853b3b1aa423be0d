"""Parts of claims that are exponents along an axis."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.estimate import Estimate, listed, of_exponent
from ntkrun.evidence.estimates.intervals import Interval, fit_exponent, fit_power_law, jackknife_logs, monotonicity
from ntkrun.evidence.estimates.parts import (
    MEASURE_IT,
    Applies,
    Measure,
    always,
    columns_in,
    smoothness,
    usable,
    without_kinks,
)
from ntkrun.evidence.reasons import Reason


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
        return [(label, self._measure(case, column)) for label, column in columns_in(case, self)]

    def _measure(self, case: Case, column: str) -> Measure:
        def measure(confidence: float) -> Estimate:
            table = case.statistics
            if column not in table or table[column].isna().all():
                return Estimate(status=Reason.NOT_MEASURED.of(what=column, needs=self.needs))
            table = table[table[AT] >= case.smallest]
            status = usable(table[column].where(table[column] > 0).to_numpy(), column, self.needs)
            if len(table) and not status.ok:
                return Estimate(status=status)
            if self.pooled and not without_kinks(case):
                return self._of_pooled(case, column)(confidence)
            pairs = table["seed"] if case.axis.paired else None
            exponent = fit_exponent(table[AT], table[column], case.smallest, confidence, pairs, case.axis.towards)
            estimate = of_exponent(exponent, case.axis.further)
            if estimate.asymptotic:
                return estimate
            tau, p = monotonicity(table[AT], table[column])
            p_text = "" if case.axis.paired else f" (p = {p:.1g})"  # p assumes independence, which paired runs lack
            return replace(estimate, remark=f"Kendall's τ with the {case.axis.name} is {tau:.2f}{p_text}")

        return measure

    def _of_pooled(self, case: Case, column: str) -> Measure:
        """Return the measure of the exponent of the root mean square over seeds."""

        def sample(case: Case, at: float) -> pd.DataFrame:
            return case.at(at).set_index("seed")[[column]]

        def root_mean_square(part: pd.DataFrame) -> float:
            return float(np.sqrt(np.square(part[column]).mean()))

        ((_, measure),) = Pooled(self.key, self.smooth, sample, root_mean_square, self.needs).measures(
            case, self.smooth
        )
        return measure


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
        estimate = of_exponent(fit_power_law(logs, confidence=confidence, towards=case.axis.towards), case.axis.further)
        # Replicates are blocks of seeds, so the seeds are counted separately.
        return replace(estimate, seeds=min(seeds.values(), default=0), remark=self.remark(case, case.widest))
