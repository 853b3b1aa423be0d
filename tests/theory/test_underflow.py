"""The limit kernels over the whole range of float64, against decimal numbers of 30 digits and any exponent."""

import math
import sys
from decimal import Decimal, localcontext
from functools import cache

import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.theory.limit import expected_kernel, limit_kernels, limit_layers
from ntkrun.theory.numerical import root_of_product

DEPTH = 1000
LEAK = 0.01  # in binary, as in the network
ROUNDING, OF_ANGLES = Decimal("1e-12"), Decimal("1e-14")
POINTS = torch.tensor([[1.0, 2.0, -0.5], [0.75, -1.0, 1.5]], dtype=torch.float64)
TINY, LARGEST = Decimal(sys.float_info.min), Decimal(sys.float_info.max)
Pair = tuple[Decimal, Decimal]


def _arctan(t: Decimal) -> Decimal:
    """arctan t = 2 arctan(t/(1 + sqrt(1+t²))), eight times, and then its series at |t| < 0.004."""
    if not t:
        return t
    for _ in range(8):
        t = t / (1 + (1 + t * t).sqrt())
    return 256 * sum(((-1) ** k * t ** (2 * k + 1) / (2 * k + 1) for k in range(7)), Decimal(0))


@cache
def _pi() -> Decimal:
    return 4 * _arctan(Decimal(1))


def _dual(name: str, q1: Decimal, q2: Decimal, c: Decimal) -> Pair:
    """E[σ(u)σ(v)] and E[σ'(u)σ'(v)], from the covariance c: relu and leaky_relu (s) after Cho and Saul, erf after
    Williams."""
    if name == "identity":
        return c, Decimal(1)
    if name == "erf":
        root = ((1 + 2 * q1) * (1 + 2 * q2) - 4 * c * c).sqrt()
        return 2 / _pi() * _arctan(2 * c / root), 4 / _pi() / root
    s = {"relu": Decimal(0), "leaky_relu": Decimal(LEAK)}[name]
    rest = max((q1 * q2 - c * c), Decimal(0)).sqrt()  # sin θ sqrt(q1 q2)
    theta = 2 * _arctan(rest / ((q1 * q2).sqrt() + c))  # ρ is far from -1 here
    slopes = (1 + s * s) / 2 - (1 - s) ** 2 * theta / (2 * _pi())
    return (1 - s) ** 2 * rest / (2 * _pi()) + c * slopes, slopes


def _exact(name: str, weight: float, beta: float, x: torch.Tensor) -> list[list[Pair]]:
    """Σ^(l) and K^(l) of the pairs (x_0, x_0), (x_1, x_1), (x_0, x_1), for each layer."""
    w, b = Decimal(weight) ** 2, Decimal(beta) ** 2
    rows = [[Decimal(value) for value in row] for row in x.tolist()]
    dots = [sum(map(Decimal.__mul__, rows[i], rows[j])) / len(rows[0]) for i, j in ((0, 0), (1, 1), (0, 1))]
    layers = [[(w * dot + b, w * dot + b) for dot in dots]]
    for _ in range(1, DEPTH):
        (q1, _k1), (q2, _k2), (c, _k) = layers[-1]
        duals = [_dual(name, *args) for args in ((q1, q1, q1), (q2, q2, q2), (q1, q2, c))]
        terms = [(w * values + b, w * slopes) for values, slopes in duals]
        layers.append([(t, t + k * slope) for (t, slope), (_, k) in zip(terms, layers[-1], strict=True)])
    return layers


def _refused(layers: list[list[Pair]]) -> int | None:
    """The first layer that float64 cannot hold: a variance below the smallest normal number, or above an eighth of the
    largest, or a kernel above the largest."""
    for layer, numbers in enumerate(layers, 1):
        variances, kernels = [q for q, _ in numbers[:2]], [k for _, k in numbers[:2]]
        if min(variances) < TINY or max(variances) > LARGEST / 8 or max(kernels) > LARGEST:
            return layer
    return None


def _net(name: str, weight: float, beta: float, depth: int) -> DenseNetwork:
    return DenseNetwork(3, 1, depth, 1, name, beta, weight)


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "erf"])
@pytest.mark.parametrize(
    ("weight", "beta"), [(0.05, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 0.1), (math.sqrt(2), 0.0), (5.0, 0.1)]
)
def test_every_depth_is_exact_or_refused(name: str, weight: float, beta: float) -> None:
    """Where float64 holds the kernels of all layers, they are right; one layer more is a sentence.

    A layer rounds a few times, by 1.1e-16 each, relative to sqrt(q1 q2) and sqrt(k1 k2). Without cancellation that adds
    up to L·1e-15, 1e-12 at L = 1000. Off the diagonal of a kinked σ the inputs become nearly equal, and an error of
    1e-14 in ρ, of some layers, is 1e-14/θ in θ, or at most θ once they count as equal. Slopes (1 + s² - (1-s)² θ/π)/2
    have this error over π, relative to that at θ = 0, and the kernel adds them up."""
    kinked = name in ("relu", "leaky_relu")
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 30, -999999, 999999
        layers = _exact(name, weight, beta, POINTS)
        refused = _refused(layers)
        depth = DEPTH if refused is None else refused - 1
        found = limit_layers(_net(name, weight, beta, depth), POINTS, POINTS)
        kernels = found.nngp.tolist(), found.ntk.tolist()
        slopes = Decimal(0)  # what K may lose beside the diagonal
        for layer, numbers in enumerate(layers[:depth]):
            for (i, j), exact in zip(((0, 0), (1, 1), (0, 1)), numbers, strict=True):
                for part, kernel in enumerate(kernels):
                    size = (numbers[i][part] * numbers[j][part]).sqrt()
                    allowed = ROUNDING + (slopes if part and i != j else 0)
                    assert abs(Decimal(kernel[layer][i][j]) - exact[part]) <= allowed * size, (layer, i, j, part)
            (q1, _), (q2, _), (c, _) = numbers
            # 2 sin(θ/2) is less than θ at large angles, which allows more.
            theta = max(2 - 2 * c / (q1 * q2).sqrt(), Decimal(0)).sqrt()
            slopes += min(OF_ANGLES / theta, theta) / _pi() if kinked and theta else 0
    if refused is not None:
        with pytest.raises(UserError, match=rf"(und|ov)erflows float64 at layer {refused}: "):
            limit_kernels(_net(name, weight, beta, refused), POINTS)


