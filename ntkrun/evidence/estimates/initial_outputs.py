"""Statistics that show if the outputs of untrained networks are jointly Gaussian and independent: a number for each
network, whose expectation the theory knows.

At infinite width F is Gaussian with the covariance Σ^(L). Given the hidden layers, it is so at every width, with the
conditional covariance of the last layer. Each statistic therefore exists for both laws, `LIMIT` and `GIVEN`: by the
first it deviates by O(1/n), by the second by nothing but noise.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case
from ntkrun.evidence.estimates.ensembles import at_start, projected_covariance

LIMIT = ("limit_variance", "limit_covariance")
GIVEN = ("variance", "covariance")
Law = tuple[str, str]  # columns: variance, and covariance with the first input of the part
Statistic = Callable[[Case, float, str], pd.Series]  # a number for each run at a value of the axis, indexed by seed

# A variance that the first input leaves is known to about 1e-7 of the whole, the rounding of float32: to 1e-3 of itself
# from this share on. Inputs that leave less are copies of the first.
RESOLVED = 1e-4
SAME = 3  # decimals of F/√v up to which outputs count as the same; rounding in float32 rarely reaches the fourth
FEWEST = 4  # outputs of a network: so many agree to SAME decimals by chance in one pair of 10^13


def standardised(case: Case, at: float, law: Law) -> pd.DataFrame:
    """Return the outputs at step 0, with the columns `z`, `first` and `rest`, which under the law are independent
    N(0, 1) except that `first` is the z of x_0: z = F(x)/√v(x), and

        rest = (F(x) - c F(x_0)/v(x_0)) / √(v(x) - c²/v(x_0))

    x_0 is the first input of x's part, v the law's variance and c its covariance of F(x) and F(x_0). `first` and `rest`
    are nan for x_0 itself and its copies.
    """
    variance, covariance = law
    table = at_start(case, at).reset_index()
    table = table.assign(z=table["value"] / np.sqrt(table[variance]))
    keys = ["seed", "part", "output"]
    first = table.loc[table["input"] == 0, [*keys, "z", variance]]
    table = table.merge(first.rename(columns={"z": "first", variance: "first_variance"}), on=keys, how="left")
    slope = table[covariance] / np.sqrt(table["first_variance"])
    left = table[variance] - slope**2
    left = left.where((table["input"] != 0) & (left > RESOLVED * table[variance]))
    rest = (table["value"] - slope * table["first"]) / np.sqrt(left)
    return table.assign(rest=rest, first=table["first"].where(left.notna()))


def moment(power: int, law: Law) -> Statistic:
    """Return the statistic z^power of one output, averaged over inputs and outputs, as a multiple of a Gaussian's
    moment: its expectation is 1 for an even power and 0 for an odd one."""

    def statistic(case: Case, at: float, column: str = "") -> pd.Series:
        table = standardised(case, at, law)
        return (table["z"] ** power / normal_moment(power)).groupby(table["seed"]).mean()

    return statistic


def joint_moment(power: int, power_of_rest: int, law: Law) -> Statistic:
    """Return the statistic first^power · rest^power_of_rest of pairs of inputs, averaged over pairs and outputs, as a
    multiple of a Gaussian's moment: its expectation is 1 if both powers are even, else 0.

    Powers 1 and 1 judge the covariance; 0 and 2, the conditional variance; 2 and 2 as well as 0 and 4, whether the pair
    is jointly Gaussian, since the values themselves could each be.
    """

    def statistic(case: Case, at: float, column: str = "") -> pd.Series:
        table = standardised(case, at, law).dropna(subset="rest")
        products = table["first"] ** power * table["rest"] ** power_of_rest
        return (products / (normal_moment(power) * normal_moment(power_of_rest))).groupby(table["seed"]).mean()

    return statistic


def between_outputs(power: int, law: Law = GIVEN) -> Statistic:
    """Return the statistic z_i^power z_j^power of two outputs i ≠ j on one input, averaged over pairs and inputs. Its
    expectation is 0 for power 1 and 1 for power 2 if the outputs are independent under the law. nan with one output."""

    def statistic(case: Case, at: float, column: str = "") -> pd.Series:
        table = standardised(case, at, law)
        powers = (table["z"] ** power).groupby([table["seed"], table["part"], table["input"]])
        pairs = powers.count() * (powers.count() - 1)
        squares = (table["z"] ** (2 * power)).groupby([table["seed"], table["part"], table["input"]]).sum()
        return ((powers.sum() ** 2 - squares) / pairs.where(pairs > 0)).groupby(level="seed").mean()

    return statistic


def covariance_part(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the part of Σ^(L) that the products F(x) F(x_0) have, Σ_x F(x) F(x_0) C / Σ_x C² with
    C = Σ^(L)(x, x_0). Its expectation is 1 at infinite width."""
    return projected_covariance(at_start(case, at).reset_index())


def normal_moment(power: int) -> int:
    """Return E N^power = (power-1)!! of a standard normal N for an even power, and 1 for an odd one, whose moment is 0
    and needs no scale."""
    return 1 if power % 2 else math.prod(range(1, power, 2))


# ---------------------------------------------------------------- independence


def with_next_seed(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the product of its `fluctuations` and those of the next seed (of the last seed: of the
    first), averaged over inputs and outputs.

    The expectation is 0 if seeds are independent, at any width. The products of different runs are then uncorrelated,
    so a t interval of their mean holds. It is ½ if seeds come in equal pairs, and ρ if any two have the correlation ρ.
    """
    table = fluctuations(case, at, column)
    return (table * np.roll(table.to_numpy(), -1, axis=0)).mean(axis=1)


def with_narrower(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the product of its `fluctuations` and those of the same seed at the next smaller value of
    the axis, averaged over inputs and outputs. The expectation is 0 if networks of different widths share no random
    numbers. Empty at the smallest value."""
    smaller = [value for value in case.statistics[AT].unique() if value < at]
    if not smaller:
        return pd.Series(dtype=float)
    return (fluctuations(case, at, column) * fluctuations(case, max(smaller), column)).mean(axis=1).dropna()


def fluctuations(case: Case, at: float, column: str = "") -> pd.DataFrame:
    """Return a column of the outputs at step 0 (the value by default) in its standard deviations, with one row per seed
    and one column per part, input and output.

    Of the value this is F/√v, whose mean 0 and variance 1 are known. Other columns, such as `variance` or `kernel`, are
    centred and scaled by all seeds, and taken from output 0. They show networks that share hidden layers, which leaves
    the values of symmetric σ uncorrelated.
    """
    table = at_start(case, at)
    if not column:
        table = table.assign(z=table["value"] / np.sqrt(table["variance"]))
        return table.pivot(columns=["part", "input", "output"], values="z").sort_index()
    wide = table[table["output"] == 0].pivot(columns=["part", "input", "output"], values=column).sort_index()
    return (wide - wide.mean()) / wide.std()


def copies(case: Case, at: float, column: str = "") -> pd.Series:
    """Return the number of runs whose outputs at step 0 are those of another seed up to rounding, not counting one of
    each kind. It is given for each run, since a single copy refutes that seeds are independent. nan where networks have
    too few outputs to tell."""
    table = fluctuations(case, at)
    known = table.shape[1] >= FEWEST
    distinct = len(np.unique(table.round(SAME).to_numpy(), axis=0)) if known else math.nan
    return pd.Series(float(len(table) - distinct), index=table.index)
