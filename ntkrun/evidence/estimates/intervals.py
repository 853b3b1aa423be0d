"""Levels and exponents with intervals that are honest with few seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

WIDTH = "network.width"
CONFIDENCE = 0.95
WIDTHS_PER_LAYER = 16  # a width enters a fit when n >= 16 L: the expansion is in L/n
CURVATURE_LEVEL = 0.03  # a power law is given up for a range when its curvature is this unlikely
BLOCKS = 40  # of seeds, for the jackknife: more would not make its interval better, only dearer
# Differences between numbers of order 1 (logarithms, say) that are smaller than this are rounding, and rounding is no
# scatter and no curvature: a float64 mean of thousands of runs is off by some 1e-14, and nothing is measured to 1e-12.
ROUNDING = 1e-12

Interval = tuple[float, float]
Values: TypeAlias = Sequence[float] | pd.Series | np.ndarray  # one a run
Replicates = Mapping[float, np.ndarray]  # a value of the axis -> log y of each seed there


@dataclass(frozen=True)
class Level:
    """A quantity at one width: the mean over `count` runs, its standard error (nan for one run), and the t interval."""

    mean: float
    standard_error: float
    interval: Interval
    count: int


@dataclass(frozen=True)
class Exponent:
    """The exponent b of y = c·n^b, with its interval; `log_constant` is log c.

    `fit_range` is the widths fitted, from and to; `counts` the seeds at each; `doubt` the share of the slope's variance
    that each width contributes. `curvature_p` is the probability of so much curvature in log-log under a power law (nan
    with fewer than three widths). `asymptotic` is False when even the last range tried is curved: then the interval
    holds the local exponents at both ends of the range. `why` says why there is no fit, or "".
    """

    slope: float
    interval: Interval
    log_constant: float
    fit_range: Interval
    counts: Mapping[float, int]
    curvature_p: float
    asymptotic: bool
    doubt: Mapping[float, float]
    why: str = ""

    def __bool__(self) -> bool:
        return not self.why


def level(values: Values, confidence: float = CONFIDENCE) -> Level:
    """Mean, standard error over seeds and t interval."""
    y = np.asarray(values, dtype=float)
    if len(y) < 2:
        mean = float(y[0]) if len(y) else math.nan
        return Level(mean, math.nan, (math.nan, math.nan), len(y))
    error = float(y.std(ddof=1) / math.sqrt(len(y)))
    half = _t_quantile((1 + confidence) / 2, len(y) - 1) * error
    return Level(float(y.mean()), error, (float(y.mean()) - half, float(y.mean()) + half), len(y))


def at_infinity(
    narrower: tuple[float, Values], wider: tuple[float, Values], confidence: float = CONFIDENCE
) -> Interval:
    """The t interval of lim m(n) from the means of runs at two widths p < n, if m(n) = m + c n^(-1/2):
    m_n + (m_n - m_p)/(√(n/p) - 1). Corrections that fall faster end nearer to m_n. nan with fewer than two runs at
    either."""
    groups = {width: np.asarray(values, dtype=float) for width, values in (narrower, wider)}
    if _counts(groups).min() < 2:
        return math.nan, math.nan
    further = 1 / (math.sqrt(wider[0] / narrower[0]) - 1)
    return _estimate(groups, np.array([-further, 1 + further]), 2, confidence, paired=False)[1]


def fit_exponent(
    axis: Sequence[float] | pd.Series,
    values: Sequence[float] | pd.Series,
    smallest: float = 0.0,
    confidence: float = CONFIDENCE,
    pairs: Sequence[object] | pd.Series | None = None,
    towards: str = "large",
) -> Exponent:
    """The exponent of `values` (one a run) in `axis` (a width, say), from `smallest` on: `fit_power_law` of their logs.
    Values that are not positive and finite are left out.

    `pairs` names what the runs at different values of the axis share, the initial network of a seed, say: then every
    one of them gives an exponent of its own, and the interval is that of their mean. Those that are not at every value
    are left out.
    """
    frame = pd.DataFrame({"at": np.asarray(axis, dtype=float), "y": np.asarray(values, dtype=float)})
    frame["pair"] = range(len(frame)) if pairs is None else np.asarray(pairs)
    frame = frame[np.isfinite(frame["y"]) & (frame["y"] > 0) & (frame["at"] >= smallest)].sort_values("pair")
    if pairs is not None:
        frame = frame[frame.groupby("pair")["at"].transform("size") == frame["at"].nunique()]
    logs = {float(at): np.log(part["y"].to_numpy()) for at, part in frame.groupby("at")}
    return fit_power_law(logs, smallest, confidence, pairs is not None, towards)


def fit_power_law(
    replicates: Replicates,
    smallest: float = 0.0,
    confidence: float = CONFIDENCE,
    paired: bool = False,
    towards: str = "large",
) -> Exponent:
    """The exponent in the widest range in which a power law is not contradicted; replicates are logarithms.

    They are averaged at each width; the line through these means is weighted by the number of seeds. Its slope is
    Σ_w c_w m_w with known c_w, so its variance is Σ c_w² s_w²/k_w with each width's own variance s_w² over its k_w
    seeds, and its interval is a t interval with Welch and Satterthwaite's degrees of freedom: weights that were
    themselves estimated would claim too much with few seeds. Where some width has a single seed, the scatter about the
    line serves instead, taken as equal at all widths. `paired` replicates stand at one place in every width's array:
    each place has its own slope, and the interval is the t interval of their mean.

    The range: widths n >= `smallest`; then, while the quadratic term in log n is significant at 3 %, the smallest width
    is dropped, down to three (the largest where the law is one of small values, `towards` "small"). If the last three
    are curved too, no one slope describes them: the interval is the hull of those of the two local exponents, between
    the first two widths and between the last two.
    """
    groups = {at: logs for at, logs in sorted(replicates.items()) if at >= smallest and len(logs)}
    if len(groups) < 2:
        least = f" of at least {smallest:g}" if smallest else ""
        return _no_fit(f"{len(groups)} usable values{least} on the axis; a slope takes two", groups)
    if all(len(group) == 1 for group in groups.values()) and len(groups) == 2:
        return _no_fit("two values with a seed each leave no scatter to judge by; run more seeds", groups)
    while True:
        curvature = _curvature_p(groups, paired)
        curved = curvature < CURVATURE_LEVEL
        if not curved or len(groups) <= 3:
            return _line(groups, curvature, not curved, confidence, paired)
        groups = dict(list(groups.items())[1:] if towards == "large" else list(groups.items())[:-1])


def jackknife(sample: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]) -> np.ndarray:
    """Replicates of a statistic θ of all seeds together, by the delete-a-block jackknife.

    `sample` is indexed by seed and is cut into B = min(seeds, BLOCKS) blocks; the pseudo-values B θ - (B-1) θ_(-b)
    average to a less biased θ, and scatter as B independent values would (Tukey 1958). Empty with fewer than two seeds.
    """
    seeds = np.unique(sample.index)
    count = min(len(seeds), BLOCKS)
    if count < 2:
        return np.empty(0)
    block_of = pd.Series(np.arange(len(seeds)) % count, index=seeds).loc[sample.index].to_numpy()
    without = np.array([statistic(sample[block_of != block]) for block in range(count)])
    return np.asarray(count * statistic(sample) - (count - 1) * without)


def jackknife_logs(sample: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]) -> np.ndarray:
    """Replicates of log θ, θ a variance, say: `jackknife`. Empty where θ is not positive, with a block left out or
    without."""
    found = jackknife(sample, lambda part: math.log(theta) if (theta := statistic(part)) > 0 else math.nan)
    return found if np.isfinite(found).all() else np.empty(0)


def pooled(
    sample: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], positive: bool = True
) -> tuple[float, Interval]:
    """A statistic of all seeds together with the t interval of its `jackknife`, which takes no law of the sample for
    granted: kernels have heavier tails than normal values. Of what is `positive`, a variance, it is the logarithm's,
    which few seeds know better; a correlation may be zero. The interval, centred at the jackknife's less biased value,
    is widened to hold the statistic itself. nan where there are no replicates."""
    value = statistic(sample)
    low, high = level((jackknife_logs if positive else jackknife)(sample, statistic)).interval
    return value, holding(value, (math.exp(low), math.exp(high)) if positive else (low, high))


def holding(value: float, interval: Interval) -> Interval:
    """The smallest interval that holds both the interval and the value; nan where the interval is."""
    low, high = interval
    return (low, high) if math.isnan(low) or math.isnan(high) else (min(low, value), max(high, value))


def monotonicity(axis: Sequence[float] | pd.Series, values: Sequence[float] | pd.Series) -> tuple[float, float]:
    """Kendall's τ-b of `values` (one a run) with the axis, and the p value of independence: -1 where every run at a
    larger value of the axis lies below every run at a smaller one, whatever the law."""
    from scipy import stats  # four times as dear to import as scipy.special

    found = stats.kendalltau(np.asarray(axis, dtype=float), np.asarray(values, dtype=float), nan_policy="omit")
    return float(found.statistic), float(found.pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p values: rejecting those below α keeps the chance of any false rejection below α."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return np.asarray(np.minimum(adjusted, 1.0)[np.argsort(order)])


def _line(groups: Replicates, curvature: float, asymptotic: bool, confidence: float, paired: bool) -> Exponent:
    coefficients = _contrasts(groups, degree=1)
    slope, interval = _estimate(groups, coefficients[1], 2, confidence, paired)
    if not asymptotic:
        ends = [_estimate(groups, secant, 2, confidence, paired)[1] for secant in _end_secants(groups)]
        # A weighted mean of the local exponents, the slope lies between them, but for the rounding of its last digit.
        interval = holding(slope, (min(low for low, _ in ends), max(high for _, high in ends)))
    constant = float(coefficients[0] @ _means(groups))
    counts = {at: len(group) for at, group in groups.items()}
    doubt = {} if paired else _doubt(groups, coefficients[1])
    return Exponent(slope, interval, constant, (min(groups), max(groups)), counts, curvature, asymptotic, doubt)


def _no_fit(why: str, groups: Replicates) -> Exponent:
    nan, counts = math.nan, {at: len(group) for at, group in groups.items()}
    return Exponent(nan, (nan, nan), nan, (nan, nan), counts, nan, False, {}, why)


def _contrasts(groups: Replicates, degree: int) -> np.ndarray:
    """Row k holds the c_w with Σ_w c_w m_w = the coefficient of (log n)^k in the fit weighted by seeds."""
    x, k = np.log(np.array(list(groups))), _counts(groups)
    centre = x.mean()  # conditioning alone; undone for the constant below
    design = np.vander(x - centre, degree + 1, increasing=True)
    rows = np.linalg.solve(design.T @ (k[:, None] * design), design.T * k)
    if degree == 1:
        rows[0] = rows[0] - centre * rows[1]
    return np.asarray(rows)


def _end_secants(groups: Replicates) -> list[np.ndarray]:
    """The contrasts of the slopes between the first two widths and between the last two."""
    x = np.log(np.array(list(groups)))
    found = []
    for left in (0, len(x) - 2):
        c = np.zeros(len(x))
        c[left : left + 2] = np.array([-1, 1]) / (x[left + 1] - x[left])
        found.append(c)
    return found


def _estimate(
    groups: Replicates, c: np.ndarray, parameters: int, confidence: float, paired: bool
) -> tuple[float, Interval]:
    """Σ c_w m_w and its t interval."""
    value = float(c @ _means(groups))
    error, freedom = _error(groups, c, parameters, paired)
    half = _t_quantile((1 + confidence) / 2, freedom) * error
    return value, (value - half, value + half)


def _t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t."""
    from scipy import special  # imported when something is estimated: a config is read without it

    return float(special.stdtrit(freedom, probability))


