"""Levels and exponents, with intervals that keep their coverage with few seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from ntkrun.evidence.reasons import OK, Reason, Status

WIDTH = "network.width"
CONFIDENCE = 0.95
WIDTHS_PER_LAYER = 16  # a width enters a fit when n >= 16 L: the expansion is in L/n
CURVATURE_LEVEL = 0.03  # a power law is rejected for a range if the p value of its curvature is below this
BLOCKS = 40  # blocks of seeds for the jackknife: more would take longer and not improve its interval
# Smaller differences between numbers of order 1 (logarithms, for example) are rounding, not scatter or curvature. A
# float64 mean of thousands of runs is off by about 1e-14, and nothing is measured to 1e-12.
ROUNDING = 1e-12

Interval = tuple[float, float]
Values: TypeAlias = Sequence[float] | pd.Series | np.ndarray  # one per run
Replicates = Mapping[float, np.ndarray]  # a value of the axis -> log y of each seed at that value


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

    `fit_range` is the smallest and the largest width fitted. `counts` is the number of seeds at each width, and
    `variance_shares` the share of the slope's variance that each width contributes. `curvature_p` is the probability,
    under a power law, of at least this much curvature in log-log (nan with fewer than three widths). `asymptotic` is
    False if even the last range tried is curved; the interval then contains the local exponents at both ends of the
    range. `status` says whether there is a fit.
    """

    slope: float
    interval: Interval
    log_constant: float
    fit_range: Interval
    counts: Mapping[float, int]
    curvature_p: float
    asymptotic: bool
    variance_shares: Mapping[float, float]
    status: Status = OK


@dataclass(frozen=True)
class Intercept:
    """A quantity at infinite width (or step size 0): its `value` with its interval, the smallest and the largest value
    of the axis that were fitted, and the number of replicates at each."""

    value: float
    interval: Interval
    fit_range: Interval
    counts: Mapping[float, int]


def level(values: Values, confidence: float = CONFIDENCE) -> Level:
    """Return the mean, its standard error over seeds and its t interval."""
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
    """Return the t interval of lim m(n), n -> inf, from the means of runs at two widths p < n.

    Assumes m(n) = m + c n^(-1/2), so the limit is m_n + (m_n - m_p)/(√(n/p) - 1). If the correction falls faster, the
    true limit lies nearer to m_n. nan with fewer than two runs at either width.
    """
    groups = {width: np.asarray(values, dtype=float) for width, values in (narrower, wider)}
    if _counts(groups).min() < 2:
        return math.nan, math.nan
    weight = 1 / (math.sqrt(wider[0] / narrower[0]) - 1)
    return _estimate(groups, np.array([-weight, 1 + weight]), 2, confidence, paired=False)[1]


