"""An estimate: a number with its interval, and whether it can be judged."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ntkrun.evidence.estimates.intervals import Exponent, Interval, Level
from ntkrun.evidence.reasons import OK, Reason, Status

CONFIDENT, ALL_RUNS, BRACKET = "95 %", "all runs", "bracket"  # kinds of intervals

MORE_SEEDS = Reason.MORE_SEEDS.of()


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    `status` says whether it can be judged. `fit_range` is the range of the axis that was fitted (nan if nothing is
    fitted). `seeds` is the number of seeds at the value of the axis that most of the variance comes from, which `at`
    names (' at 256'), otherwise the smallest number at any value. `kind` is that of the interval: CONFIDENT (all parts
    of a claim together), ALL_RUNS from the smallest to the largest run, or BRACKET between two values that were tried.
    `remedy` is what would settle an interval that straddles an edge of its margin. `limit` is the interval of the
    number at infinite width, if it still changes with the width. `remark` is shown beside the verdict.
    """

    value: float = math.nan
    interval: Interval = (math.nan, math.nan)
    fit_range: Interval = (math.nan, math.nan)
    seeds: int = 0
    status: Status = OK
    at: str = ""
    kind: str = CONFIDENT
    remedy: Status = MORE_SEEDS
    limit: Interval = (math.nan, math.nan)
    remark: str = ""

    @property
    def asymptotic(self) -> bool:
        """False if no single exponent describes the range."""
        return self.remedy.reason is not Reason.NOT_ASYMPTOTIC


def of_exponent(exponent: Exponent, further: str) -> Estimate:
    """Return an exponent as an estimate. `further` is what would show more of its law, such as wider networks. An
    exponent from fewer than three values of the axis is not judged, since they cannot show a power law."""
    if not exponent.status.ok:
        return Estimate(status=exponent.status)
    status, fewest = enough(exponent.counts), int(min(exponent.counts.values()))
    estimate = Estimate(exponent.slope, exponent.interval, exponent.fit_range, fewest, status, " at each value")
    if not status.ok:
        return estimate
    if not exponent.asymptotic:
        estimate = replace(estimate, remedy=Reason.NOT_ASYMPTOTIC.of(further=further))
    noisiest = max(exponent.variance_shares, key=lambda value: exponent.variance_shares[value], default=None)
    if noisiest is None or exponent.variance_shares[noisiest] < 0.5:
        return estimate
    return replace(estimate, seeds=int(exponent.counts[noisiest]), at=f" at {noisiest:g}")


def enough(counts: Mapping[float, int]) -> Status:
    """Return whether there are the three values of the axis, and the three seeds at each of these `counts`, that a fit
    needs to be judged."""
    few = [at for at, count in counts.items() if count < 3]
    if len(counts) < 3:
        return Reason.FEW_VALUES.of(values=listed(counts))
    return Reason.FEW_SEEDS.of(values=listed(few)) if few else OK


def of_level(level: Level, at: float) -> Estimate:
    """Return a mean at one value of the axis as an estimate."""
    status = enough_runs(level.count)
    fit_range = (at, at) if status.ok else (math.nan, math.nan)
    return Estimate(level.mean, level.interval, fit_range, level.count, status, f" at {at:g}")


def enough_runs(count: int, what: str = "finished run") -> Status:
    """Return whether there are the three runs (or seeds) that judging needs."""
    return Reason.FEW_RUNS.of(count=count, what=what + "s" * (count != 1)) if count < 3 else OK


def listed(values: Iterable[float]) -> str:
    """Return numbers as text: '64, 128'."""
    return ", ".join(f"{value:g}" for value in values)
