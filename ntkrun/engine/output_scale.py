"""The trained function: f = αF, or centred f = α(F - F_0), trained on loss(f)/α².

By the chain rule ∂(loss/α²)/∂F = (1/α) ∂loss/∂f: W moves 1/α as far as under loss(F), and f changes by the kernel of F
itself,

    df/dt = α ∂F/∂W · dW/dt = -(1/N) Σ_i K(·, x_i) ∂ℓ_i/∂f(x_i)

A large α makes a network of any width lazy (Chizat, Oyallon and Bach 2019); α = 1, not centred, is plain training.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntkrun.engine.network import Network, Parameters


@dataclass(frozen=True)
class OutputScale:
    """The factor α, and whether F_0 is subtracted (`centred`)."""

    factor: float = 1.0
    centred: bool = False

    def start(self, outputs: Tensor) -> Tensor:
        """Return f_0 for outputs F_0."""
        return torch.zeros_like(outputs) if self.centred else self.factor * outputs

    def variance(self, variances: Tensor) -> Tensor:
        """Return the variance or covariance of f_0 from that of F_0."""
        return torch.zeros_like(variances) if self.centred else self.factor**2 * variances


PLAIN = OutputScale()


@dataclass(frozen=True)
class Readout:
    """The map from F to f for a stack on given inputs. `start` is F_0 on them, (S, N, O), or None if not subtracted."""

    scale: OutputScale
    start: Tensor | None

    @classmethod
    def begin(cls, scale: OutputScale, net: Network, start: Parameters, x: Tensor) -> "Readout":
        """Return the readout on inputs x for networks with the initial parameters `start`."""
        return cls(scale, net.apply(start, x) if scale.centred else None)

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return f for outputs F (S, N, O)."""
        moved = outputs if self.start is None else outputs - self.start
        return moved if self.scale.factor == 1 else self.scale.factor * moved

    def pull(self, gradient: Tensor) -> Tensor:
        """Return ∂(loss/α²)/∂F from ∂loss/∂f."""
        return gradient if self.scale.factor == 1 else gradient / self.scale.factor

    def of_batch(self, batch: Tensor) -> "Readout":
        """Return the readout on the batch (S, B) of input indices of each network."""
        if self.start is None:
            return self
        return replace(self, start=self.start.take_along_dim(batch.unsqueeze(2), dim=1))
