"""Dual activations: E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for centred Gaussians u, v of variances q1, q2 and correlation ρ, in
closed form, and the choice between the closed form and quadrature for a layer.

c = ρ sqrt(q1 q2) is the covariance, s = q1 + q2, θ = arccos ρ. Sources: Cho and Saul 2009 (relu and its powers),
Williams 1997 (erf), Tsuchida et al. 2021 (gelu); the others by direct integration. The tests use the identity
E[σ'σ'] = ∂/∂c E[σσ].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ntkrun.theory.activations import activation, leaky_slope
from ntkrun.theory.numerical import numerical_dual, root_of_product
from ntkrun.theory.quadrature import Pair

Dual = Callable[[Tensor, Tensor, Tensor], Pair]


class LayerDual(Protocol):
    """The dual of σ on the variances q1 (N,), q2 (M,) of one layer."""

    @property
    def squares(self) -> tuple[Pair, Pair]:
        """E[σ(u)²] and E[σ'(u)²] for each variance of q1 and for each of q2, the dual at ρ = 1."""

    @property
    def error(self) -> float:
        """The measured error of a numerical dual, relative to sqrt(E[σ(u)²] E[σ(v)²]); 0 for a closed form."""

    def block(self, rows: slice, columns: slice, rho: Tensor) -> Pair:
        """Return E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for these rows of q1 and columns of q2, with correlations ρ."""


def layer_dual(name: str, q1: Tensor, q2: Tensor) -> LayerDual:
    """Return the dual of an activation on these variances: its closed form if it has one, else by quadrature. Raises
    UserError where quadrature does not reach its tolerance."""
    closed = closed_form(name)
    return numerical_dual(activation(name), q1, q2) if closed is None else ClosedDual(closed, q1, q2)


def closed_form(name: str) -> Dual | None:
    """Return the closed form of an activation's dual, or None if it has none. It maps (q1, q2, ρ), which broadcast, to
    (E[σσ], E[σ'σ'])."""
    slope = leaky_slope(name)
    return DUALS.get(name) if slope is None else piecewise_linear(slope, 1.0)


@dataclass(frozen=True)
class ClosedDual:
    """A closed form applied to the variances of a layer."""

    function: Dual
    q1: Tensor
    q2: Tensor
    error: float = 0.0

    @property
    def squares(self) -> tuple[Pair, Pair]:
        first, second = (self.function(q, q, torch.ones_like(q)) for q in (self.q1, self.q2))
        return first, second

    def block(self, rows: slice, columns: slice, rho: Tensor) -> Pair:
        return self.function(self.q1[rows, None], self.q2[columns], rho)


def piecewise_linear(a: float, b: float) -> Dual:
    """Return the dual of σ(z) = a·z for z < 0 and b·z for z > 0. relu is (0, 1), abs is (-1, 1)."""

    def dual(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
        size, theta = root_of_product(q1, q2), rho.acos()
        slopes = (a * a + b * b) / 2 - (a - b) ** 2 * theta / (2 * math.pi)
        return size * ((a - b) ** 2 * _sine(rho) / (2 * math.pi) + rho * slopes), slopes

    return dual


def _sine(rho: Tensor) -> Tensor:
    return (1 - rho * rho).clamp(min=0).sqrt()


def _identity(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    c = rho * root_of_product(q1, q2)
    return c, torch.ones_like(c)


def _erf(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    c, root = _covariance_and_root(2 * q1, 2 * q2, rho)
    # atan2 is accurate to all digits where asin(2c/sqrt(product)) loses half of them.
    return (2 / math.pi) * torch.atan2(c, root), (4 / math.pi) / root


def _covariance_and_root(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    """Return c and sqrt((1+q1)(1+q2) - c²), a sum of positive terms, without overflow."""
    size = root_of_product(q1, q2)
    return rho * size, torch.hypot((1 + q1 + q2).sqrt(), size * _sine(rho))


def _erf_sigmoid(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    values, slopes = _erf(q1, q2, rho)
    return (1 + values) / 4, slopes / 4


def _sin(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    return _odd(q1, q2, rho), _even(q1, q2, rho)


def _cos(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    return _even(q1, q2, rho), _odd(q1, q2, rho)


def _odd(q1: Tensor, q2: Tensor, rho: Tensor) -> Tensor:
    """Return E[sin u sin v] = exp(-s/2) sinh c, without overflow and without cancellation at small c."""
    c = rho * root_of_product(q1, q2)
    return -(c.abs() - (q1 + q2) / 2).exp() * c.sign() * torch.expm1(-2 * c.abs()) / 2


def _even(q1: Tensor, q2: Tensor, rho: Tensor) -> Tensor:
    """Return E[cos u cos v] = exp(-s/2) cosh c."""
    c, half = rho * root_of_product(q1, q2), (q1 + q2) / 2
    return ((c - half).exp() + (-c - half).exp()) / 2


def _gaussian(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    c, root = _covariance_and_root(2 * q1, 2 * q2, rho)
    return 1 / root, 2 * c / root / root / root


def _square(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    return q1 * q2 * (1 + 2 * rho * rho), 4 * rho * root_of_product(q1, q2)


def _cube(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    size = q1 * q2
    return size * root_of_product(q1, q2) * rho * (9 + 6 * rho * rho), 9 * size * (1 + 2 * rho * rho)


def _relu_squared(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    size, theta = q1 * q2, rho.acos()
    values = size * (3 * _sine(rho) * rho + (math.pi - theta) * (1 + 2 * rho * rho)) / (2 * math.pi)
    return values, 4 * _RELU(q1, q2, rho)[0]


def _exp(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    value = ((q1 + q2) / 2 + rho * root_of_product(q1, q2)).exp()
    return value, value


def _gelu(q1: Tensor, q2: Tensor, rho: Tensor) -> Pair:
    c, root = _covariance_and_root(q1, q2, rho)
    phi = torch.atan2(c, root)
    part1, part2 = q1 / (1 + q1), q2 / (1 + q2)
    value = c / 4 + (part1 * part2 * (rho * rho / root + root) + c * phi) / (2 * math.pi)
    slopes = 0.25 + phi / (2 * math.pi) + c / (2 * math.pi * root) * (1 / root / root + 1 / (1 + q1) + 1 / (1 + q2))
    return value, slopes


_RELU = piecewise_linear(0.0, 1.0)

DUALS: dict[str, Dual] = {
    "identity": _identity,
    "relu": _RELU,
    "leaky_relu": piecewise_linear(0.01, 1.0),
    "abs": piecewise_linear(-1.0, 1.0),
    "erf": _erf,
    "erf_sigmoid": _erf_sigmoid,
    "sin": _sin,
    "cos": _cos,
    "gelu": _gelu,
    "gaussian": _gaussian,
    "square": _square,
    "cube": _cube,
    "relu_squared": _relu_squared,
    "exp": _exp,
}
