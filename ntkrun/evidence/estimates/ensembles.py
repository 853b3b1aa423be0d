"""Statistics of network outputs over initialisations, from the outputs table with seeds pooled.

The last layer's weights are Gaussian. Given the hidden layers, F_i(x) is therefore Gaussian with a variance v(x) that
is known exactly. Averages over v have less noise than averages over F, because the scatter of the last layer drops out.
"""

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.intervals import holm
from ntkrun.evidence.estimates.per_run import last_steps

TRAIN = "train"


def at_start(case: Case, at: float) -> pd.DataFrame:
    """Return the outputs at step 0 of the runs at one value of the axis, indexed by seed."""
    table = case.outputs
    return table[(table[AT] == at) & (table["step"] == 0)].set_index("seed")


def conditional_variances(case: Case, at: float) -> pd.DataFrame:
    """Return v(x) and K_ii(x, x) of each run and input at step 0, indexed by seed. Only output 0 is used, since v is
    the same for all outputs."""
    table = at_start(case, at)
    return table[table["output"] == 0][["part", "input", "variance", "kernel", "limit_kernel"]]


def excess_kurtosis(sample: pd.DataFrame) -> float:
    """Return the excess kurtosis of F_i(x) over initialisations, 3 Var(v)/E[v]², averaged over inputs.

    The formula follows from F_i(x) = √v(x)·N(0, 1) (theory.md, finite width). The sample kurtosis of F itself is biased
    low.
    """
    v = sample.groupby(["part", "input"])["variance"].agg(["mean", "var"])
    return float((3 * v["var"] / v["mean"] ** 2).mean())


def kernel_variance(sample: pd.DataFrame) -> float:
    """Return Var K_0(x, x)/K_inf(x, x)², averaged over inputs."""
    k = sample.groupby(["part", "input"]).agg(var=("kernel", "var"), limit=("limit_kernel", "first"))
    return float((k["var"] / k["limit"] ** 2).mean())


def squares(case: Case, at: float) -> pd.DataFrame:
    """Return F_i(x)² at step 0 with one column per output and the columns part and input, indexed by seed. Empty if
    there is only one output."""
    table = at_start(case, at)
    if table["output"].nunique() < 2:
        return pd.DataFrame()
    wide = table.reset_index().pivot(index=["seed", "part", "input"], columns="output", values="value")
    return (wide**2).reset_index().set_index("seed")


def square_correlation(sample: pd.DataFrame) -> float:
    """Return corr(F_i(x)², F_j(x)²), i ≠ j, averaged over pairs of outputs and over inputs. It is 0 if the outputs are
    independent.

    The mean and the variance of F_i² are pooled over the outputs, which are exchangeable.
    """
    correlations = []
    for _, part in sample.groupby(["part", "input"]):
        values = part.drop(columns=["part", "input"]).to_numpy()
        centred = values - values.mean()
        total, diagonal = np.square(centred.sum(axis=1)).sum(), np.square(centred).sum()
        correlations.append((total - diagonal) / ((values.shape[1] - 1) * diagonal))
    return float(np.mean(correlations))


