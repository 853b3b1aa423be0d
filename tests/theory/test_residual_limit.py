"""The limit kernels of residual networks against plain networks of many widths and against another integration."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special
from torch import Tensor

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.residual import ResidualNetwork
from ntkrun.errors import UserError
from ntkrun.theory.corrections import kernel_variance, output_kurtosis, output_square_correlation
from ntkrun.theory.limit import expected_kernel, limit_kernels, limit_layers

X = torch.tensor(json.loads(Path(__file__).with_name("limit_kernels.json").read_text())["x"], dtype=torch.float64)
BETA, SCALE = 0.3, 1.2


def _net(activation: str, depth: int, skip: float, width: int = 1, parametrization: str = "ntk") -> ResidualNetwork:
    return ResidualNetwork(3, 1, depth, width, activation, BETA, SCALE, parametrization, skip)


# ---------------------------------------------------------------- plain networks

# s_l and c_l of a hidden layer and of the last one, the standard deviations of weights and biases, by parametrization
FACTORS: dict[str, Callable[[float], tuple[float, float, float, float, float, float]]] = {
    "ntk": lambda n: (SCALE / n**0.5, BETA, SCALE / n**0.5, BETA, 1.0, 1.0),
    "standard": lambda n: (1.0, 1.0, 1.0, 1.0, SCALE / n**0.5, BETA),
    "mean_field": lambda n: (SCALE / n**0.5, BETA, SCALE / n, BETA / n**0.5, 1.0, 1.0),
}


def _kernels(name: str, sigma: Callable[[Tensor], Tensor], depth: int, skip: float, n: int, count: int) -> Tensor:
    """Return the kernels (count, 5, 5) of plain residual networks of width n, each gradient by autograd."""
    draw = torch.Generator().manual_seed(n)
    sizes = [3, *[n] * (depth - 1), 1]
    factors = [FACTORS[name](size) for size in sizes[:-1]]

    def output(parameters: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        z = a = x
        for layer, (w, b) in enumerate(parameters):
            weight, bias = factors[layer][2:4] if layer == depth - 1 else factors[layer][:2]
            branch = weight * w @ a + bias * b
            z = branch + skip * z if 0 < layer < depth - 1 else branch
            a = sigma(z)
        return z[0]

    def kernel(parameters: list[tuple[Tensor, Tensor]]) -> Tensor:
        gradients = torch.func.vmap(torch.func.grad(output), (None, 0))(parameters, X)
        flat = torch.cat([part.flatten(1) for pair in gradients for part in pair], dim=1)
        return flat @ flat.T

    parameters = [
        (
            std * torch.randn(count, m, k, dtype=torch.float64, generator=draw),
            bias_std * torch.randn(count, m, dtype=torch.float64, generator=draw),
        )
        for k, m, (*_, std, bias_std) in zip(sizes, sizes[1:], factors, strict=False)
    ]
    return torch.func.vmap(kernel, chunk_size=50)(parameters)


@pytest.mark.parametrize(
    ("activation", "sigma", "depth", "skip", "parametrization"),
    [
        ("erf", torch.erf, 3, 1.0, "ntk"),
        ("erf", torch.erf, 5, 0.5, "ntk"),
        ("tanh", torch.tanh, 4, 1.0, "ntk"),
        ("relu", torch.relu, 4, 0.5, "ntk"),
        ("relu", torch.relu, 3, 1.0, "ntk"),
        ("erf", torch.erf, 4, 1.0, "standard"),
        ("erf", torch.erf, 4, 0.5, "mean_field"),
    ],
)
def test_the_limit_is_what_plain_networks_tend_to(
    activation: str, sigma: Callable[[Tensor], Tensor], depth: int, skip: float, parametrization: str
) -> None:
    """The mean kernel of width n is the expected one up to c/n: twice that of width 2n minus that of n has no c, and
    what is left is below its 4 standard errors, in units of the expected trace."""
    means, errors = [], []
    for width, count in ((24, 1000), (48, 2000)):
        expected = expected_kernel(_net(activation, depth, skip, width, parametrization), X)
        kernels = _kernels(parametrization, sigma, depth, skip, width, count) / expected.trace()
        means.append(kernels.mean(dim=0) - expected / expected.trace())
        errors.append(kernels.std(dim=0) / math.sqrt(count))
    error = (4 * errors[1] ** 2 + errors[0] ** 2).sqrt()
    assert ((2 * means[1] - means[0]).abs() <= 4 * error).all()
    assert error.max() <= 0.012  # so that a wrong γ would be seen


# ---------------------------------------------------------------- another integration


def _trapezoids(sigma: Callable, slope: Callable, q1: float, q2: float, c: float) -> tuple[float, float]:
    """Return E[σσ] and E[σ'σ'] by the trapezoidal rule of step h = 0.1 in two independent normal variables: its error
    is exp(-2πd/h), d > 0.5 the distance of the nearest pole (of tanh, for variances up to 9), or 1e-14."""
    z = np.arange(-95, 96) / 10  # beyond lies 1e-20
    w = 0.1 * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    u = math.sqrt(q1) * z[:, None]
    v = c / math.sqrt(q1) * z[:, None] + math.sqrt(max(q2 - c * c / q1, 0.0)) * z
    return tuple(float(w @ (f(u) * f(v)) @ w) for f in (sigma, slope))  # type: ignore[return-value]


def _polar_relu(q1: float, q2: float, c: float) -> tuple[float, float]:
    """Return E[σσ] and E[σ'σ'] of relu as integrals over the angle of (u, v), between its kinks; E[r²] = 2."""
    angle = math.acos(max(-1.0, min(1.0, c / math.sqrt(q1 * q2))))
    ends = sorted([-math.pi, -math.pi / 2, math.pi / 2, angle - math.pi / 2, angle + math.pi / 2, math.pi])

    def mean(f: Callable[[float], float]) -> float:
        parts = [
            integrate.quad(lambda t: f(math.cos(t)) * f(math.cos(t - angle)), *e, epsabs=1e-14)[0]
            for e in itertools.pairwise(ends)
        ]
        return sum(parts) / (2 * math.pi)

    return 2 * math.sqrt(q1 * q2) * mean(lambda t: max(t, 0.0)), mean(lambda t: float(t > 0))


DUALS: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    "erf": lambda *q: _trapezoids(special.erf, lambda z: 2 / math.sqrt(math.pi) * np.exp(-z * z), *q),
    "tanh": lambda *q: _trapezoids(np.tanh, lambda z: np.cosh(z) ** -2.0, *q),
    "relu": _polar_relu,
}


def _recursion(name: str, depth: int, skip: float, wrong: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return Σ^(L) and K^(L) of X, in loops over pairs. `wrong` names a mistake to make."""
    x, dual = X.numpy(), DUALS[name]
    sigma = SCALE**2 * x @ x.T / 3 + BETA**2
    kernel = sigma.copy()
    for layer in range(1, depth):
        gamma = skip if layer < depth - 1 or wrong == "skip into the output" else 0.0
        pairs = [[dual(sigma[i, i], sigma[j, j], sigma[i, j]) for j in range(len(x))] for i in range(len(x))]
        branch, slopes = SCALE**2 * np.array(pairs)[..., 0] + BETA**2, SCALE**2 * np.array(pairs)[..., 1]
        sigma = branch + gamma**2 * sigma
        factor = slopes + (gamma if wrong == "γ instead of γ²" else gamma**2)
        kernel = (sigma if wrong == "the skip in the term" else branch) + kernel * factor
    return sigma, kernel


