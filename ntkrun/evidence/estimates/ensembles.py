"""Statistics of what networks of one kind compute over their initialisations: from the outputs table, seeds pooled.

The last layer's weights are Gaussian, so given the hidden layers F_i(x) is Gaussian with a variance v(x) that is known
exactly. Averages over it have less noise than those of F itself, by the whole scatter of the last layer.
"""

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.intervals import holm
from ntkrun.evidence.estimates.per_run import last_steps

TRAIN = "train"


def at_start(case: Case, at: float) -> pd.DataFrame:
    """The outputs at step 0 of the runs at one value of the axis, indexed by seed."""
    table = case.outputs
    return table[(table[AT] == at) & (table["step"] == 0)].set_index("seed")


def conditional_variances(case: Case, at: float) -> pd.DataFrame:
    """v(x) and K_ii(x, x) of each run and input at step 0, of one output (v is the same for all), indexed by seed."""
    table = at_start(case, at)
    return table[table["output"] == 0][["part", "input", "variance", "kernel", "limit_kernel"]]


def excess_kurtosis(sample: pd.DataFrame) -> float:
    """3 Var(v)/E[v]², the mean over inputs: the excess kurtosis of F_i(x) over initialisations, since F_i(x) =
    √v(x)·N(0, 1). (theory.md, finite width; the sample kurtosis of F itself is biased low.)"""
    v = sample.groupby(["part", "input"])["variance"].agg(["mean", "var"])
    return float((3 * v["var"] / v["mean"] ** 2).mean())


def kernel_variance(sample: pd.DataFrame) -> float:
    """Var K_0(x, x)/K_inf(x, x)², the mean over inputs."""
    k = sample.groupby(["part", "input"]).agg(var=("kernel", "var"), limit=("limit_kernel", "first"))
    return float((k["var"] / k["limit"] ** 2).mean())


def squares(case: Case, at: float) -> pd.DataFrame:
    """F_i(x)² at step 0 by output, a column each, indexed by seed, with the input; empty with one output."""
    table = at_start(case, at)
    if table["output"].nunique() < 2:
        return pd.DataFrame()
    wide = table.reset_index().pivot(index=["seed", "part", "input"], columns="output", values="value")
    return (wide**2).reset_index().set_index("seed")


def square_correlation(sample: pd.DataFrame) -> float:
    """corr(F_i(x)², F_j(x)²), i ≠ j, the mean over pairs of outputs and inputs: 0 were the outputs independent.

    With the mean and the variance of F_i² pooled over the outputs, which are exchangeable."""
    found = []
    for _, part in sample.groupby(["part", "input"]):
        values = part.drop(columns=["part", "input"]).to_numpy()
        centred = values - values.mean()
        total, own = np.square(centred.sum(axis=1)).sum(), np.square(centred).sum()
        found.append((total - own) / ((values.shape[1] - 1) * own))
    return float(np.mean(found))


