"""Effects of finite width on relu networks without biases at initialisation, in closed form.

A relu layer without bias is homogeneous: given its input, a unit's square has mean ½ and second moment 3/2 in units of
the pre-activation's variance, so ‖a^(l)‖² is multiplied, layer by layer, by independent factors of relative variance
5/n_l. Hence, with r = Π_l (1 + 5/n_l) over the hidden layers,

    excess kurtosis of F_i(x)       3(r - 1)                   exact at any width  (Hanin and Nica 2019, for products)
    correlation of F_i², F_j²       (r - 1)/(3r - 1)           exact at any width, i ≠ j
    Var K_0(x,x)/E[K_0(x,x)]²       (1/n)[5(L-1) - 4(L²-1)/(3L)]     leading order, equal hidden widths n

The last is derived in docs/theory.md: the terms of K add up over layers and share the factors on their way. σ_w does
not matter. Conditions: σ = relu, β = 0, no skip connections.
"""

import math

from ntkrun.errors import UserError
from ntkrun.theory.architecture import SizedArchitecture


def output_kurtosis(net: SizedArchitecture) -> float:
    """Return the excess kurtosis of an output F_i(x) over initialisations, E[F⁴]/E[F²]² - 3, which is 0 for a Gaussian.

    It is 3(r - 1) with r = Π_l (1 + 5/n_l) over the hidden layers, exactly at any width (Hanin and Nica 2019, for
    products). Raises UserError unless the network is dense, σ is relu and β = 0.

    >>> import ntkrun
    >>> for width in (15, 150):
    ...     net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=width, activation="relu", beta=0.0)
    ...     print(width, round(ntkrun.output_kurtosis(net), 6))
    15 1.0
    150 0.1
    """
    return 3 * (_fluctuation(net) - 1)


def output_square_correlation(net: SizedArchitecture) -> float:
    """Return the correlation of F_i(x)² and F_j(x)², i ≠ j, over initialisations.

    It is (r - 1)/(3r - 1) with r = Π_l (1 + 5/n_l) over the hidden layers, exactly at any width. The outputs themselves
    are uncorrelated at any width, and independent in the limit. Raises UserError unless the network is dense, σ is relu
    and β = 0.

    >>> import ntkrun
    >>> for width in (5, 5000):
    ...     net = ntkrun.DenseNetwork(inputs=2, outputs=2, depth=2, width=width, activation="relu", beta=0.0)
    ...     print(width, f"{ntkrun.output_square_correlation(net):.4f}")
    5 0.2000
    5000 0.0005
    """
    r = _fluctuation(net)
    return (r - 1) / (3 * r - 1)


def kernel_variance(net: SizedArchitecture) -> float:
    """Return Var K_0(x,x)/E[K_0(x,x)]² over initialisations, to leading order in 1/n.

    It is (1/n)[5(L-1) - 4(L²-1)/(3L)], that is 3/n, 6.44/n, 10/n, 13.6/n at L = 2..5 (docs/theory.md derives it).
    Raises UserError unless the network is dense, σ is relu, β = 0 and the hidden widths are equal, and in the standard
    parametrization, whose kernel weighs the layers differently.

    >>> import ntkrun, torch
    >>> net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=300, activation="relu", beta=0.0)
    >>> x = torch.ones(1, 2, dtype=torch.float64)
    >>> K = ntkrun.empirical_ntk(net, net.init(range(1000), torch.float64), x)[:, 0, 0, 0, 0]
    >>> print(f"predicted {ntkrun.kernel_variance(net):.3f}, of 1000 networks {float(K.var() / K.mean() ** 2):.3f}")
    predicted 0.010, of 1000 networks 0.010
    """
    _check(net)
    if net.parametrization == "standard":
        raise UserError("the variance of the kernel is known in the NTK parametrization, not in the standard one")
    hidden, depth = net.widths[1:-1], net.depth
    if len(set(hidden)) > 1:
        raise UserError(f"the variance of the kernel is known for equal hidden widths, not for {list(hidden)}")
    return (5 * (depth - 1) - 4 * (depth**2 - 1) / (3 * depth)) / hidden[0] if hidden else 0.0


def _fluctuation(net: SizedArchitecture) -> float:
    """Return r = E[‖a^(L-1)‖⁴]/E[‖a^(L-1)‖²]²."""
    _check(net)
    return math.prod(1 + 5 / width for width in net.widths[1:-1])


def _check(net: SizedArchitecture) -> None:
    if any(net.skips):
        raise UserError("the finite-width formulas hold for dense networks, not for networks with skip connections")
    if net.activation != "relu" or net.beta != 0:
        raise UserError(
            f"the finite-width formulas hold for relu without biases, not for {net.activation} with β = {net.beta:g}"
        )
