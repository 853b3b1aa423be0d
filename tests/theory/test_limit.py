"""The limit kernels against independent calculations."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ntkrun
from ntkrun.engine.network import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.theory.activations import activation
from ntkrun.theory.duals import DUALS, dual
from ntkrun.theory.limit import limit_kernels, relative_step_size

REFERENCE = json.loads((Path(__file__).parent.parent / "data" / "limit_kernels.json").read_text())
NAMES = [*DUALS, "leaky_relu(0.3)", "leaky_relu(-2)"]


def _net(activation: str = "relu", depth: int = 3, beta: float = 0.1, weight_scale: float = 1.0, inputs: int = 3):
    return DenseNetwork(inputs, 1, depth, 1, activation, beta, weight_scale)


def _by_quadrature(name: str, q1: float, q2: float, rho: float) -> tuple[float, float]:
    """E[σ(u)σ(v)] and E[σ'(u)σ'(v)] in polar coordinates, the angle split where u or v changes sign."""
    turn = math.acos(rho)
    crossings = [math.pi / 2, 3 * math.pi / 2, turn + math.pi / 2, turn + 3 * math.pi / 2]
    breaks = sorted({angle % (2 * math.pi) for angle in crossings})
    radii, of_radius = _gauss(0.0, 9.0)  # exp(-r²/2) is 3e-18 at r = 9
    total = torch.zeros(2, dtype=torch.float64)
    for start, end in zip(breaks, [*breaks[1:], breaks[0] + 2 * math.pi], strict=True):
        angles, of_angle = _gauss(start, end)
        density = of_angle[:, None] * radii * torch.exp(-radii * radii / 2) * of_radius / (2 * math.pi)
        su, du = _with_slope(name, math.sqrt(q1) * angles.cos()[:, None] * radii)
        sv, dv = _with_slope(name, math.sqrt(q2) * (angles - turn).cos()[:, None] * radii)
        total += torch.stack([(su * sv * density).sum(), (du * dv * density).sum()])
    return float(total[0]), float(total[1])


def _gauss(start: float, end: float, count: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.tensor((nodes + 1) / 2 * (end - start) + start), torch.tensor(weights / 2 * (end - start))


def _with_slope(name: str, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """σ(z) and σ'(z), the latter by autograd."""
    z = z.detach().requires_grad_()
    value = activation(name).function(z)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("q1", "q2", "rho"), [(1.0, 1.0, 0.5), (0.3, 2.0, -0.8), (1.3, 0.2, 0.0), (0.7, 0.7, 0.97)])
def test_duals_equal_quadrature(name: str, q1: float, q2: float, rho: float) -> None:
    # 80 Gauss points a panel integrate these smooth pieces to rounding; 1e-12 leaves room for the sum of 1e4 terms.
    found = dual(name)(*(torch.tensor(t, dtype=torch.float64) for t in (q1, q2, rho)))
    for value, wanted in zip(found, _by_quadrature(name, q1, q2, rho), strict=True):
        assert float(value) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("q", [1e-3, 1.0, 1e3])
def test_duals_at_the_ends_are_one_dimensional(name: str, q: float, sign: float) -> None:
    """ρ = ±1: v = ±u, so E[σ(z)σ(±z)], in 400 panels on each side of 0; 1e-11 leaves room for the sum of 3e4 terms."""
    edges = torch.linspace(0, 9, 401, dtype=torch.float64)
    panels = [_gauss(float(a), float(b), 40) for a, b in itertools.pairwise(edges)]
    half, weights = torch.cat([p[0] for p in panels]), torch.cat([p[1] for p in panels])
    z = torch.cat([-half, half])
    density = torch.cat([weights, weights]) * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    su, du = _with_slope(name, math.sqrt(q) * z)
    sv, dv = _with_slope(name, sign * math.sqrt(q) * z)
    at, end = torch.tensor(q, dtype=torch.float64), torch.tensor(sign, dtype=torch.float64)
    size = float((su * su * density).sum())
    for value, wanted in zip(
        dual(name)(at, at, end), ((su * sv * density).sum(), (du * dv * density).sum()), strict=True
    ):
        assert float(value) == pytest.approx(float(wanted), rel=1e-11, abs=1e-11 * max(1.0, size))


