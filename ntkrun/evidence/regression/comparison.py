"""Runs of now against a baseline: has any statistic or curve moved, or are there too few seeds to tell?

Of every quantity, at every width w, two sets of seeds are compared as d_w = mean log(now) - mean log(then), over pairs
of equal seeds where there are two or more, else as two samples. A curve counts by its mean over the steps. The test
that decides is of d, the mean of d_w over the widths, with the standard error s of its parts and Welch and
Satterthwaite's degrees of freedom ν:

    H0: |d| <= log 1.02        p = 2 P(t_ν > (|d| - log 1.02)/s)        Holm, at half of the false-alarm rate

A change of 5 % is seen with power 0.8 if log 1.02 + (t_{1-level/2} + t_{0.8}) s <= log 1.05; where not, the quantity is
inconclusive unless it is a regression. The other half of the rate goes to each width and each step on its own: these
tests can only add alarms. docs/regression.md has the measured rates.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np
from scipy import special

from ntkrun.evidence.regression.baseline import RunRecord
from ntkrun.evidence.regression.pairing import NEW, Obstacle, Sides, WidthRuns, pair_runs, sides_of

ALPHA = 0.01  # false alarms of the whole check
MARGIN = 0.02  # a smaller change is never an alarm: other machines round otherwise
EFFECT, POWER = 0.05, 0.8  # a check that would miss this change more often than that is no pass
RESOLUTION = 1e-9  # of a baseline's nine digits: no scatter is smaller
MOST_SEEDS = 10**7

Verdict = Literal["fine", "regression", "stale", "inconclusive"]


@dataclass(frozen=True)
class Row:
    """One test: a quantity at a place ('all widths', 'width 64', 'step 12').

    `change` is now/then - 1 (for quantities of either sign, the difference over the baseline's rms) with its interval,
    at the level that Holm's procedure gave it: it lies beyond ±MARGIN exactly for a regression. `sees` is the smallest
    change found with power 0.8, `needed` about how many seeds make that EFFECT; both nan and 0 for tests that only add
    alarms.
    """

    group: str
    quantity: str
    curve: bool
    place: str
    change: float
    interval: tuple[float, float]
    p: float
    seeds: int
    paired: bool
    verdict: Verdict
    sees: float = math.nan
    needed: int = 0

    @property
    def name(self) -> str:
        return f"{self.quantity}(t)" if self.curve else self.quantity


@dataclass(frozen=True)
class Check:
    """All tests, what stands in the way of a verdict, what cannot be judged and why, and the quantities that the
    baseline lacks: one made before they were measured is stale, and says nothing of them."""

    rows: tuple[Row, ...]
    problems: tuple[Obstacle, ...]
    unjudged: tuple[tuple[str, str], ...]
    new: tuple[str, ...] = ()

    @property
    def regressions(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == "regression"]

    @property
    def verdict(self) -> Verdict:
        if self.regressions:
            return "regression"
        if self.new:
            return "stale"
        undecided = self.problems or not self.rows or any(row.verdict == "inconclusive" for row in self.rows)
        return "inconclusive" if undecided else "fine"

    @property
    def code(self) -> int:
        """The exit code: 1 where runs failed or diverged that did not in the baseline, else by the verdict."""
        if any(problem.run_ended for problem in self.problems):
            return 1
        return {"fine": 0, "regression": 3, "stale": 3, "inconclusive": 5}[self.verdict]

    @property
    def seeds_needed(self) -> int:
        """About how many seeds a width settle every quantity."""
        return max((row.needed for row in self.rows if row.verdict == "inconclusive"), default=0)


@dataclass(frozen=True)
class _Test:
    """A contrast before it is judged: d, its standard error s, its degrees of freedom ν."""

    row: Row
    logarithmic: bool
    d: float
    s: float
    freedom: float
    p: float


def compare(now: Sequence[RunRecord], then: Sequence[RunRecord], alpha: float = ALPHA) -> Check:
    """The check of `now` against `then`, with a chance of at most `alpha` that any of its alarms is false."""
    cells, problems = pair_runs(now, then)
    overall: list[_Test] = []
    local: list[_Test] = []
    unjudged: dict[str, str] = {}
    new: dict[str, None] = {}  # in their order, each once
    for group, members in groupby(cells, key=lambda cell: cell.group):
        for found in sides_of(list(members)):
            if isinstance(found.why, Obstacle):
                problems.append(found.why)
            elif found.why == NEW:
                new[found.label] = None
            elif found.why:
                unjudged[found.label] = found.why
            if found.widths:
                overall.append(_overall(group, found))
                local.extend(_local(group, found))
    rows = [*_judged(overall, alpha / 2, decides=True), *_judged(local, alpha / 2, decides=False)]
    return Check(tuple(rows), tuple(problems), tuple(unjudged.items()), tuple(new))


# ---------------------------------------------------------------- contrasts


def _overall(group: str, sides: Sides) -> _Test:
    weights = [judged / judged.sum() for judged in sides.judged]
    return _test(group, sides, "all widths" if len(sides.widths) > 1 else _width(sides.widths[0]), weights)


def _local(group: str, sides: Sides) -> Iterator[_Test]:
    """Each width over all steps, each step over all widths."""
    if len(sides.widths) > 1:
        for k, cell in enumerate(sides.widths):
            weights = [judged / judged.sum() * (j == k) for j, judged in enumerate(sides.judged)]
            yield _test(group, sides, _width(cell), weights)
    if len(sides.steps) > 1:
        for k, step in enumerate(sides.steps):
            at_step = [judged * (np.arange(len(sides.steps)) == k) for judged in sides.judged]
            if any(weights.any() for weights in at_step):
                yield _test(group, sides, f"step {step}", at_step)


def _width(cell: WidthRuns) -> str:
    return f"width {cell.width}"


def _test(group: str, sides: Sides, place: str, weights: Sequence[np.ndarray]) -> _Test:
    """d = mean over the widths that have weights; Var d = Σ of the parts' variances, each s²/k with k-1 degrees."""
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
    row = Row(group, sides.quantity, sides.curve, place, nan, (nan, nan), nan, seeds, paired, "fine")
    s = math.sqrt(variances.sum())
    p = min(1.0, 2 * float(special.stdtr(freedom, (math.log1p(MARGIN) - abs(d)) / s)))
    return _Test(row, sides.logarithmic, float(d), s, freedom, p)


# ---------------------------------------------------------------- verdicts


def _judged(tests: Sequence[_Test], alpha: float, decides: bool) -> list[Row]:
    return [
        _row(test, level, alpha / len(tests), decides)
        for test, level in zip(tests, holm_levels([test.p for test in tests], alpha), strict=True)
    ]


def holm_levels(p: Sequence[float], alpha: float) -> list[float]:
    """The level that Holm's step-down procedure holds each p value against: α/m for the smallest, α/(m-1) for the next,
    and so on to the first that is not below its own; that one's level for the rest. p <= level exactly where rejected
    (S. Holm, 1979)."""
    levels = [0.0] * len(p)
    level, going = alpha, True
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if going:
            level = alpha / (len(p) - rank)
            going = p[k] <= level
        levels[k] = level
    return levels


def _row(test: _Test, level: float, smallest_level: float, decides: bool) -> Row:
    half = -float(special.stdtrit(test.freedom, level / 2)) * test.s
    verdict: Verdict = "regression" if test.p <= level else "fine"
    sees = _seen(test, smallest_level, 1.0) if decides else math.nan
    needed = 0
    if verdict == "fine" and sees > math.log1p(EFFECT):
        verdict, needed = "inconclusive", _needed(test, smallest_level)
    change, low, high, sees = (_relative(test, x) for x in (test.d, test.d - half, test.d + half, sees))
    return replace(
        test.row, change=change, interval=(low, high), p=test.p, verdict=verdict, sees=sees, needed=needed
    )  # fmt: skip


def _relative(test: _Test, x: float) -> float:
    """A difference of logarithms as a relative change; the raw scale has no logarithm to undo."""
    return math.expm1(min(x, 700.0)) if test.logarithmic else x


def _seen(test: _Test, level: float, more: float) -> float:
    """The smallest d that is found with power 0.8 at this level with `more` times as many seeds: the noncentral t taken
    as a shifted one."""
    freedom = test.freedom * more + more - 1  # k - 1 degrees become more·k - 1, summed or not at least this many
    quantiles = special.stdtrit(freedom, POWER) - special.stdtrit(freedom, level / 2)
    return float(math.log1p(MARGIN) + quantiles * test.s / math.sqrt(more))


def _needed(test: _Test, level: float) -> int:
    """About how many seeds a width see EFFECT, given the scatter found: by bisection."""
    seeds, low, high = test.row.seeds, test.row.seeds, MOST_SEEDS
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        enough = _seen(test, level, middle / seeds) <= math.log1p(EFFECT)
        low, high = (low, middle) if enough else (middle, high)
    return high
