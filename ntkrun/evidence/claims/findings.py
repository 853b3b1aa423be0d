"""An estimate against what is expected: supported, refuted or inconclusive, and why."""

import math
from dataclasses import dataclass

from ntkrun.evidence.estimates.intervals import Exponent, Interval, Level

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
ALL_RUNS, BRACKET = "all runs", "bracket"  # kinds of intervals that are no confidence intervals
HOPELESS = 400  # times as many seeds: the estimate sits on the edge, and other runs would tell more


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `fit_range` on the axis (nan where nothing is fitted); `seeds` at the value of the
    axis that most of the variance comes from, which `doubt` says, else the fewest anywhere; `curved`: no one exponent
    describes the range, and what would (wider networks, say), or ""; `trouble` says why it cannot be judged, or "";
    `remark` is what a reader should know beside the number; `kind`: "" for a confidence interval, ALL_RUNS from the
    smallest to the largest run, BRACKET between two that were tried; `cure` is what settles one of those.
    `limit`: where the number may be heading in wider networks, if it is one of infinite width."""

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
    """One part of a claim, judged."""

    part: str
    estimate: Estimate
    expected: Interval
    verdict: str
    why: str


def finding(part: str, estimate: Estimate, expected: Interval, conditions: str = "") -> Finding:
    """The verdict on one estimate. `conditions` says which of the claim's are not met: then nothing is judged."""
    verdict, why = _verdict(estimate, expected, conditions)
    return Finding(part, estimate, expected, verdict, "; ".join(text for text in (why, estimate.remark) if text))


def _verdict(estimate: Estimate, expected: Interval, conditions: str) -> tuple[str, str]:
    low, high = estimate.interval
    if estimate.trouble or conditions:
        return INCONCLUSIVE, estimate.trouble or conditions
    if math.isnan(low) or math.isnan(high):
        return INCONCLUSIVE, "one seed has no interval; run more seeds"
    if expected[0] <= low and high <= expected[1]:
        return SUPPORTED, ""
    if _outside(estimate.interval, expected):
        outside = f"{_span(estimate.interval)} lies outside {_span(expected)}"
        if math.isnan(estimate.limit[0]) or _outside(estimate.limit, expected):
            return REFUTED, outside
        return INCONCLUSIVE, f"{outside}, but moves with the width and may reach it: wider networks would tell"
    return INCONCLUSIVE, f"{_span(estimate.interval)} straddles {_span(expected)}; {_cure(estimate, expected)}"


def _cure(estimate: Estimate, expected: Interval) -> str:
    """What would settle a straddling interval: its half width has to shrink to the distance from the nearest edge, as
    one of confidence does with seeds."""
    if estimate.cure:
        return estimate.cure
    if estimate.curved:
        return f"the exponent still changes over the range (not yet asymptotic): {estimate.curved} would tell"
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    distance = min(abs(estimate.value - edge) for edge in expected)
    if distance == 0 or (half / distance) ** 2 > HOPELESS:
        return "the estimate lies on the edge of what is expected: more seeds would hardly tell"
    needed = math.ceil(round(max(estimate.seeds, 1) * (half / distance) ** 2, 6))
    return f"needs about {needed} seeds instead of {estimate.seeds}{estimate.doubt and ' ' + estimate.doubt}"


def of_exponent(found: Exponent, further: str) -> Estimate:
    """An exponent as an estimate; `further` is what would show more of its law. A trend takes three values of the
    axis, so that it can be seen to be one."""
    if found.why:
        return Estimate(trouble=found.why)
    seeds = int(min(found.counts.values()))
    if len(found.counts) < 3:
        return Estimate(found.slope, found.interval, found.fit_range, seeds, trouble=f"{TWO} {_list(found.counts)}")
    if seeds < 3:
        few = [at for at, count in found.counts.items() if count < 3]
        what = f"fewer than 3 seeds at {_list(few)}; run at least 3, better 10"
        return Estimate(found.slope, found.interval, found.fit_range, seeds, trouble=what)
    curved = "" if found.asymptotic else further
    at = max(found.doubt, key=lambda where: found.doubt[where], default=None)
    if at is None or found.doubt[at] < 0.5:
        return Estimate(found.slope, found.interval, found.fit_range, seeds, "at each value", curved)
    return Estimate(found.slope, found.interval, found.fit_range, int(found.counts[at]), f"at {at:g}", curved)


TWO = "a power law takes at least three values of the axis to be seen, and there are only"


def of_level(found: Level, at: float) -> Estimate:
    """A mean at one value of the axis as an estimate."""
    if found.count < 3:
        return Estimate(found.mean, found.interval, seeds=found.count, trouble=few_runs(found.count))
    return Estimate(found.mean, found.interval, (at, at), found.count, f"at {at:g}")


def few_runs(count: int) -> str:
    """What is missing where fewer than three runs speak; "" where enough do."""
    return f"{count} finished runs; it takes at least 3" if count < 3 else ""


def _outside(interval: Interval, expected: Interval) -> bool:
    return interval[1] < expected[0] or interval[0] > expected[1]


def _span(interval: Interval) -> str:
    return f"[{interval[0]:.3g}, {interval[1]:.3g}]"


def _list(values: object) -> str:
    return ", ".join(f"{value:g}" for value in values)  # type: ignore[attr-defined]