def fit_exponent(
    axis: Sequence[float] | pd.Series,
    values: Sequence[float] | pd.Series,
    smallest: float = 0.0,
    confidence: float = CONFIDENCE,
    pairs: Sequence[object] | pd.Series | None = None,
    towards: str = "large",
) -> Exponent:
    """Fit the exponent of `values` (one per run) in `axis` (the width, for example), with `fit_power_law` of their
    logs. Runs whose axis is below `smallest`, and values that are not positive and finite, are left out.

    `pairs` names what runs at different values of the axis share, such as the initial network of a seed. Each pair then
    gives its own exponent, and the interval is that of their mean. Pairs that are not present at every value of the
    axis are left out.
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
    """Fit the exponent over the widest range in which the data do not contradict a power law. `replicates` are
    logarithms.

    The replicates are averaged at each width, and the line through these means is weighted by the number of seeds. Its
    slope is Σ_w c_w m_w with known c_w, so its variance is Σ c_w² s_w²/k_w, where s_w² is the variance of width w over
    its k_w seeds. The interval is a t interval with Welch and Satterthwaite's degrees of freedom. (Weights estimated
    from the variances would give intervals that are too narrow with few seeds.) If some width has a single seed, the
    scatter about the line is used instead and is assumed equal at all widths. `paired` replicates of one pair have the
    same position in every width's array: each position gives its own slope, and the interval is the t interval of their
    mean.

    The range starts with all widths n >= `smallest`. While the quadratic term in log n is significant at 3 %, the
    smallest width is dropped (the largest if the law holds at small values, `towards` "small"), until three remain. If
    these are curved too, no single slope describes them. The interval is then the hull of the intervals of the two
    local exponents, between the first two widths and between the last two.
    """
    groups = {at: logs for at, logs in sorted(replicates.items()) if at >= smallest and len(logs)}
    if len(groups) < 2:
        least = f" from {smallest:g} on" if smallest else ""
        return _no_fit(Reason.NO_SLOPE.of(least=least, count=len(groups)), groups)
    if all(len(group) == 1 for group in groups.values()) and len(groups) == 2:
        return _no_fit(Reason.NO_SCATTER.of(), groups)
    while True:
        curvature = _curvature_p(groups, paired)
        curved = curvature < CURVATURE_LEVEL
        if not curved or len(groups) <= 3:
            return _line(groups, curvature, not curved, confidence, paired)
        groups = dict(list(groups.items())[1:] if towards == "large" else list(groups.items())[:-1])


def fit_limit(
    replicates: Replicates, corrections: Callable[[float], float], confidence: float = CONFIDENCE
) -> Intercept:
    """Return the intercept θ of θ + c·x through the means of the replicates at each value of an axis, x = `corrections`
    of it, such as 1/n: the value at infinite width where deviations are of order 1/n.

    The line is weighted by the number of replicates over x, because the variance of such quantities falls like x. The
    interval is a t interval with Welch and Satterthwaite's degrees of freedom. While a term x² is significant at 3 %,
    the value with the largest x is dropped, down to three. If these are curved too, the interval also contains that of
    the parabola through them.
    """
    groups = dict(sorted(((corrections(at), np.asarray(v, dtype=float)) for at, v in replicates.items()), reverse=True))
    used = sorted(replicates, key=corrections, reverse=True)
    while True:
        testable = len(groups) > 2 and _counts(groups).min() > 1
        curvature = _tail(groups, _in_powers(groups, 2)[2]) if testable else math.nan
        if not curvature < CURVATURE_LEVEL or len(groups) <= 3:
            break
        groups, used = dict(list(groups.items())[1:]), used[1:]
    value, interval = _estimate(groups, _in_powers(groups, 1)[0], 2, confidence, paired=False)
    if curvature < CURVATURE_LEVEL:
        interval = hull(interval, _estimate(groups, _in_powers(groups, 2)[0], 3, confidence, paired=False)[1])
    return Intercept(value, interval, (min(used), max(used)), {at: len(replicates[at]) for at in used})


def hull(first: Interval, second: Interval) -> Interval:
    """Return the smallest interval that contains both."""
    return min(first[0], second[0]), max(first[1], second[1])


def _in_powers(groups: Replicates, degree: int) -> np.ndarray:
    """Return the matrix whose row k holds the c_x with Σ_x c_x m_x = the coefficient of x^k in the weighted fit."""
    x, k = np.array(list(groups)), _counts(groups)
    weights = k / x if (x > 0).all() else k
    design = np.vander(x / x.max(), degree + 1, increasing=True)
    return np.asarray(np.linalg.solve(design.T @ (weights[:, None] * design), design.T * weights))


def _tail(groups: Replicates, c: np.ndarray, paired: bool = False) -> float:
    """Return the two-sided p value of Σ c_w m_w = 0."""
    error, freedom = _error(groups, c, 3, paired)
    value = abs(float(c @ _means(groups)))
    if value <= _rounding(groups, c):
        return 1.0
    return 2 * _t_tail(value / error, freedom) if error else 0.0


def jackknife(sample: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]) -> np.ndarray:
    """Return replicates of a statistic θ of all seeds together, by the delete-a-block jackknife.

    `sample` is indexed by seed and is cut into B = min(seeds, BLOCKS) blocks. The pseudo-values B θ - (B-1) θ_(-b)
    average to a less biased θ and scatter like B independent values (Tukey 1958). Empty with fewer than two seeds.
    """
    seeds = np.unique(sample.index)
    count = min(len(seeds), BLOCKS)
    if count < 2:
        return np.empty(0)
    block_of = pd.Series(np.arange(len(seeds)) % count, index=seeds).loc[sample.index].to_numpy()
    without = np.array([statistic(sample[block_of != block]) for block in range(count)])
    return np.asarray(count * statistic(sample) - (count - 1) * without)


def jackknife_logs(sample: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]) -> np.ndarray:
    """Return the `jackknife` replicates of log θ, where θ is a variance, for example. Empty if θ is not positive for
    the whole sample or with some block left out."""
    logs = jackknife(sample, lambda part: math.log(theta) if (theta := statistic(part)) > 0 else math.nan)
    return logs if np.isfinite(logs).all() else np.empty(0)


def pooled(
    sample: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], positive: bool = True
) -> tuple[float, Interval]:
    """Return a statistic of all seeds together, with the t interval of its `jackknife`.

    The interval assumes no distribution of the sample, since kernels have heavier tails than normal values. If the
    statistic is `positive` (a variance, for example), the interval is that of its logarithm, which few seeds determine
    better. A correlation is not, since it may be zero. The interval is centred at the jackknife's less biased value and
    widened to contain the statistic itself. nan where there are no replicates.
    """
    value = statistic(sample)
    low, high = level((jackknife_logs if positive else jackknife)(sample, statistic)).interval
    return value, holding(value, (math.exp(low), math.exp(high)) if positive else (low, high))


def holding(value: float, interval: Interval) -> Interval:
    """Return the smallest interval that contains both the interval and the value; nan if the interval is nan."""
    low, high = interval
    return (low, high) if math.isnan(low) or math.isnan(high) else (min(low, value), max(high, value))


def monotonicity(axis: Sequence[float] | pd.Series, values: Sequence[float] | pd.Series) -> tuple[float, float]:
    """Return Kendall's τ-b of `values` (one per run) with the axis, and the p value of independence. τ is -1 if every
    run at a larger value of the axis lies below every run at a smaller one, whatever the law."""
    from scipy import stats  # takes four times as long to import as scipy.special

    test = stats.kendalltau(np.asarray(axis, dtype=float), np.asarray(values, dtype=float), nan_policy="omit")
    return float(test.statistic), float(test.pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return Holm's adjusted p values. Rejecting those below α keeps the chance of any false rejection below α."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return np.asarray(np.minimum(adjusted, 1.0)[np.argsort(order)])


def _line(groups: Replicates, curvature: float, asymptotic: bool, confidence: float, paired: bool) -> Exponent:
    coefficients = _contrasts(groups, degree=1)
    slope, interval = _estimate(groups, coefficients[1], 2, confidence, paired)
    if not asymptotic:
        ends = [_estimate(groups, secant, 2, confidence, paired)[1] for secant in _end_secants(groups)]
        # The slope is a weighted mean of the local exponents, so it lies between them, apart from rounding.
        interval = holding(slope, hull(*ends))
    constant = float(coefficients[0] @ _means(groups))
    counts = {at: len(group) for at, group in groups.items()}
    shares = {} if paired else _variance_shares(groups, coefficients[1])
    return Exponent(slope, interval, constant, (min(groups), max(groups)), counts, curvature, asymptotic, shares)


def _no_fit(status: Status, groups: Replicates) -> Exponent:
    nan, counts = math.nan, {at: len(group) for at, group in groups.items()}
    return Exponent(nan, (nan, nan), nan, (nan, nan), counts, nan, False, {}, status)


def _contrasts(groups: Replicates, degree: int) -> np.ndarray:
    """Return the matrix whose row k holds the c_w with Σ_w c_w m_w = the coefficient of (log n)^k in the fit weighted
    by seeds."""
    x, k = np.log(np.array(list(groups))), _counts(groups)
    centre = x.mean()  # only for conditioning; undone for the constant below
    design = np.vander(x - centre, degree + 1, increasing=True)
    rows = np.linalg.solve(design.T @ (k[:, None] * design), design.T * k)
    if degree == 1:
        rows[0] = rows[0] - centre * rows[1]
    return np.asarray(rows)


def _end_secants(groups: Replicates) -> list[np.ndarray]:
    """Return the contrasts of the slopes between the first two widths and between the last two."""
    x = np.log(np.array(list(groups)))
    contrasts = []
    for start in (0, len(x) - 2):
        c = np.zeros(len(x))
        c[start : start + 2] = np.array([-1, 1]) / (x[start + 1] - x[start])
        contrasts.append(c)
    return contrasts


def _estimate(
    groups: Replicates, c: np.ndarray, parameters: int, confidence: float, paired: bool
) -> tuple[float, Interval]:
    """Return Σ c_w m_w and its t interval."""
    value = float(c @ _means(groups))
    error, freedom = _error(groups, c, parameters, paired)
    half = _t_quantile((1 + confidence) / 2, freedom) * error
    return value, (value - half, value + half)


def _t_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy import special  # imported here, since reading a config does not need it

    return float(special.stdtrit(freedom, probability))


def _t_tail(value: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds `value`."""
    from scipy import special

    return float(special.stdtr(freedom, -value))


