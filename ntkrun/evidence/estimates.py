"""Estimates from the tables: what each run gives, levels a width, and exponents in the width with honest intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

WIDTH = "network.width"
CONFIDENCE = 0.95
WIDTHS_PER_LAYER = 16  # a width enters a fit when n >= 16 L: the expansion is in L/n
CURVATURE_LEVEL = 0.01  # a power law is given up for a range when its curvature is this unlikely


@dataclass(frozen=True)
class Level:
    """A quantity at one width: the mean over `count` runs, its standard error (nan for one run), and the 95 % t
    interval."""

    mean: float
    standard_error: float
    interval: tuple[float, float]
    count: int


@dataclass(frozen=True)
class Exponent:
    """The exponent b of y = c·n^b, with its 95 % interval; `log_constant` is log c.

    `fit_range` is the widths fitted, from and to; `curvature_p` the probability of so much curvature in log-log under a
    power law (nan with fewer than three widths); `asymptotic` is False when even the last range tried is curved. `why`
    says why there is no fit, or "".
    """

    slope: float
    interval: tuple[float, float]
    log_constant: float
    fit_range: tuple[float, float]
    counts: Mapping[float, int]
    curvature_p: float
    asymptotic: bool
    why: str = ""

    def __bool__(self) -> bool:
        return not self.why


def per_run(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """One row a finished run: its columns of `runs`, and `loss` (last), `test_loss` (last), `loss_ratio` (last over
    first), `kernel_drift`, `weight_drift`, `output_drift`, `linear_gap` and `weight_drift.<l>` for each layer (sup over
    the steps)."""
    done = runs[runs["status"] == "done"]
    of_done = steps[steps["run_id"].isin(done["run_id"])].sort_values("step", kind="stable").groupby("run_id")
    ends = of_done[["loss", "test_loss"]].last()
    ends["loss_ratio"] = ends["loss"] / of_done["loss"].first()
    drifts = ["kernel_drift", "weight_drift", "output_drift", "linear_gap"]
    sups = of_done[[name for name in drifts if name in steps]].max()  # tables of an earlier version lack the last
    by_layer = (
        layers[layers["run_id"].isin(done["run_id"])]
        .groupby(["run_id", "layer"])["weight_drift"]
        .max()
        .unstack("layer")
    )
    by_layer.columns = [f"weight_drift.{int(layer)}" for layer in by_layer.columns]
    statistics = pd.concat([ends, sups, by_layer], axis=1)
    return done.merge(statistics, left_on="run_id", right_index=True, how="left")


def level(values: Sequence[float] | pd.Series) -> Level:
    """Mean, standard error over seeds and t interval."""
    y = np.asarray(values, dtype=float)
    if len(y) < 2:
        mean = float(y[0]) if len(y) else math.nan
        return Level(mean, math.nan, (math.nan, math.nan), len(y))
    error = float(y.std(ddof=1) / math.sqrt(len(y)))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(y) - 1)) * error
    return Level(float(y.mean()), error, (float(y.mean()) - half, float(y.mean()) + half), len(y))


def fit_exponent(widths: Sequence[float] | pd.Series, values: Sequence[float] | pd.Series, depth: int = 1) -> Exponent:
    """The exponent of `values` (one a run) in `widths`, in the widest range in which a power law is not contradicted.

    log y is averaged over the seeds of each width; the line through these means is weighted by the number of seeds. Its
    slope is Σ_w c_w m_w with known c_w, so its variance is Σ c_w² s_w²/k_w with each width's own variance s_w² over its
    k_w seeds, and its interval is a t interval with Welch and Satterthwaite's degrees of freedom: weights that were
    themselves estimated would claim too much with few seeds. Where some width has a single seed, the scatter about the
    line serves instead, taken as equal at all widths.

    The range: widths n >= 16·depth; then, while the quadratic term in log n is significant at 1 %, the smallest width
    is dropped, down to three. If the last three are curved too, the slope is of those and `asymptotic` is False.
    """
    n, y = np.asarray(widths, dtype=float), np.asarray(values, dtype=float)
    usable = np.isfinite(y) & (y > 0) & (n >= WIDTHS_PER_LAYER * depth)
    groups = {width: np.log(y[usable & (n == width)]) for width in np.unique(n[usable])}
    if len(groups) < 2:
        few = f"{len(groups)} usable widths of at least {WIDTHS_PER_LAYER * depth} (16 a layer); a slope takes two"
        return _no_fit(few, groups)
    if all(len(group) == 1 for group in groups.values()) and len(groups) == 2:
        return _no_fit("two widths with a seed each leave no scatter to judge by; run more seeds", groups)
    while True:
        curvature = _curvature_p(groups)
        curved = curvature < CURVATURE_LEVEL
        if not curved or len(groups) <= 3:
            return _line(groups, curvature, not curved)
        groups = dict(list(groups.items())[1:])


def _line(groups: Mapping[float, np.ndarray], curvature: float, asymptotic: bool) -> Exponent:
    coefficients = _contrasts(groups, degree=1)
    slope, interval = _estimate(groups, coefficients[1], residual_parameters=2)
    constant = float(coefficients[0] @ _means(groups))
    counts = {width: len(group) for width, group in groups.items()}
    return Exponent(slope, interval, constant, (min(groups), max(groups)), counts, curvature, asymptotic)


def _no_fit(why: str, groups: Mapping[float, np.ndarray]) -> Exponent:
    nan, counts = math.nan, {width: len(group) for width, group in groups.items()}
    return Exponent(nan, (nan, nan), nan, (nan, nan), counts, nan, False, why)


def _contrasts(groups: Mapping[float, np.ndarray], degree: int) -> np.ndarray:
    """Row k holds the c_w with Σ_w c_w m_w = the coefficient of (log n)^k in the fit weighted by seeds."""
    x, k = np.log(np.array(list(groups))), _counts(groups)
    centre = x.mean()  # conditioning alone; undone for the constant below
    design = np.vander(x - centre, degree + 1, increasing=True)
    rows = np.linalg.solve(design.T @ (k[:, None] * design), design.T * k)
    if degree == 1:
        rows[0] = rows[0] - centre * rows[1]
    return np.asarray(rows)


def _estimate(
    groups: Mapping[float, np.ndarray], c: np.ndarray, residual_parameters: int
) -> tuple[float, tuple[float, float]]:
    """Σ c_w m_w and its t interval."""
    value = float(c @ _means(groups))
    error, freedom = _error(groups, c, residual_parameters)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return value, (value - half, value + half)


def _error(groups: Mapping[float, np.ndarray], c: np.ndarray, residual_parameters: int) -> tuple[float, float]:
    """The standard error of Σ c_w m_w and its degrees of freedom."""
    k = _counts(groups)
    if k.min() >= 2:
        parts = c**2 * np.array([group.var(ddof=1) for group in groups.values()]) / k
        if not parts.any():
            return 0.0, float(k.sum() - len(k))
        return math.sqrt(parts.sum()), float(parts.sum() ** 2 / (parts**2 / (k - 1)).sum())
    x = np.repeat(np.log(np.array(list(groups))), k)
    y = np.concatenate(list(groups.values()))
    fit = np.polynomial.Polynomial.fit(x, y, residual_parameters - 1)
    freedom = len(y) - residual_parameters
    variance = float(np.square(y - fit(x)).sum()) / freedom
    return math.sqrt(variance * float((c**2 / k).sum())), float(freedom)


def _curvature_p(groups: Mapping[float, np.ndarray]) -> float:
    """The two-sided p value of the quadratic term; nan where it cannot be tested."""
    spare = int(_counts(groups).sum()) - 3
    if len(groups) < 3 or (min(map(len, groups.values())) < 2 and spare < 1):
        return math.nan
    c = _contrasts(groups, degree=2)[2]
    error, freedom = _error(groups, c, residual_parameters=3)
    value = abs(float(c @ _means(groups)))
    if error == 0:
        return 1.0 if value < 1e-12 else 0.0
    return float(2 * stats.t.sf(value / error, freedom))


def _means(groups: Mapping[float, np.ndarray]) -> np.ndarray:
    return np.array([group.mean() for group in groups.values()])


def _counts(groups: Mapping[float, np.ndarray]) -> np.ndarray:
    return np.array([len(group) for group in groups.values()])
