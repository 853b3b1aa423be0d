"""Verdicts on estimates: supported, refuted or inconclusive, with the reason."""

import math
from dataclasses import dataclass

from ntkrun.evidence.estimates.intervals import Exponent, Interval, Level

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
ALL_RUNS, BRACKET = "all runs", "bracket"  # kinds of intervals that are not confidence intervals
HOPELESS = 400  # if more than this many times the seeds were needed, the estimate lies on the edge of the margin


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    `fit_range` is the range of the axis that was fitted (nan if nothing is fitted). `seeds` is the number of seeds at
    the value of the axis that most of the variance comes from, which `doubt` names, otherwise the smallest number at
    any value. `curved` is "" or, if no single exponent describes the range, what would help (wider networks, for
    example). `trouble` says why the number cannot be judged, or is "". `remark` is shown beside the verdict. `kind` is
    "" for a confidence interval, ALL_RUNS for one from the smallest to the largest run, and BRACKET for one between two
    values that were tried; `cure` says what would settle one of these two. `limit` is the interval of the number at
    infinite width, if it still changes with the width.
    """

    value: float = math.nan
    interval: Interval = (math.nan, math.nan)
    fit_range: Interval = (math.nan, math.nan)
    seeds: int = 0
    doubt: str = ""
    curved: str = ""
    trouble: str = ""
    remark: str = ""
    kind: str = ""
    cure: str = ""
    limit: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Finding:
    """The verdict on one part of a claim."""

    part: str
    estimate: Estimate
    expected: Interval
    verdict: str
    why: str


def finding(part: str, estimate: Estimate, expected: Interval, conditions: str = "") -> Finding:
    """Return the verdict on one estimate. `conditions` says which conditions of the claim are not met. If there are
    any, the verdict is inconclusive."""
    verdict, why = _verdict(estimate, expected, conditions)
    return Finding(part, estimate, expected, verdict, "; ".join(text for text in (why, estimate.remark) if text))


def _verdict(estimate: Estimate, expected: Interval, conditions: str) -> tuple[str, str]:
    low, high = estimate.interval
    if estimate.trouble or conditions:
        return INCONCLUSIVE, estimate.trouble or conditions
    if math.isnan(low) or math.isnan(high):
        return INCONCLUSIVE, "a single seed gives no interval; run more seeds"
    if expected[0] <= low and high <= expected[1]:
        return SUPPORTED, ""
    if _outside(estimate.interval, expected):
        outside = f"{_span(estimate.interval)} lies outside the expected {_span(expected)}"
        if math.isnan(estimate.limit[0]) or _outside(estimate.limit, expected):
            return REFUTED, outside
        return INCONCLUSIVE, f"{outside}, but changes with the width and may still reach it; use wider networks"
    straddles = f"{_span(estimate.interval)} straddles an edge of the expected {_span(expected)}"
    return INCONCLUSIVE, f"{straddles}; {_cure(estimate, expected)}"


def _cure(estimate: Estimate, expected: Interval) -> str:
    """Return what would settle an interval that straddles an edge of the margin. Its half-width has to shrink to the
    distance from the nearest edge. A confidence interval shrinks with more seeds."""
    if estimate.cure:
        return estimate.cure
    if estimate.curved:
        return f"the exponent still changes over the range (not yet asymptotic); use {estimate.curved}"
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    distance = min(abs(estimate.value - edge) for edge in expected)
    if distance == 0 or (half / distance) ** 2 > HOPELESS:
        return "the estimate lies on the edge of the expected range, and more seeds would hardly settle it"
    needed = math.ceil(round(max(estimate.seeds, 1) * (half / distance) ** 2, 6))
    return f"needs about {needed} seeds instead of {estimate.seeds}{estimate.doubt and ' ' + estimate.doubt}"


def of_exponent(exponent: Exponent, further: str) -> Estimate:
    """Return an exponent as an estimate. `further` is what would show more of its law, such as wider networks. An
    exponent from fewer than three values of the axis is not judged, since they cannot show a power law."""
    if exponent.why:
        return Estimate(trouble=exponent.why)
    seeds = int(min(exponent.counts.values()))
    if len(exponent.counts) < 3:
        return Estimate(
            exponent.slope, exponent.interval, exponent.fit_range, seeds, trouble=f"{TWO} {_list(exponent.counts)}"
        )
    if seeds < 3:
        few = [at for at, count in exponent.counts.items() if count < 3]
        trouble = f"fewer than 3 seeds at {_list(few)}; run at least 3, better 10"
        return Estimate(exponent.slope, exponent.interval, exponent.fit_range, seeds, trouble=trouble)
    curved = "" if exponent.asymptotic else further
    at = max(exponent.doubt, key=lambda value: exponent.doubt[value], default=None)
    if at is None or exponent.doubt[at] < 0.5:
        return Estimate(exponent.slope, exponent.interval, exponent.fit_range, seeds, "at each value", curved)
    return Estimate(
        exponent.slope, exponent.interval, exponent.fit_range, int(exponent.counts[at]), f"at {at:g}", curved
    )


TWO = "a power law needs at least three values of the axis; available:"


def of_level(level: Level, at: float) -> Estimate:
    """Return a mean at one value of the axis as an estimate."""
    if level.count < 3:
        return Estimate(level.mean, level.interval, seeds=level.count, trouble=few_runs(level.count))
    return Estimate(level.mean, level.interval, (at, at), level.count, f"at {at:g}")


def few_runs(count: int) -> str:
    """Return the reason why fewer than three finished runs cannot be judged, or "" if there are enough."""
    return f"{count} finished runs; at least 3 are needed" if count < 3 else ""


def _outside(interval: Interval, expected: Interval) -> bool:
    return interval[1] < expected[0] or interval[0] > expected[1]


def _span(interval: Interval) -> str:
    return f"[{interval[0]:.3g}, {interval[1]:.3g}]"


def _list(values: object) -> str:
    return ", ".join(f"{value:g}" for value in values)  # type: ignore[attr-defined]