def _t_tail(value: float, freedom: float) -> float:
    """The probability that Student's t is larger."""
    from scipy import special

    return float(special.stdtr(freedom, -value))


def _error(groups: Replicates, c: np.ndarray, parameters: int, paired: bool) -> tuple[float, float]:
    """The standard error of Σ c_w m_w and its degrees of freedom; `parameters` of the curve that single seeds scatter
    about. It is 0 where it is no larger than rounding."""
    k = _counts(groups)
    if paired and k[0] >= 2:
        own = c @ np.stack(list(groups.values()))  # each place's own Σ c_w y_w
        error, freedom = own.std(ddof=1) / math.sqrt(len(own)), float(len(own) - 1)
    elif k.min() >= 2:
        parts, used = _parts(groups, c), c != 0
        among = float((parts[used] ** 2 / (k[used] - 1)).sum())
        error = math.sqrt(parts.sum())
        freedom = float(parts.sum() ** 2 / among) if among else float(k.sum() - len(k))
    else:
        x = np.repeat(np.log(np.array(list(groups))), k)
        y = np.concatenate(list(groups.values()))
        fit = np.polynomial.Polynomial.fit(x, y, parameters - 1)
        freedom = float(len(y) - parameters)
        error = math.sqrt(float(np.square(y - fit(x)).sum()) / freedom * float((c**2 / k).sum()))
    return (0.0 if error <= _rounding(groups, c) else float(error)), freedom


