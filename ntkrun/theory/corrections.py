"""Effects of finite width on relu networks at initialisation, in closed form.

Given the layers below, z^(l+1) has independent entries N(0, v), v = β² + σ_w² ‖a^(l)‖²/n_l. A unit relu(N(0, v)) has
the second moment v/2 and the fourth 3v²/2, so the mean of n of their squares has the relative variance 5/n, and

    E[v'|v] = β² + σ_w² v/2        E[v'²|v] = β⁴ + β² σ_w² v + σ_w⁴ v² (1 + 5/n)/4

Both are exact at any width. They start from v = q = Σ^(1)(x,x), which is not random. With r = E[v²]/E[v]² of the last
layer's v (without biases r = Π_l (1 + 5/n_l) over the hidden layers, for every q),

    excess kurtosis of F_i(x)       3(r - 1)                   exact at any width  (Hanin and Nica 2019, for products)
    correlation of F_i², F_j²       (r - 1)/(3r - 1)           exact at any width, i ≠ j

and without biases

    Var K_0(x,x)/E[K_0(x,x)]²       (1/n)[5(L-1) - 4(L²-1)/(3L)]     leading order, equal hidden widths n
                                    L⁻² Σ_{l,l'} (1 + 5/n)^{L-1-|l-l'|} (1 + 1/n)^{|l-l'|} - 1      at any L/n
                                    (approximate)

docs/theory.md derives them: the terms of K add up over layers and share the factors on their way. Conditions: σ = relu,
no skip connections.
"""

from ntkrun.errors import UserError
from ntkrun.theory.architecture import SizedArchitecture


def output_kurtosis(net: SizedArchitecture, variance: float | None = None) -> float:
    """Return the excess kurtosis of an output F_i(x) over initialisations, E[F⁴]/E[F²]² - 3, which is 0 for a Gaussian.

    It is 3(r - 1), r = E[v²]/E[v]² of the output's variance v given the hidden layers, exactly at any width (Hanin and
    Nica 2019, for products). With biases it depends on the input, by `variance`, Σ^(1)(x,x) = σ_w² ‖x‖²/n_0 + β².
    Raises UserError unless the network is dense and σ is relu, and where β ≠ 0 and `variance` is not given.

    >>> import ntkrun
    >>> for width in (15, 150):
    ...     net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=width, activation="relu", beta=0.0)
    ...     print(width, round(ntkrun.output_kurtosis(net), 6))
    15 1.0
    150 0.1
    """
    return 3 * (_fluctuation(net, variance) - 1)


def output_square_correlation(net: SizedArchitecture, variance: float | None = None) -> float:
    """Return the correlation of F_i(x)² and F_j(x)², i ≠ j, over initialisations.

    It is (r - 1)/(3r - 1), exactly at any width, with r and `variance` as for `output_kurtosis`. The outputs themselves
    are uncorrelated at any width, and independent in the limit. Raises UserError as `output_kurtosis`.

    >>> import ntkrun
    >>> for width in (5, 5000):
    ...     net = ntkrun.DenseNetwork(inputs=2, outputs=2, depth=2, width=width, activation="relu", beta=0.0)
    ...     print(width, f"{ntkrun.output_square_correlation(net):.4f}")
    5 0.2000
    5000 0.0005
    """
    r = _fluctuation(net, variance)
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
    hidden, depth = _equal_widths(net), net.depth
    return (5 * (depth - 1) - 4 * (depth**2 - 1) / (3 * depth)) / hidden if hidden else 0.0


def deep_kernel_variance(net: SizedArchitecture) -> float:
    """Return Var K_0(x,x)/E[K_0(x,x)]² over initialisations at any ratio of depth to width,

        L⁻² Σ_{l,l'=1..L} (1 + 5/n)^{L-1-|l-l'|} (1 + 1/n)^{|l-l'|} - 1,

    of which `kernel_variance` is the first order in 1/n. Each pair of layers l, l' shares the factors of relative
    variance 5/n outside of the two, and of 1/n between them, where only one of their two terms has the squares of a
    layer (after Hanin and Nica 2019; approximate, within a few percent). Raises UserError as `kernel_variance`."""
    hidden, depth = _equal_widths(net), net.depth
    if not hidden:
        return 0.0
    terms = (
        (1 + 5 / hidden) ** (depth - 1 - abs(l - m)) * (1 + 1 / hidden) ** abs(l - m)
        for l in range(depth)
        for m in range(depth)
    )
    return sum(terms) / depth**2 - 1


def _equal_widths(net: SizedArchitecture) -> int:
    """Return the width of all hidden layers, 0 if there are none."""
    _check(net)
    if net.beta != 0:
        raise UserError(f"the variance of the kernel is known without biases, not for β = {net.beta:g}")
    if net.parametrization == "standard":
        raise UserError("the variance of the kernel is known in the NTK parametrization, not in the standard one")
    hidden = net.widths[1:-1]
    if len(set(hidden)) > 1:
        raise UserError(f"the variance of the kernel is known for equal hidden widths, not for {list(hidden)}")
    return hidden[0] if hidden else 0


def _fluctuation(net: SizedArchitecture, variance: float | None) -> float:
    """Return r = E[v²]/E[v]² of the variance v of F_i(x) given the hidden layers."""
    _check(net)
    if net.beta != 0 and variance is None:
        raise UserError("with biases the formula depends on the input: give its variance Σ^(1)(x,x)")
    bias, weight = net.beta**2, net.weight_scale**2
    mean, square = (1.0, 1.0) if variance is None else (variance, variance**2)
    for width in net.widths[1:-1]:
        square = bias**2 + bias * weight * mean + weight**2 * square * (1 + 5 / width) / 4
        mean = bias + weight * mean / 2
    return square / mean**2


def _check(net: SizedArchitecture) -> None:
    if any(net.skips):
        raise UserError("the finite-width formulas hold for dense networks, not for networks with skip connections")
    if net.activation != "relu":
        raise UserError(f"the finite-width formulas hold for relu, not for {net.activation}")
