"""Dual activations: E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for centred Gaussians u, v of variances q1, q2 and correlation ρ, in
closed form.

c = ρ sqrt(q1 q2) is the covariance, s = q1 + q2, θ = arccos ρ. Sources: Cho and Saul 2009 (relu), Williams 1997 (erf),
Tsuchida et al. 2021 (gelu); the rest by direct integration. E[σ'σ'] = ∂/∂c E[σσ] throughout, which the tests use.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.activations import leaky_slope

Dual = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def dual(name: str) -> Dual:
    """The dual of the activation called `name`: (q1, q2, ρ), which broadcast, to (E[σσ], E[σ'σ']). Raises UserError
    without one."""
    slope = leaky_slope(name)
    if slope is not None:
        return piecewise_linear(slope, 1.0)
    if name not in DUALS:
        raise UserError(f"the infinite-width kernel of {name} is not there yet (it is for {', '.join(DUALS)})")
    return DUALS[name]


def piecewise_linear(a: float, b: float) -> Dual:
    """σ(z) = a·z for z < 0 and b·z for z > 0: relu is (0, 1), abs is (-1, 1)."""

    def of(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        size, theta = (q1 * q2).sqrt(), rho.acos()
        slopes = (a * a + b * b) / 2 - (a - b) ** 2 * theta / (2 * math.pi)
        sine = (1 - rho * rho).clamp(min=0).sqrt()
        return size * ((a - b) ** 2 * sine / (2 * math.pi) + rho * slopes), slopes

    return of


def _identity(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    c = rho * (q1 * q2).sqrt()
    return c, torch.ones_like(c)


def _erf(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    c = rho * (q1 * q2).sqrt()
    # atan2 keeps every digit where asin(2c/sqrt(product)) loses half of them, and the root is a sum of positive terms.
    root = (1 + 2 * (q1 + q2) + 4 * q1 * q2 * (1 - rho * rho)).sqrt()
    return (2 / math.pi) * torch.atan2(2 * c, root), (4 / math.pi) / root


def _sin(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    less, more = _halves(q1, q2, rho)
    return (less - more) / 2, (less + more) / 2


def _cos(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    less, more = _halves(q1, q2, rho)
    return (less + more) / 2, (less - more) / 2


def _halves(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """E[cos(u-v)] = exp(c - s/2) and E[cos(u+v)] = exp(-c - s/2)."""
    c, half = rho * (q1 * q2).sqrt(), (q1 + q2) / 2
    return (c - half).exp(), (-c - half).exp()


def _gelu(q1: Tensor, q2: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    c = rho * (q1 * q2).sqrt()
    both = (1 + q1) * (1 + q2)
    d = 1 + q1 + q2 + q1 * q2 * (1 - rho * rho)  # (1+q1)(1+q2) - c²
    root = d.sqrt()
    phi = torch.atan2(c, root)
    value = c / 4 + ((c * c + q1 * q2 * d) / (both * root) + c * phi) / (2 * math.pi)
    slopes = 0.25 + phi / (2 * math.pi) + c / (2 * math.pi * root) * (1 / d + (1 - q1 * q2) / both + 1)
    return value, slopes


DUALS: dict[str, Dual] = {
    "identity": _identity,
    "relu": piecewise_linear(0.0, 1.0),
    "leaky_relu": piecewise_linear(0.01, 1.0),
    "abs": piecewise_linear(-1.0, 1.0),
    "erf": _erf,
    "sin": _sin,
    "cos": _cos,
    "gelu": _gelu,
}