@pytest.mark.parametrize("skip", [0.5, 1.0])
@pytest.mark.parametrize(("name", "depth"), [("erf", 4), ("erf", 5), ("tanh", 3), ("relu", 3), ("relu", 5)])
def test_the_limit_is_that_of_another_integration(name: str, depth: int, skip: float) -> None:
    """The rules of both sides keep 1e-13 of the largest entry, layer by layer."""
    found = limit_kernels(_net(name, depth, skip), X)
    for kernel, expected in zip(found, _recursion(name, depth, skip), strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-11 * expected.max())


@pytest.mark.parametrize("wrong", ["γ instead of γ²", "the skip in the term", "skip into the output"])
def test_the_tests_would_see_a_wrong_recursion(wrong: str) -> None:
    """A mistake moves the kernel by more than the 4 standard errors of 1.2 % of the trace that plain networks have."""
    kernel = limit_kernels(_net("erf", 5, 0.5), X).ntk
    assert np.abs(_recursion("erf", 5, 0.5, wrong)[1] - kernel.numpy()).max() > 0.048 * float(kernel.trace())


# ---------------------------------------------------------------- borders


@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mean_field"])
@pytest.mark.parametrize("name", ["relu", "silu"])
def test_without_skips_it_is_the_dense_limit_to_the_last_digit(name: str, parametrization: str) -> None:
    for depth, skip in ((4, 0.0), (2, 1.0)):
        residual = _net(name, depth, skip, 16, parametrization)
        dense = DenseNetwork(3, 1, depth, 16, name, BETA, SCALE, parametrization)
        for one, other in zip(limit_kernels(residual, X), limit_kernels(dense, X), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(expected_kernel(residual, X), expected_kernel(dense, X))
        layers, of_dense = limit_layers(residual, X), limit_layers(dense, X)
        assert torch.equal(layers.ntk, of_dense.ntk)
        assert torch.equal(layers.slopes, of_dense.slopes)


def test_layers_are_the_kernels_of_the_stream_and_carry_what_is_below() -> None:
    layers = limit_layers(_net("erf", 4, 0.5), X)
    kernels = limit_kernels(_net("erf", 4, 0.5), X)
    assert torch.equal(layers.nngp[-1], kernels.nngp)
    assert torch.equal(layers.ntk[-1], kernels.ntk)
    for layer, skip in enumerate((0.5, 0.5, 0.0)):
        branch = layers.nngp[layer + 1] - skip**2 * layers.nngp[layer]
        assert torch.allclose(layers.ntk[layer + 1], branch + layers.ntk[layer] * layers.slopes[layer], rtol=1e-12)


@pytest.mark.parametrize(("skip", "scale"), [(0.3, 1.0), (1.0, 1.0), (1.0, 0.1)])
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_a_hundred_layers_keep_equal_inputs_equal(name: str, skip: float, scale: float) -> None:
    """Correlation 1 is exact in every layer. Near 1 an error e of ρ costs sqrt(e) in the slopes of a kinked σ, which
    100 layers would show; with γ = 1 the variance grows, linearly or, for relu, by a factor of 1.5 a layer. Small
    branches hand a rounding error of x·x', up to 2e-15 at 784 pixels, on from layer to layer undiminished."""
    pixels = 1 + torch.randn(200, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([pixels, pixels[:1], -pixels[:1], 0 * pixels[:1]])
    net = ResidualNetwork(784, 1, 100, 1, name, 0.1 * scale, scale, "ntk", skip)
    for kernel in limit_kernels(net, x):
        assert kernel.isfinite().all()
        assert (kernel == kernel.T).all()
        assert torch.allclose(kernel[0], kernel[200], rtol=1e-12, atol=0)
        spectrum = torch.linalg.eigvalsh(kernel)
        assert spectrum[0] >= -1e-11 * spectrum[-1]  # rounding of 100 layers
    along_an_axis = torch.zeros_like(x)  # the diagonal depends on the norms alone, and here x·x is a single product
    along_an_axis[:, 0] = x.norm(dim=1)
    expected = limit_kernels(net, along_an_axis).ntk.diagonal()
    assert torch.allclose(limit_kernels(net, x, x.clone()).ntk.diagonal(), expected, rtol=1e-12, atol=0)


def test_what_has_no_limit_or_no_formula_is_a_sentence() -> None:
    with pytest.raises(UserError, match="cannot be computed at a variance of"):
        limit_kernels(_net("tanh", 13, 1e15), X)
    for formula in (kernel_variance, output_kurtosis, output_square_correlation):
        with pytest.raises(UserError, match="hold for dense networks"):
            formula(ResidualNetwork(3, 1, 3, 8, "relu", 0.0, 1.0, "ntk", 0.5))
        shallow = ResidualNetwork(3, 1, 2, 8, "relu", 0.0)
        assert formula(shallow) == formula(DenseNetwork(3, 1, 2, 8, "relu", 0.0))
