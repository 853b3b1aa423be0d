"""Dual activations, closed and numerical, each against the other and against quadratures of the tests' own."""

import itertools
import math

import numpy as np
import pytest
import torch

from ntkrun.theory.activations import Activation, activation
from ntkrun.theory.duals import DUALS, ClosedDual, Dual, closed_form
from ntkrun.theory.numerical import numerical_dual
from ntkrun.theory.quadrature import mehler, panels, sectors

KINKED = ("relu", "leaky_relu", "abs", "relu_squared", "leaky_relu(0.3)")
WIDEST = {
    "sin": 10.0,
    "cos": 10.0,
    "exp": 1.0,
}  # beyond, sin turns faster than the nodes, and exp outgrows ten deviations
NAMES = [*DUALS, "leaky_relu(0.3)", "leaky_relu(-2)"]


def dual(name: str) -> Dual:
    found = closed_form(name)
    assert found is not None
    return found


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
    q = min(q, WIDEST.get(name, q)) if name == "exp" else q
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


# --------------------------------------------------------------------------- numerical duals

ENDS = [-1.0, -0.9999, -0.6, 0.0, 0.3, 0.8, 0.99, 0.999999, 1.0]


def _limit(name: str) -> float:
    """The contract; what is measured stays below 1e-13."""
    return 1e-9 if name in KINKED else 1e-10


def _largest_difference(name: str, q: torch.Tensor, rho: float) -> float:
    """Numerical against closed on all pairs of variances at this ρ, relative to sqrt(E[σ(u)²] E[σ(v)²])."""
    numerical, closed = numerical_dual(activation(name), q, q), ClosedDual(dual(name), q, q)
    at = torch.full((len(q), len(q)), rho, dtype=torch.float64)
    worst = 0.0
    for k in (0, 1):
        norms = (closed.squares[0][k][:, None] * closed.squares[1][k]).sqrt()
        every = slice(None)
        difference = numerical.block(every, every, at)[k] - closed.block(every, every, at)[k]
        worst = max(worst, float((difference / norms).abs().max()))
    assert numerical.error <= _limit(name)
    return worst


@pytest.mark.parametrize("name", [*DUALS, "leaky_relu(0.3)"])
def test_few_pairs_equal_the_closed_form_over_six_decades(name: str) -> None:
    q = torch.logspace(-3, math.log10(WIDEST.get(name, 1e3)), 4, dtype=torch.float64)
    for rho in ENDS:
        # Near ρ = 1 the closed forms take arccos ρ, which is off by 1e-16/sqrt(1-ρ): 1e-13 here.
        assert _largest_difference(name, q, rho) <= _limit(name)


@pytest.mark.parametrize(
    ("name", "span"), [(name, (0.2, 3.0)) for name in [*DUALS, "leaky_relu(0.3)"]] + [("relu", (1.0, 1.0))]
)
def test_many_pairs_equal_the_closed_form(name: str, span: tuple[float, float]) -> None:
    q = torch.logspace(math.log10(span[0]), math.log10(span[1]), 12, dtype=torch.float64)
    assert numerical_dual(activation(name), q, q).series is not None
    for rho in ENDS:
        assert _largest_difference(name, q, rho) <= _limit(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "relu_squared", "erf", "gelu"])
def test_many_pairs_over_six_decades_equal_the_closed_form(name: str) -> None:
    q = torch.logspace(-3, math.log10(WIDEST.get(name, 1e3)), 12, dtype=torch.float64)
    for rho in ENDS:
        assert _largest_difference(name, q, rho) <= _limit(name)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "silu", "elu"])
def test_three_rules_agree_where_there_is_no_closed_form(name: str) -> None:
    """Polar sectors, nested panels and (smooth σ) Mehler's series share no node: 1e-12 is rounding of 1e5 terms."""
    sigma, q = activation(name), torch.tensor([0.01, 0.8, 4.0], dtype=torch.float64)
    theta = torch.tensor([0.0, 1e-3, 0.4, 1.5, 3.0, math.pi], dtype=torch.float64)
    polar = torch.stack([torch.stack(pair) for pair in sectors(sigma, q, theta, 3)])  # (J, 2, Q, Q)
    j, a, b = (part.flatten() for part in torch.meshgrid(*map(torch.arange, (6, 3, 3)), indexing="ij"))
    nested = torch.stack(panels(sigma, q[a], q[b], theta[j], 0)).view(2, 6, 3, 3).transpose(0, 1)
    norms = polar[0].diagonal(dim1=1, dim2=2)
    norms = (norms[:, :, None] * norms[:, None]).sqrt()
    assert ((polar - nested) / norms).abs().max() < 1e-12
    series = mehler(sigma, q, theta, 1e-12)
    assert (series is None) == (name == "elu")
    if series is not None:
        assert ((polar - torch.stack([torch.stack(pair) for pair in series])) / norms).abs().max() < 1e-11


def test_kinks_elsewhere_equal_a_closed_form() -> None:
    """hardtanh. At ρ = 0, E[σ(u)σ(v)] = E[σ(u)] E[σ(v)] = 0 and E[σ'σ'] = P(|u|<1) P(|v|<1); elsewhere ∂E[σσ]/∂c =
    E[σ'σ'] by differences."""
    sigma = Activation("hardtanh", "", torch.nn.functional.hardtanh, (-1.0, 1.0))
    q = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = numerical_dual(sigma, q, q)
    inside = torch.erf(1 / (2 * q).sqrt())
    values, slopes = found.block(slice(None), slice(None), torch.zeros(2, 2, dtype=torch.float64))
    assert values.abs().max() < 1e-13
    assert torch.allclose(slopes, inside[:, None] * inside, rtol=1e-12, atol=0)
    rho, step = 0.6, 1e-4
    at = torch.tensor([rho - step, rho, rho + step], dtype=torch.float64)
    three = [found.block(slice(None), slice(None), r.expand(2, 2)) for r in at]
    size = (q[:, None] * q).sqrt()
    change = (three[2][0] - three[0][0]) / (2 * step * size)
    assert torch.allclose(change, three[1][1], rtol=1e-6, atol=0)  # the third derivative times step²


def test_variances_of_zero_need_no_direction() -> None:
    q = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = numerical_dual(activation("sigmoid"), q, q)
    values, slopes = found.block(slice(None), slice(None), torch.zeros(2, 2, dtype=torch.float64))
    assert values[0].tolist() == pytest.approx([0.25, 0.25], rel=1e-14)  # ½·½ and ½·E[sigmoid] = ½·½
    assert float(slopes[0, 0]) == pytest.approx(1 / 16, rel=1e-14)
