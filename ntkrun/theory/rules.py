"""The dynamics of the modes of a frozen kernel under gradient flow, gradient descent and heavy-ball momentum.

A mode with eigenvalue λ of K̂ = K(X,X)/N is described by two functions of time: p_t(λ), the remaining fraction of its
residual, and s_t(λ) = (1 - p_t(λ))/λ, the accumulated drive of the outputs on other inputs:

    gradient flow       p = e^{-λt},          s = (1 - e^{-λt})/λ -> t          as λ -> 0
    descent, k = t/η    p = (1 - ηλ)^k,       s = (1 - (1-ηλ)^k)/λ -> ηk        as λ -> 0
    heavy ball          v <- μv - η∇,  W <- W + v: a linear recursion of second order in each mode (Polyak 1964)
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ntkrun.errors import UserError


class Rule(Protocol):
    """A rule by which the weights follow the gradient, described by its effect on the modes of a frozen kernel."""

    def factors(self, eigenvalues: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_t(λ) and s_t(λ) for eigenvalues (..., P) at times (T,), each (..., T, P). At t = inf, s = 0 where
        λ = 0."""

    def slopes(self, eigenvalues: Tensor) -> Tensor:
        """Return d log|p_t(λ)|/dt for late t, (..., P). It is negative where the mode decays."""