def covariance_bias(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, n/L times the relative error of the covariances that its hidden layers give its outputs: Σ_x (C - Σ)
    Σ / Σ_x Σ² over the entries (x, x) and (x, x_0), x_0 the first input of x's part, C the conditional covariance and Σ
    that of infinite width.

    Its mean over seeds is n/L times the bias of the covariance, a number of order 1 where the bias is of order L/n.
    """
    table = at_start(case, at)
    table = table[table["output"] == 0]
    limit = table[["limit_variance", "limit_covariance"]].to_numpy()
    error = (table[["variance", "covariance"]].to_numpy() - limit) * limit
    sums = pd.DataFrame({"error": error.sum(axis=1), "size": np.square(limit).sum(axis=1)}, index=table.index)
    by_run = sums.groupby(level="seed").sum()
    return at / case.depth * by_run["error"] / by_run["size"]


def normality(case: Case, at: float) -> str:
    """In words, the smallest p value over inputs and outputs, adjusted by Holm, of D'Agostino and Pearson's test that
    F_i(x) at step 0 is Gaussian over seeds: few seeds cannot tell, and enough of them tell any finite width."""
    from scipy import stats  # dear to import, and asked of the sweep at initialisation alone

    table = at_start(case, at)
    if table.index.nunique() < 20:
        return ""
    tests = [stats.normaltest(part["value"]).pvalue for _, part in table.groupby(["part", "input", "output"])]
    return f"test of normality at {at:g}: smallest of {len(tests)} adjusted p values {holm(tests).min():.2g}"


def learned_part(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, how much of the mean that infinite width predicts of F_t(x) on test inputs at the end its own
    function has: Σ_x F(x) m(x) / Σ_x m(x)², 1 in the mean where the ensemble's mean is m; nan where m is 0 beside the
    spread s."""
    table = _at_end(case, at)
    mean, variance = table["limit_mean"], table["limit_variance"]
    table = table.assign(dot=table["value"] * mean, size=mean**2, spread=variance)
    by_run = table.groupby("seed")[["dot", "size", "spread"]].sum(min_count=1)
    return (by_run["dot"] / by_run["size"]).where(by_run["size"] > 1e-6 * by_run["spread"])


def bias(case: Case, at: float, column: str = "") -> pd.Series:
    """`mean_bias` on test inputs at the end."""
    return mean_bias(_at_end(case, at))


def mean_bias(outputs: pd.DataFrame) -> pd.Series:
    """The bias of the ensemble, of any shape, from the rows of one step and part of an outputs table with the seed:
    Σ_x (E F(x) - m(x))² / Σ_x s²(x), 0 where the mean is m. Of each run its jackknife pseudo-value, so that their mean
    is the estimate without the scatter's own share, d_i·(mean of the other d_j) with d = F - m, and their t interval
    covers it."""
    table = outputs.assign(off=outputs["value"] - outputs["limit_mean"])
    off = table.pivot(index="seed", columns=["input", "output"], values="off")
    size = table.groupby(["input", "output"])["limit_variance"].first().sum() or np.nan  # unknown
    others = (off.sum() - off) / max(len(off) - 1, 1)
    with_others = (off * others).sum(axis=1, min_count=1) / size
    return 2 * with_others - with_others.mean()


def covariance(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, Σ_x d(x) d(x_0) C(x, x_0) / Σ_x C(x, x_0)² over the test inputs x but the first, x_0, at the end:
    d = F - m, with m and C the mean and the covariance that infinite width predicts. 1 in the mean where both are
    right, 0 were the values at different inputs independent."""
    table = _at_end(case, at)
    table = table.assign(off=table["value"] - table["limit_mean"])
    first = table[table["input"] == 0][["seed", "output", "off"]].rename(columns={"off": "off_first"})
    table = table[table["input"] != 0].merge(first, on=["seed", "output"])
    limit = table["limit_covariance"]
    sums = pd.DataFrame({"seen": table["off"] * table["off_first"] * limit, "size": limit**2, "seed": table["seed"]})
    by_run = sums.groupby("seed").sum(min_count=1)
    return (by_run["seen"] / by_run["size"]).where(by_run["size"] > 0)


def spread(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, the mean over test inputs of (F_t(x) - m(x))²/s²(x) at the end, m and s² the mean and variance that
    infinite width predicts: 1 in the mean where both are right."""
    table = _at_end(case, at)
    deviation = (table["value"] - table["limit_mean"]) ** 2 / table["limit_variance"]
    return deviation.groupby(table["seed"]).mean()


def _at_end(case: Case, at: float) -> pd.DataFrame:
    """The outputs on test inputs after the last step."""
    table = case.outputs
    table = table[(table[AT] == at) & (table["part"] != TRAIN) & (table["step"] > 0)]
    return table[table["step"] == table["step"].max()]


def inside(outputs: pd.DataFrame, deviations: float) -> pd.Series:
    """Of each run, the share of the rows of an outputs table whose value is within so many of the standard deviations
    that infinite width predicts from the mean that it predicts."""
    off = (outputs["value"] - outputs["limit_mean"]).abs() / np.sqrt(outputs["limit_variance"])
    return (off <= deviations).groupby(outputs["run_id"]).mean()


def along_limit(outputs: pd.DataFrame) -> pd.DataFrame:
    """The function of each run and step of an outputs table, on training inputs, split along what infinite width learns
    by the last step, g = limit_mean/‖limit_mean‖ (norms ‖f‖² = (1/N) Σ_i f(x_i)²): columns `along` (1/N) Σ_i f g,
    `orthogonal` ‖f - along·g‖, and `limit`, (1/N) Σ_i limit_mean·g. One output; nan where no limit mean is known."""
    table = outputs[outputs["part"] == TRAIN]
    last = last_steps(table)[["run_id", "input", "limit_mean"]].rename(columns={"limit_mean": "g"})
    last["g"] = last["g"] / np.sqrt((last["g"] ** 2).groupby(last["run_id"]).transform("mean"))
    table = table.merge(last, on=["run_id", "input"])
    table = table.assign(along=table["value"] * table["g"], limit=table["limit_mean"] * table["g"])
    found = table.groupby(["run_id", "step"], sort=False)[["along", "limit"]].mean()
    whole = (table["value"] ** 2).groupby([table["run_id"], table["step"]], sort=False).mean()
    found["orthogonal"] = np.sqrt((whole - found["along"] ** 2).clip(lower=0))
    return found.reset_index()


def over_seeds(outputs: pd.DataFrame) -> pd.DataFrame:
    """Of each step, input and output of an outputs table (of one part), over its runs: `mean`, `std` and `count` of the
    values, and the `limit_mean` and `limit_variance` that infinite width predicts of them."""
    return (
        outputs.groupby(["step", "input", "output"])
        .agg(
            mean=("value", "mean"),
            std=("value", "std"),
            count=("value", "size"),
            limit_mean=("limit_mean", "first"),
            limit_variance=("limit_variance", "first"),
        )
        .reset_index()
    )