@pytest.mark.parametrize("name", ["sin", "gelu", "abs", "tanh", "silu", "elu"])
def test_small_inputs_see_a_linear_or_homogeneous_activation(name: str) -> None:
    """At |z| ~ 1e-145 a smooth σ is σ'(0) z, and abs has the degree 1: the kernels are 1e-280 of those at |z| ~ 1e-5,
    where σ'' adds less than 1e-4."""
    net = _net(name, 1.0, 0.0, 3)
    large, small = (limit_kernels(net, scale * POINTS) for scale in (1e-5, 1e-145))
    for one, other in zip(large, small, strict=True):
        assert torch.allclose(other * 1e140 * 1e140, one, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "power"), [("square", 2), ("cube", 3), ("relu_squared", 2)])
def test_powers_are_homogeneous_until_their_variance_leaves_float64(name: str, power: int) -> None:
    """E[σσ] has the degree p in the variances, and so has K at two layers: powers of two scale without rounding."""
    net, scale = _net(name, 1.0, 0.0, 2), 2.0**-150
    for one, other in zip(limit_kernels(net, POINTS), limit_kernels(net, scale * POINTS), strict=True):
        assert torch.allclose(other / scale**power / scale**power, one, rtol=1e-14, atol=0)
    for size, match in ((1e-100, "underflows float64 at layer 2"), (1e100, "overflows float64 at layer 2")):
        with pytest.raises(UserError, match=match):
            limit_kernels(net, size * POINTS)


@pytest.mark.parametrize("name", ["erf", "gaussian", "gelu", "sin", "relu"])
def test_large_inputs_reach_their_limits(name: str) -> None:
    """At |z| = 1e150, q = 1e300, erf is a sign and gelu is relu. To 1e-12, as a layer of each rounds a few times."""
    x = 1e150 * POINTS
    rho = float(x[0] / x[0].norm() @ (x[1] / x[1].norm()))
    size = x.norm(dim=1) / math.sqrt(3)
    turn = (1 - rho * rho) ** 0.5 + rho * math.acos(-rho)
    values = {
        "erf": 2 / math.pi * math.asin(rho),  # E[sign u sign v]
        "gaussian": 0.0,
        "sin": 0.0,
        "gelu": float(size[0]) / (2 * math.pi) * float(size[1]) * turn,
    }
    found = limit_kernels(_net(name, 1.0, 0.0, 2), x).nngp
    assert float(found[0, 1]) == pytest.approx(values.get(name, values["gelu"]), rel=1e-12, abs=1e-140)


def test_zero_inputs_stay_legal_and_tiny_ones_are_a_sentence() -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64)
    for name in ("relu", "erf", "tanh", "square"):
        for kernel in limit_kernels(_net(name, 1.0, 0.0, 3), torch.cat([POINTS, zero])):
            assert kernel[2].tolist() == [0, 0, 0]
    for x, match in ((1e-170 * POINTS, "underflows float64 at layer 1"), (1e170 * POINTS, "overflows float64 at lay")):
        with pytest.raises(UserError, match=match):
            limit_kernels(_net("relu", 1.0, 0.0, 3), x)
    with pytest.raises(UserError, match="overflows"):  # Σ = 1e307 at every layer, but K is 50 times that
        limit_kernels(_net("relu", math.sqrt(2), 0.0, 50), 2e153 * POINTS)


def test_the_standard_parametrization_below_its_biases() -> None:
    """At β = 1 and x = 1e-12, E[xx] = 1e-24 is lost beside β² = 1: K's first term comes from E[xx] itself. At L = 2 of
    the identity, lim K_n/n = E[aa] = σ_w² E[xx] + β², and the expected kernel at n is n_0 E[xx] + 1 times σ_w², plus
    n E[aa] + 1."""
    net = DenseNetwork(3, 1, 2, 4, "identity", 0.0, 0.5)
    x = 2.0**-300 * POINTS
    gram = x @ x.T / 3
    assert torch.allclose(limit_kernels(net, x, parametrization="standard").ntk, gram / 4, rtol=1e-15, atol=0)
    net = DenseNetwork(3, 1, 2, 4, "square", 1e3, 1e-3)
    found = expected_kernel(net, POINTS, parametrization="standard")
    q = 1e-6 * (POINTS @ POINTS.T / 3) + 1e6
    squares = q.diagonal()[:, None] * q.diagonal() + 2 * q * q  # E[u²v²]
    expected = (POINTS @ POINTS.T + 1) * 1e-6 * 4 * q + 4 * squares + 1
    assert torch.allclose(found, expected, rtol=1e-14, atol=0)


def test_roots_of_products_have_the_digits_of_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    q = (40 * torch.randn(2, 10000, dtype=torch.float64, generator=generator)).exp()  # 1e-70 to 1e70
    assert torch.equal(root_of_product(*q), (q[0] * q[1]).sqrt())
    ends = torch.tensor([0.0, 5e-324, sys.float_info.min, 1.0, sys.float_info.max], dtype=torch.float64)
    assert torch.equal(root_of_product(ends, ends), ends)