@dataclass(frozen=True)
class Flow:
    """Gradient flow, dW/dt = -∇loss, the rule of descent with infinitely small steps.

    >>> import ntkrun, torch
    >>> one = torch.ones(1, 1, dtype=torch.float64)  # one input with K = 1 and target 1
    >>> for rule in (ntkrun.Descent(step_size=0.5), ntkrun.Descent(step_size=0.01), ntkrun.Flow()):
    ...     print(f"{float(ntkrun.frozen(one, one, 0 * one, times=[2.0], rule=rule).train):.4f}")
    0.9375
    0.8660
    0.8647
    """

    def factors(self, eigenvalues: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_t(λ) = e^{-λt}, the part of a mode's residual that remains, and s_t(λ) = (1 - e^{-λt})/λ, what has
        driven other outputs, for eigenvalues λ (..., P) at times (T,), each (..., T, P). At t = inf, s = 0 where λ = 0.

        >>> remaining, driven = ntkrun.Flow().factors(torch.tensor([0.0, 1.0]), torch.tensor([2.0]))
        >>> print(remaining, driven)  # the mode with λ = 0 stays, and drives the more the longer it lasts
        tensor([[1.0000, 0.1353]]) tensor([[2.0000, 0.8647]])
        """
        lam, t = eigenvalues.unsqueeze(-2), times.unsqueeze(-1)
        product = torch.where(lam == 0, 0.0, lam * t)  # 0·inf
        return torch.exp(-product), _integral(-torch.expm1(-product), lam, t)

    def slopes(self, eigenvalues: Tensor) -> Tensor:
        """Return d log p_t(λ)/dt = -λ.

        >>> ntkrun.Flow().slopes(torch.tensor([1.0, 2.0]))
        tensor([-1., -2.])
        """
        return -eigenvalues


@dataclass(frozen=True)
class Descent:
    """Gradient descent with step size η and heavy-ball momentum μ, v <- μv - η∇loss, W <- W + v (Polyak 1964); times
    are whole multiples of η, or inf. Raises UserError unless η is positive and μ is at least 0 and below 1.

    >>> import ntkrun, torch
    >>> one = torch.ones(1, 1, dtype=torch.float64)  # one input with K = 1 and target 1
    >>> for rule in (ntkrun.Descent(step_size=0.1), ntkrun.Descent(step_size=0.1, momentum=0.5)):
    ...     print(f"{float(ntkrun.frozen(one, one, 0 * one, times=[1.0], rule=rule).train):.4f}")  # after ten steps
    0.6513
    0.9335
    """

    step_size: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0 and 0 <= self.momentum < 1):
            raise UserError(
                f"step size {self.step_size} must be a positive number, momentum {self.momentum} from 0 to below 1"
            )

    def factors(self, eigenvalues: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_t(λ), the part of a mode's residual that remains, and s_t(λ) = (1 - p_t(λ))/λ, what has driven other
        outputs, for eigenvalues λ (..., P) at times (T,), each (..., T, P): p = (1 - ηλ)^k after k = t/η steps without
        momentum. Raises UserError for a time between two steps, and at t = inf where descent does not converge.

        >>> remaining, _ = ntkrun.Descent(step_size=0.5).factors(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]))
        >>> remaining
        tensor([[1.0000, 0.5000],
                [1.0000, 0.2500]])
        """
        remaining, driven = zip(*(self._at(eigenvalues, self.steps(float(t))) for t in times), strict=True)
        return torch.stack(remaining, dim=-2), torch.stack(driven, dim=-2)

    def steps(self, time: float) -> float:
        """Return the number of steps until a time; inf stays inf. Raises UserError for a time between two steps.

        >>> ntkrun.Descent(step_size=0.1).steps(0.3)  # which is not 3 · 0.1 in floating-point numbers
        3
        """
        count = time / self.step_size
        if math.isinf(count):
            return count
        if abs(count - round(count)) > 1e-6 * max(1.0, count * 1e-6):
            raise UserError(f"time {time} lies between two steps of size {self.step_size}; give multiples of it")
        return round(count)

    def slopes(self, eigenvalues: Tensor) -> Tensor:
        """Return d log|p_t(λ)|/dt for late t: log|r|/η, where r is the root of r² - (1+μ-ηλ)r + μ of larger modulus;
        log|1-ηλ|/η without momentum. A mode grows where it is positive.

        >>> ntkrun.Descent(step_size=0.5).slopes(torch.tensor([1.0, 5.0]))
        tensor([-1.3863,  0.8109])
        """
        half = (1 + self.momentum - self.step_size * eigenvalues) / 2
        inside = half * half - self.momentum
        larger = torch.where(inside > 0, half.abs() + inside.clamp(min=0).sqrt(), math.sqrt(self.momentum))
        return larger.log() / self.step_size

    def _at(self, lam: Tensor, steps: float) -> tuple[Tensor, Tensor]:
        if math.isinf(steps):
            if not (self.slopes(lam[lam > 0]) < 0).all():
                raise UserError(
                    f"descent with step size {self.step_size} does not converge on this kernel: it has no limit"
                )
            return torch.where(lam == 0, 1.0, 0.0).to(lam), _integral(torch.ones_like(lam), lam, math.inf)
        if self.momentum:
            return self._heavy_ball(lam, int(steps))
        move = self.step_size * lam
        remaining = (1 - move) ** steps
        # For a small ηλ, 1 - (1-ηλ)^k would lose digits by cancellation.
        decayed = torch.where(move < 0.5, -torch.expm1(steps * torch.log1p(-move.clamp(max=0.5))), 1 - remaining)
        return remaining, _integral(decayed, lam, self.step_size * steps)

    def _heavy_ball(self, lam: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return p and s by powers of the recursion's matrix, acting on (e, λv), e the residual, and on (s, v, 1)."""
        move, mu, one, zero = self.step_size * lam, self.momentum, torch.ones_like(lam), torch.zeros_like(lam)
        residual = _matrix([[1 - move, -mu * one], [move, mu * one]])
        driven = _matrix(
            [[1 - move, mu * one, self.step_size * one], [-move, mu * one, self.step_size * one], [zero, zero, one]]
        )
        return (
            torch.linalg.matrix_power(residual, steps)[..., 0, 0],
            torch.linalg.matrix_power(driven, steps)[..., 0, 2],
        )


def _integral(decayed: Tensor, lam: Tensor, time: Tensor | float) -> Tensor:
    """Return s = (1-p)/λ from `decayed` = 1-p. Where λ = 0, return its limit, the time, but 0 at infinite time, because
    a kernel vanishes on its null modes."""
    time = torch.as_tensor(time, dtype=lam.dtype, device=lam.device)
    return torch.where(lam == 0, torch.where(time.isinf(), 0.0, time), decayed / torch.where(lam == 0, 1.0, lam))


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
