"""Statistics of untrained networks over what the finite-width formulas of relu say of them (theory/corrections.py).

Each returns jackknife replicates, whose mean is the ratio, or none where no formula holds.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import Case
from ntkrun.evidence.estimates.ensembles import (
    conditional_variances,
    excess_kurtosis,
    kernel_variance,
    square_correlation,
    squares,
)
from ntkrun.evidence.estimates.intervals import jackknife


def variance_over_first_order(case: Case, at: float, column: str = "") -> np.ndarray:
    """Return replicates of Var K_0(x,x)/K_inf² over its formula to first order in 1/n."""
    return _over(case, at, kernel_variance, "predicted_kernel_variance")


def known(case: Case) -> bool:
    """Return True where the exact kurtosis of the outputs is known: for relu."""
    return bool(case.runs.get("predicted_kurtosis", pd.Series(dtype=float)).notna().any())


def kurtosis_over_exact(case: Case, at: float, column: str = "") -> np.ndarray:
    """Return replicates of the excess kurtosis of F_i(x) over its exact value."""
    return _over(case, at, excess_kurtosis, "predicted_kurtosis")


def correlation_over_exact(case: Case, at: float, column: str = "") -> np.ndarray:
    """Return replicates of the correlation of F_i(x)² and F_j(x)² over its exact value."""
    return _over(case, at, square_correlation, "predicted_square_correlation", squares)


def variance_over_deep(case: Case, at: float, column: str = "") -> np.ndarray:
    """Return replicates of Var K_0(x,x)/K_inf² over its formula at any ratio of depth to width."""
    return _over(case, at, kernel_variance, "predicted_deep_kernel_variance")


def _over(
    case: Case,
    at: float,
    statistic: Callable[[pd.DataFrame], float],
    prediction: str,
    sample_of: Callable[[Case, float], pd.DataFrame] = conditional_variances,
) -> np.ndarray:
    predicted = case.at(at).get(prediction, pd.Series(dtype=float)).dropna()
    sample = sample_of(case, at)
    if predicted.empty or sample.empty:
        return np.empty(0)
    return np.asarray(jackknife(sample, statistic) / float(predicted.iloc[0]))