def covariance_bias(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, n/L times the relative error of the output covariance given its hidden layers,
    Σ_x (C - Σ) Σ / Σ_x Σ².

    The sums run over the entries (x, x) and (x, x_0), where x_0 is the first input of x's part. C is the conditional
    covariance and Σ the covariance at infinite width. The mean over seeds is n/L times the bias of the covariance, a
    number of order 1 if the bias is of order L/n.
    """
    table = at_start(case, at)
    table = table[table["output"] == 0]
    limit = table[["limit_variance", "limit_covariance"]].to_numpy()
    error = (table[["variance", "covariance"]].to_numpy() - limit) * limit
    sums = pd.DataFrame({"error": error.sum(axis=1), "size": np.square(limit).sum(axis=1)}, index=table.index)
    by_run = sums.groupby(level="seed").sum()
    return at / case.depth * by_run["error"] / by_run["size"]


def normality(case: Case, at: float) -> str:
    """Return the result of D'Agostino and Pearson's test that F_i(x) at step 0 is Gaussian over seeds, as text.

    It is the smallest p value over inputs and outputs, adjusted by Holm's procedure, or "" with fewer than 20 seeds.
    Few seeds detect no deviation, and enough seeds detect the deviation of any finite width.
    """
    from scipy import stats  # slow to import, and needed only for sweeps at initialisation

    table = at_start(case, at)
    if table.index.nunique() < 20:
        return ""
    tests = [stats.normaltest(part["value"]).pvalue for _, part in table.groupby(["part", "input", "output"])]
    return f"normality test at {at:g}: the smallest of {len(tests)} adjusted p values is {holm(tests).min():.2g}"


def kept_steps(case: Case) -> list[int]:
    """Return the steps after the start whose outputs on test inputs the tables hold, in ascending order."""
    table = case.outputs
    return sorted(map(int, table.loc[(table["part"] != TRAIN) & (table["step"] > 0), "step"].unique()))


def on_test_inputs(case: Case, at: float, step: str = "") -> pd.DataFrame:
    """Return the outputs on test inputs after a step: its number as text, or "" for the last one kept."""
    wanted = int(step) if step else max(kept_steps(case), default=0)
    table = case.outputs
    return table[(table[AT] == at) & (table["part"] != TRAIN) & (table["step"] == wanted)]


# The statistics below compare trained networks with a law that predicts mean, variance and covariance of their outputs:
# LIMIT, that of networks trained by the same steps, or NNGP, that of networks of which only the last layer is trained,
# for ever. NNGP is a wrong theory, which they have to refute.
LIMIT, NNGP = "limit", "nngp"


def learned_part(case: Case, at: float, step: str = "", law: str = LIMIT) -> pd.Series:
    """Return, for each run, how much of the predicted mean m its function contains: Σ_x F(x) m(x) / Σ_x m(x)².

    The sums run over the test inputs. The average over runs is 1 if the ensemble's mean is m. nan where m is negligible
    compared with the spread s.
    """
    table = on_test_inputs(case, at, step)
    mean, variance = table[f"{law}_mean"], table[f"{law}_variance"]
    table = table.assign(dot=table["value"] * mean, size=mean**2, spread=variance)
    by_run = table.groupby("seed")[["dot", "size", "spread"]].sum(min_count=1)
    return (by_run["dot"] / by_run["size"]).where(by_run["size"] > 1e-6 * by_run["spread"])


def bias(case: Case, at: float, step: str = "", law: str = LIMIT) -> pd.Series:
    """Return `mean_bias` on test inputs."""
    return mean_bias(on_test_inputs(case, at, step), law)


def mean_bias(outputs: pd.DataFrame, law: str = LIMIT) -> pd.Series:
    """Return, for each run, the jackknife pseudo-value of the ensemble's bias, Σ_x (E F(x) - m(x))² / Σ_x s²(x).

    `outputs` holds the rows of one step and one part of an outputs table, with the seed. m and s² are the predicted
    mean and variance. The bias is 0 if the ensemble's mean is m, and it detects a deviation of any shape. Its estimate
    averages d_i·(mean of the other d_j) with d = F - m, so that scatter alone adds nothing. The pseudo-values have this
    estimate as their mean, and their t interval covers the bias.
    """
    table = outputs.assign(off=outputs["value"] - outputs[f"{law}_mean"])
    off = table.pivot(index="seed", columns=["input", "output"], values="off")
    size = table.groupby(["input", "output"])[f"{law}_variance"].first().sum() or np.nan  # unknown
    mean_of_others = (off.sum() - off) / max(len(off) - 1, 1)
    products = (off * mean_of_others).sum(axis=1, min_count=1) / size
    return 2 * products - products.mean()


def spread(case: Case, at: float, step: str = "", law: str = LIMIT) -> pd.Series:
    """Return, for each run, the mean over test inputs of (F(x) - m(x))²/s²(x).

    m and s² are the predicted mean and variance. The average over runs is 1 if both are right.
    """
    table = on_test_inputs(case, at, step)
    deviation = (table["value"] - table[f"{law}_mean"]) ** 2 / table[f"{law}_variance"]
    return deviation.groupby(table["seed"]).mean()


def covariance(case: Case, at: float, step: str = "", law: str = LIMIT) -> pd.Series:
    """Return `projected_covariance` on test inputs."""
    return projected_covariance(on_test_inputs(case, at, step), law)


def projected_covariance(outputs: pd.DataFrame, law: str = LIMIT) -> pd.Series:
    """Return, for each run, 1 + Σ_x C(x)/s²(x) · d(x_0) r(x) / Σ_x C(x)²/s²(x),  r(x) = d(x) - d(x_0) C(x)/s²(x_0).

    The sums run over outputs, and over all inputs x except the first of their part, x_0. d = F - m, and m, s² and
    C(x) = C(x, x_0) are the predicted mean, variance and covariance; r is what remains of d(x) given d(x_0). The
    average over runs is 1 if d(x_0) determines the mean of d(x) as predicted, and 0 if values at different inputs are
    independent. A common factor of all covariances does not change it, which `spread` shows, and so it scatters half as
    much as the products d(x) d(x_0). nan where C vanishes.
    """
    keys = ["seed", "part", "output"]
    mean, variance, covariance = (f"{law}_{name}" for name in ("mean", "variance", "covariance"))
    table = outputs.assign(off=outputs["value"] - outputs[mean])
    first = table.loc[table["input"] == 0, [*keys, "off", variance]].set_axis([*keys, "off_first", "first"], axis=1)
    table = table[table["input"] != 0].merge(first, on=keys)
    weight = table[covariance] / table[variance]
    rest = table["off"] - table["off_first"] * table[covariance] / table["first"]
    table = table.assign(dot=weight * table["off_first"] * rest, size=weight * table[covariance])
    by_run = table.groupby("seed")[["dot", "size"]].sum(min_count=1)
    return (1 + by_run["dot"] / by_run["size"]).where(by_run["size"] > 0)


def inside(outputs: pd.DataFrame, deviations: float) -> pd.Series:
    """Return, for each run, the share of rows of an outputs table whose value is within `deviations` standard
    deviations of the mean. Infinite width predicts both the mean and the standard deviation."""
    off = (outputs["value"] - outputs["limit_mean"]).abs() / np.sqrt(outputs["limit_variance"])
    return (off <= deviations).groupby(outputs["run_id"]).mean()


def along_limit(outputs: pd.DataFrame) -> pd.DataFrame:
    """Split the function of each run and step, on training inputs, along what infinite width learns by the last step.

    The direction is g = limit_mean/‖limit_mean‖ at the last step, with norms ‖f‖² = (1/N) Σ_i f(x_i)². The columns are
    `along`, (1/N) Σ_i f g; `orthogonal`, ‖f - along·g‖; and `limit`, (1/N) Σ_i limit_mean·g. There must be one output.
    nan where no limit mean is known.
    """
    table = outputs[outputs["part"] == TRAIN]
    last = last_steps(table)[["run_id", "input", "limit_mean"]].rename(columns={"limit_mean": "g"})
    last["g"] = last["g"] / np.sqrt((last["g"] ** 2).groupby(last["run_id"]).transform("mean"))
    table = table.merge(last, on=["run_id", "input"])
    table = table.assign(along=table["value"] * table["g"], limit=table["limit_mean"] * table["g"])
    projections = table.groupby(["run_id", "step"], sort=False)[["along", "limit"]].mean()
    squared_norms = (table["value"] ** 2).groupby([table["run_id"], table["step"]], sort=False).mean()
    projections["orthogonal"] = np.sqrt((squared_norms - projections["along"] ** 2).clip(lower=0))
    return projections.reset_index()


def over_seeds(outputs: pd.DataFrame) -> pd.DataFrame:
    """Return, for each step, input and output of an outputs table (of one part), the `mean`, `std` and `count` of the
    values over runs, and the `limit_mean` and `limit_variance` that infinite width predicts."""
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
