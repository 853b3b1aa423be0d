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
    """Return the excess kurtosis of an output F_i(x) over initialisations, E[F⁴]/E[F²]² - 3: 3(Π_l (1 + 5/n_l) - 1),
    exactly. Raises UserError unless σ is relu and β = 0."""
    return 3 * (_fluctuation(net) - 1)


def output_square_correlation(net: SizedArchitecture) -> float:
    """Return the correlation of F_i(x)² and F_j(x)², i ≠ j, over initialisations: (r-1)/(3r-1), r = Π_l (1 + 5/n_l),
    exactly. Outputs themselves are uncorrelated at any width. Raises UserError unless σ is relu and β = 0."""
    r = _fluctuation(net)
    return (r - 1) / (3 * r - 1)


def kernel_variance(net: SizedArchitecture) -> float:
    """Return Var K_0(x,x)/E[K_0(x,x)]² over initialisations, to leading order in 1/n: (1/n)[5(L-1) - 4(L²-1)/(3L)],
    which is 3/n, 6.44/n, 10/n, 13.6/n at L = 2..5. Raises UserError unless σ is relu, β = 0 and the hidden widths are
    equal, and in the standard parametrization, whose kernel weighs the layers differently."""
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
