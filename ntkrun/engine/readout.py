"""What is trained: f = αF, or centred f = α(F - F_0), on loss(f)/α².

By the chain rule ∂(loss/α²)/∂F = (1/α) ∂loss/∂f: W moves 1/α as far as under loss(F), and f by the kernel of F itself,

    df/dt = α ∂F/∂W · dW/dt = -(1/N) Σ_i K(·, x_i) ∂ℓ_i/∂f(x_i)

A large α makes a network of any width lazy (Chizat, Oyallon and Bach 2019); α = 1, not centred, is plain training.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntkrun.engine.network import DenseNetwork, Parameters


@dataclass(frozen=True)
class OutputScale:
    """α (`factor`), and whether F_0 is subtracted."""

    factor: float = 1.0
    centred: bool = False

    def start(self, outputs: Tensor) -> Tensor:
        """f_0 of F_0."""
        return torch.zeros_like(outputs) if self.centred else self.factor * outputs

    def variance(self, variances: Tensor) -> Tensor:
        """Var f_0, or a covariance, of that of F_0."""
        return torch.zeros_like(variances) if self.centred else self.factor**2 * variances


PLAIN = OutputScale()


@dataclass(frozen=True)
class Readout:
    """f of the networks of a stack on some inputs: `start` is F_0 there, (S, N, O), where it is subtracted."""

    scale: OutputScale
    start: Tensor | None

    @classmethod
    def begin(cls, scale: OutputScale, net: DenseNetwork, start: Parameters, x: Tensor) -> "Readout":
        """On inputs x, for networks that start as these."""
        return cls(scale, net.apply(start, x) if scale.centred else None)

    def __call__(self, outputs: Tensor) -> Tensor:
        """f of F (S, N, O)."""
        moved = outputs if self.start is None else outputs - self.start
        return moved if self.scale.factor == 1 else self.scale.factor * moved

    def pull(self, gradient: Tensor) -> Tensor:
        """∂(loss/α²)/∂F of ∂loss/∂f."""
        return gradient if self.scale.factor == 1 else gradient / self.scale.factor

    def of_batch(self, batch: Tensor) -> "Readout":
        """On these inputs of each network's, (S, B)."""
        if self.start is None:
            return self
        return replace(self, start=self.start.take_along_dim(batch.unsqueeze(2), dim=1))

    def select(self, keep: list[int]) -> "Readout":
        """Of these networks of the stack."""
        return self if self.start is None else replace(self, start=self.start[keep])