def _error(groups: Replicates, c: np.ndarray, parameters: int, paired: bool) -> tuple[float, float]:
    """Return the standard error of Σ c_w m_w and its degrees of freedom. The error is 0 if it is no larger than
    rounding.

    If some width has a single seed, the scatter about a fitted curve with `parameters` coefficients is used.
    """
    k = _counts(groups)
    if paired and k[0] >= 2:
        of_pairs = c @ np.stack(list(groups.values()))  # Σ c_w y_w of each pair
        error, freedom = of_pairs.std(ddof=1) / math.sqrt(len(of_pairs)), float(len(of_pairs) - 1)
    elif k.min() >= 2:
        parts, used = _variance_parts(groups, c), c != 0
        denominator = float((parts[used] ** 2 / (k[used] - 1)).sum())
        error = math.sqrt(parts.sum())
        freedom = float(parts.sum() ** 2 / denominator) if denominator else float(k.sum() - len(k))
    else:
        x = np.repeat(np.log(np.array(list(groups))), k)
        y = np.concatenate(list(groups.values()))
        fit = np.polynomial.Polynomial.fit(x, y, parameters - 1)
        freedom = float(len(y) - parameters)
        error = math.sqrt(float(np.square(y - fit(x)).sum()) / freedom * float((c**2 / k).sum()))
    return (0.0 if error <= _rounding(groups, c) else float(error)), freedom