@pytest.mark.parametrize(
    "case", REFERENCE["cases"], ids=lambda c: f"{c['activation']}-{c['depth']}-{c['beta']}-{c['weight_scale']}"
)
def test_limit_kernels_equal_the_reference(case: dict) -> None:
    # The reference (another library, float64) and we round differently; both keep about 1e-15 a layer.
    net = _net(case["activation"], case["depth"], case["beta"], case["weight_scale"])
    found = limit_kernels(net, np.array(REFERENCE["x"]))
    for name in ("nngp", "ntk"):
        wanted = torch.tensor(case[name], dtype=torch.float64)
        assert (getattr(found, name) - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_check_values_of_jacot_figure_1() -> None:
    """L=4, n_0=2, β=0.1, relu on the unit circle: five digits known from two independent codes."""
    angles = torch.arange(5, dtype=torch.float64) * math.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    kernel = limit_kernels(_net(depth=4, inputs=2), torch.tensor([[1.0, 0.0]]), circle).ntk[0]
    assert torch.allclose(kernel, torch.tensor([0.2825, 0.16997, 0.0927, 0.06604, 0.06435]).double(), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", DUALS)
def test_limit_kernel_is_the_mean_of_wide_networks(name: str) -> None:
    """At L=2 the mean of K_0 over seeds is K_inf at any width; within 4 standard errors of 400 networks."""
    net = DenseNetwork(3, 1, 2, 64, name, 0.3, 1.2)
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    kernels = ntkrun.empirical_ntk(net, net.init(range(400), torch.float64), x)[..., 0, 0]
    error = kernels.std(dim=0) / math.sqrt(len(kernels))
    assert ((kernels.mean(dim=0) - limit_kernels(net, x).ntk).abs() <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "abs"])
def test_fifty_layers_stay_finite_symmetric_and_positive(name: str) -> None:
    x = torch.tensor(
        np.concatenate([REFERENCE["x"], REFERENCE["x"][:2], [[0.0, 0.0, 0.0]], -np.array(REFERENCE["x"][:1])])
    )
    for kernel in limit_kernels(_net(name, depth=50, weight_scale=1.4), x):
        assert kernel.isfinite().all()
        assert (kernel == kernel.T).all()
        spectrum = torch.linalg.eigvalsh(kernel)
        assert spectrum[0] >= -1e-13 * spectrum[-1]  # rounding of 50 layers


def test_equal_inputs_in_two_sets_give_the_diagonal() -> None:
    """Near ρ = 1 the inverse cosine loses half the digits; equal inputs must not suffer from that."""
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    net = _net("relu", depth=11)
    assert torch.allclose(limit_kernels(net, x, x).ntk, limit_kernels(net, x).ntk, rtol=1e-13, atol=0)


def test_relative_step_size_is_r_over_the_largest_eigenvalue() -> None:
    x = np.array(REFERENCE["x"])
    kernel = limit_kernels(_net(), x).ntk.numpy() / len(x)
    assert relative_step_size(_net(), x, 0.5) == pytest.approx(0.5 / np.linalg.eigvalsh(kernel)[-1], rel=1e-12)


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(UserError, match="shape"):
        limit_kernels(_net(), np.ones((3, 4)))
    with pytest.raises(UserError, match="finite"):
        limit_kernels(_net(), np.array([[1.0, math.nan, 0.0]]))
    with pytest.raises(UserError, match="tanh is not there yet"):
        limit_kernels(_net("tanh"), np.ones((2, 3)))
    with pytest.raises(UserError, match="vanishes"):
        relative_step_size(_net(beta=0.0), np.zeros((2, 3)), 1.0)
    with pytest.raises(UserError, match="slope"):
        _net("leaky_relu(x)")