def _rounding(groups: Replicates, c: np.ndarray) -> float:
    """What rounding may make of Σ c_w m_w: ROUNDING of the largest number (of 1, if all are smaller), in every term."""
    largest = max(1.0, *(float(np.abs(group).max()) for group in groups.values()))
    return ROUNDING * largest * float(np.abs(c).sum())


def _parts(groups: Replicates, c: np.ndarray) -> np.ndarray:
    """What each width adds to the variance of Σ c_w m_w."""
    return np.asarray(c**2 * np.array([group.var(ddof=1) for group in groups.values()]) / _counts(groups))


def _doubt(groups: Replicates, c: np.ndarray) -> dict[float, float]:
    if _counts(groups).min() < 2:
        return {}
    parts = _parts(groups, c)
    return dict(zip(groups, (parts / (parts.sum() or 1.0)).tolist(), strict=True))


def _curvature_p(groups: Replicates, paired: bool) -> float:
    """The two-sided p value of the quadratic term; nan where it cannot be tested."""
    spare = int(_counts(groups).sum()) - 3
    if len(groups) < 3 or (min(map(len, groups.values())) < 2 and spare < 1):
        return math.nan
    c = _contrasts(groups, degree=2)[2]
    error, freedom = _error(groups, c, 3, paired)
    value = abs(float(c @ _means(groups)))
    if value <= _rounding(groups, c):
        return 1.0
    return 2 * _t_tail(value / error, freedom) if error else 0.0


def _means(groups: Replicates) -> np.ndarray:
    return np.array([group.mean() for group in groups.values()])


def _counts(groups: Replicates) -> np.ndarray:
    return np.array([len(group) for group in groups.values()])