def _rounding(groups: Replicates, c: np.ndarray) -> float:
    """Return a bound on the rounding error of Σ c_w m_w: in every term, ROUNDING times the largest number (at least
    1)."""
    largest = max(1.0, *(float(np.abs(group).max()) for group in groups.values()))
    return ROUNDING * largest * float(np.abs(c).sum())


def _variance_parts(groups: Replicates, c: np.ndarray) -> np.ndarray:
    """Return what each width contributes to the variance of Σ c_w m_w."""
    return np.asarray(c**2 * np.array([group.var(ddof=1) for group in groups.values()]) / _counts(groups))


def _variance_shares(groups: Replicates, c: np.ndarray) -> dict[float, float]:
    """Return the share of the variance of Σ c_w m_w that each width contributes; empty if a width has a single seed."""
    if _counts(groups).min() < 2:
        return {}
    parts = _variance_parts(groups, c)
    return dict(zip(groups, (parts / (parts.sum() or 1.0)).tolist(), strict=True))


def _curvature_p(groups: Replicates, paired: bool) -> float:
    """Return the two-sided p value of the quadratic term; nan if it cannot be tested."""
    spare = int(_counts(groups).sum()) - 3
    if len(groups) < 3 or (min(map(len, groups.values())) < 2 and spare < 1):
        return math.nan
    return _tail(groups, _contrasts(groups, degree=2)[2], paired)


def _means(groups: Replicates) -> np.ndarray:
    return np.array([group.mean() for group in groups.values()])


def _counts(groups: Replicates) -> np.ndarray:
    return np.array([len(group) for group in groups.values()])
