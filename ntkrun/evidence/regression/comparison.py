"""Comparison of runs with a baseline: has any statistic or curve changed, or are there too few seeds to decide?

For every quantity and width w, two sets of seeds are compared by d_w = mean log(now) - mean log(then): over pairs of
equal seeds if there are two or more, otherwise as two samples. A curve is represented by its mean over the steps. The
deciding test is about d, the mean of d_w over the widths, with the standard error s of its parts and Welch and
Satterthwaite's degrees of freedom ν:

    H0: |d| <= log 1.02        p = 2 P(t_ν > (|d| - log 1.02)/s)        Holm, at half of the false-alarm rate

A change of 5 % is detected with power 0.8 if log 1.02 + (t_{1-level/2} + t_{0.8}) s <= log 1.05. Otherwise the quantity
is inconclusive unless it is a regression. The other half of the false-alarm rate goes to tests of each width and each
step alone, which can only add alarms. docs/regression.md has the measured rates.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from scipy import special

from ntkrun.evidence.records import Number, Record, Span
from ntkrun.evidence.regression.baseline import RunRecord
from ntkrun.evidence.regression.pairing import NEW, Obstacle, Sides, WidthRuns, pair_runs, sides_of

ALPHA = 0.01  # false-alarm rate of the whole check
MARGIN = 0.02  # a smaller change is never an alarm, since other machines round differently
EFFECT, POWER = 0.05, 0.8  # a check passes only if it would detect a change of EFFECT with probability POWER
RESOLUTION = 1e-9  # the nine digits of a baseline: scatter is never taken to be smaller
MOST_SEEDS = 10**7

Verdict = Literal["fine", "regression", "stale", "inconclusive"]


class Comparison(Record):
    """One comparison: a quantity at a place ('all widths', 'width 64', 'step 12').

    `change` is now/then - 1 (for quantities of either sign, the difference over the baseline's rms). Its `interval` is
    at the level that Holm's procedure assigned, and lies beyond ±MARGIN exactly for a regression. `sees` is the
    smallest change detected with power 0.8, and `seeds_needed` is about how many seeds would make that EFFECT.
    Comparisons that only add alarms have nan and 0 instead.
    """

    group: str
    quantity: str
    curve: bool
    place: str
    change: Number
    interval: Span
    p: Number
    seeds: int
    paired: bool
    verdict: Verdict
    sees: Number = math.nan
    seeds_needed: int = 0

    @property
    def name(self) -> str:
        return f"{self.quantity}(t)" if self.curve else self.quantity


@dataclass(frozen=True)
class Check:
    """The result of a check: all tests, the obstacles to a verdict, the quantities that cannot be judged with the
    reason, and the quantities that the baseline lacks. A baseline made before they were measured is stale, since it
    says nothing about them."""

    comparisons: tuple[Comparison, ...]
    problems: tuple[Obstacle, ...]
    unjudged: tuple[tuple[str, str], ...]
    new: tuple[str, ...] = ()

    @property
    def regressions(self) -> list[Comparison]:
        return [row for row in self.comparisons if row.verdict == "regression"]

    @property
    def verdict(self) -> Verdict:
        if self.regressions:
            return "regression"
        if self.new:
            return "stale"
        verdicts = {comparison.verdict for comparison in self.comparisons}
        undecided = self.problems or not verdicts or "inconclusive" in verdicts
        return "inconclusive" if undecided else "fine"

    @property
    def code(self) -> int:
        """The exit code: 1 if runs failed or diverged that did not in the baseline, otherwise set by the verdict."""
        if any(problem.run_ended for problem in self.problems):
            return 1
        return {"fine": 0, "regression": 3, "stale": 3, "inconclusive": 5}[self.verdict]

    @property
    def seeds_needed(self) -> int:
        """About how many seeds per width would settle every quantity."""
        return max((row.seeds_needed for row in self.comparisons if row.verdict == "inconclusive"), default=0)


@dataclass(frozen=True)
class _Test:
    """A contrast before it is judged: d, its standard error s and its degrees of freedom ν."""

    row: Comparison
    logarithmic: bool
    d: float
    s: float
    freedom: float
    p: float


def compare(now: Sequence[RunRecord], then: Sequence[RunRecord], alpha: float = ALPHA) -> Check:
    """Check `now` against `then`, with a probability of at most `alpha` that any alarm is false."""
    cells, problems = pair_runs(now, then)
    overall: list[_Test] = []
    local: list[_Test] = []
    unjudged: dict[str, str] = {}
    new: dict[str, None] = {}  # an ordered set
    for group, members in groupby(cells, key=lambda cell: cell.group):
        for sides in sides_of(list(members)):
            if isinstance(sides.why, Obstacle):
                problems.append(sides.why)
            elif sides.why == NEW:
                new[sides.label] = None
            elif sides.why:
                unjudged[sides.label] = sides.why
            if sides.widths:
                overall.append(_overall_test(group, sides))
                local.extend(_local_tests(group, sides))
    rows = [*_judge(overall, alpha / 2, decides=True), *_judge(local, alpha / 2, decides=False)]
    return Check(tuple(rows), tuple(problems), tuple(unjudged.items()), tuple(new))


# ---------------------------------------------------------------- contrasts


def _overall_test(group: str, sides: Sides) -> _Test:
    """Return the test over all widths and steps."""
    weights = [judged / judged.sum() for judged in sides.judged]
    return _test(group, sides, "all widths" if len(sides.widths) > 1 else _width_text(sides.widths[0]), weights)


def _local_tests(group: str, sides: Sides) -> Iterator[_Test]:
    """Yield the test of each width over all steps, and of each step over all widths."""
    if len(sides.widths) > 1:
        for k, cell in enumerate(sides.widths):
            weights = [judged / judged.sum() * (j == k) for j, judged in enumerate(sides.judged)]
            yield _test(group, sides, _width_text(cell), weights)
    if len(sides.steps) > 1:
        for k, step in enumerate(sides.steps):
            at_step = [judged * (np.arange(len(sides.steps)) == k) for judged in sides.judged]
            if any(weights.any() for weights in at_step):
                yield _test(group, sides, f"step {step}", at_step)


def _width_text(cell: WidthRuns) -> str:
    return f"width {cell.width}"


def _test(group: str, sides: Sides, place: str, weights: Sequence[np.ndarray]) -> _Test:
    """Return the test of d, the mean over the widths that have weights. Var d is the sum of the parts' variances, each
    s²/k with k-1 degrees of freedom."""
    used = [k for k, weight in enumerate(weights) if weight.any()]
    d, parts, freedoms = 0.0, [], []
    for k in used:
        now, then = (side[k] @ weights[k] for side in (sides.now, sides.then))
        d += (now.mean() - then.mean()) / len(used)
        for sample in [now - then] if sides.widths[k].paired else [now, then]:
            parts.append((sample.var(ddof=1) + RESOLUTION**2) / len(sample) / len(used) ** 2)
            freedoms.append(len(sample) - 1)
    variances = np.array(parts)
    freedom = float(variances.sum() ** 2 / (variances**2 / np.array(freedoms)).sum())
    seeds = min(min(len(sides.now[k]), len(sides.then[k])) for k in used)
    paired = all(sides.widths[k].paired for k in used)
    nan = math.nan
    row = Comparison(
        group=group,
        quantity=sides.quantity,
        curve=sides.curve,
        place=place,
        change=nan,
        interval=(nan, nan),
        p=nan,
        seeds=seeds,
        paired=paired,
        verdict="fine",
    )
    s = math.sqrt(variances.sum())
    p = min(1.0, 2 * float(special.stdtr(freedom, (math.log1p(MARGIN) - abs(d)) / s)))
    return _Test(row, sides.logarithmic, float(d), s, freedom, p)


# ---------------------------------------------------------------- verdicts


def _judge(tests: Sequence[_Test], alpha: float, decides: bool) -> list[Comparison]:
    return [
        _row(test, level, alpha / len(tests), decides)
        for test, level in zip(tests, holm_levels([test.p for test in tests], alpha), strict=True)
    ]


def holm_levels(p: Sequence[float], alpha: float) -> list[float]:
    """Return the level that Holm's step-down procedure compares each p value with (S. Holm, 1979).

    It is α/m for the smallest, α/(m-1) for the next, and so on up to the first p value that exceeds its level. The rest
    get that one's level. p <= level exactly for the rejected tests.
    """
    levels = [0.0] * len(p)
    level, rejecting = alpha, True
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if rejecting:
            level = alpha / (len(p) - rank)
            rejecting = p[k] <= level
        levels[k] = level
    return levels


def _row(test: _Test, level: float, smallest_level: float, decides: bool) -> Comparison:
    half = -float(special.stdtrit(test.freedom, level / 2)) * test.s
    verdict: Verdict = "regression" if test.p <= level else "fine"
    sees = _detectable(test, smallest_level, 1.0) if decides else math.nan
    needed = 0
    if verdict == "fine" and sees > math.log1p(EFFECT):
        verdict, needed = "inconclusive", _seeds_needed(test, smallest_level)
    change, low, high, sees = (_relative(test, x) for x in (test.d, test.d - half, test.d + half, sees))
    outcome = {"change": change, "interval": (low, high), "p": test.p, "verdict": verdict, "sees": sees}
    return test.row.model_copy(update={**outcome, "seeds_needed": needed})


def _relative(test: _Test, x: float) -> float:
    """Return a difference of logarithms as a relative change. A difference on the raw scale is returned as it is."""
    return math.expm1(min(x, 700.0)) if test.logarithmic else x


def _detectable(test: _Test, level: float, factor: float) -> float:
    """Return the smallest d that is detected with power 0.8 at this level with `factor` times as many seeds. The
    noncentral t is approximated by a shifted t."""
    freedom = test.freedom * factor + factor - 1  # k - 1 becomes factor·k - 1; a sum of parts has at least this many
    quantiles = special.stdtrit(freedom, POWER) - special.stdtrit(freedom, level / 2)
    return float(math.log1p(MARGIN) + quantiles * test.s / math.sqrt(factor))


def _seeds_needed(test: _Test, level: float) -> int:
    """Return about how many seeds per width would detect EFFECT with the observed scatter, by bisection."""
    seeds, low, high = test.row.seeds, test.row.seeds, MOST_SEEDS
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        enough = _detectable(test, level, middle / seeds) <= math.log1p(EFFECT)
        low, high = (low, middle) if enough else (middle, high)
    return high
