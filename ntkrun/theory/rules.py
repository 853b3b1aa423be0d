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
    """Gradient flow, dW/dt = -∇loss."""

    def factors(self, eigenvalues: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        lam, t = eigenvalues.unsqueeze(-2), times.unsqueeze(-1)
        product = torch.where(lam == 0, 0.0, lam * t)  # 0·inf
        return torch.exp(-product), _integral(-torch.expm1(-product), lam, t)

    def slopes(self, eigenvalues: Tensor) -> Tensor:
        return -eigenvalues


@dataclass(frozen=True)
class Descent:
    """Gradient descent with step size η and heavy-ball momentum μ; times are whole multiples of η, or inf."""

    step_size: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0 and 0 <= self.momentum < 1):
            raise UserError(
                f"step size {self.step_size} must be a positive number, momentum {self.momentum} from 0 to below 1"
            )

    def factors(self, eigenvalues: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        remaining, driven = zip(*(self._at(eigenvalues, self.steps(float(t))) for t in times), strict=True)
        return torch.stack(remaining, dim=-2), torch.stack(driven, dim=-2)

    def steps(self, time: float) -> float:
        """Return the number of steps until a time; inf stays inf. Raises UserError for a time between two steps."""
        count = time / self.step_size
        if math.isinf(count):
            return count
        if abs(count - round(count)) > 1e-6 * max(1.0, count * 1e-6):
            raise UserError(f"time {time} lies between two steps of size {self.step_size}; give multiples of it")
        return round(count)

    def slopes(self, eigenvalues: Tensor) -> Tensor:
        """Return the log of the larger root of r² - (1+μ-ηλ)r + μ in modulus, over η: log|1-ηλ|/η without momentum."""
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
