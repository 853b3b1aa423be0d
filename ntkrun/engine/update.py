"""The update of a training step, and how far it has taken the parameters from their start.

With d^(l)(x) = Σ_i r_i(x) δ_i^(l)(x), r = ∂loss/∂F, gradient descent G = -η ∇loss is

    G_w^(l) = -η s_l Σ_x d^(l+1)(x) a^(l)(x)ᵀ        G_b^(l) = -η c_l Σ_x d^(l+1)(x)

with s_l and c_l the factors before weights and biases, and W ← W + G; with momentum μ (heavy ball) v ← μ v + G, W ← W +
v. G is added inside the product that makes it and never stands in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntkrun.engine.network import Layers, Parameters

# Numbers whose distance is taken at a time, so that their difference is still in a cache when its norm is: 1 MB in
# float32; on a device of its own 64 MB, for there a small piece leaves most of the chip idle.
PART = {"cpu": 2**18, "cuda": 2**24}


@dataclass(frozen=True)
class Update:
    """The update rule of a stack: η, μ and, with momentum, the `velocity` v; and how far it has gone."""

    step_size: float
    momentum: float
    velocity: Parameters | None
    distance: "Distance"

    @classmethod
    def begin(cls, params: Parameters, step_size: float, momentum: float, moves: bool = True) -> "Update":
        """Return the rule for parameters at their start. Without `moves` they never move: no copy is kept."""
        velocity = params.zeros() if momentum and moves else None
        return cls(step_size, momentum, velocity, Distance(params, params.clone() if moves else params))

    def select(self, keep: list[int], params: Parameters) -> "Update":
        """Return the rule for the networks at these positions of the stack, whose parameters are now `params`."""
        velocity = None if self.velocity is None else self.velocity.select(keep)
        return replace(self, velocity=velocity, distance=Distance(params, self.distance.start.select(keep)))

    def update(self, layers: Layers, directions: list[Tensor]) -> None:
        """Move the parameters of `layers` given d^(l), l = 1..L, each (S, N, n_l)."""
        net, params = layers.net, layers.params
        for layer, (d, a) in enumerate(zip(directions, layers.activations, strict=True)):
            w, b = params.weights[layer], params.biases[layer]
            rate, bias_rate = -self.step_size * net.scale(layer), -self.step_size * net.bias_scale(layer)
            if self.velocity is None:
                w.baddbmm_(d.mT, a, alpha=rate)
                b.add_(d.sum(dim=1), alpha=bias_rate)
            else:
                v, u = self.velocity.weights[layer], self.velocity.biases[layer]
                w.add_(v.baddbmm_(d.mT, a, beta=self.momentum, alpha=rate))
                b.add_(u.mul_(self.momentum).add_(d.sum(dim=1), alpha=bias_rate))


class Distance:
    """‖p - p_0‖ of each parameter p of a stack, after updates in place, from its `start` p_0.

    The views and the memory that this takes at every step are made once: at small widths they cost more than the norms.
    """

    def __init__(self, params: Parameters, start: Parameters):
        self.start = start
        s, like = len(params.weights[0]), params.weights[0]
        self.rows = [w.new_empty(w.shape[:2]) for w in params.weights]  # norms of the rows of each w - w_0
        self.biases = like.new_empty(len(params.biases), s)
        pairs = zip(params, start, (*self.rows, *self.biases), strict=True)
        pieces = [piece for p, p0, norms in pairs for piece in _pieces(p, p0, norms)]
        longest = max(now.numel() for now, _, _ in pieces)
        scratch = like.new_empty(longest)  # a fresh tensor's memory would be mapped in anew at every step
        self.pieces = [(now, then, scratch[: now.numel()].view_as(now), norms) for now, then, norms in pieces]

    def measure(self, out: Tensor) -> None:
        """Write the distances into `out`, (S, 2L), float64: weights, then biases."""
        for now, then, moved, norms in self.pieces:
            torch.linalg.vector_norm(torch.sub(now, then, out=moved), dim=1, out=norms)
        torch.cat([torch.stack([norm(rows) for rows in self.rows], dim=1), self.biases.mT.double()], dim=1, out=out)


def _pieces(p: Tensor, p0: Tensor, norms: Tensor) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Rows of a parameter (S, m, n) or (S, m), the same of its start, and where their norms are to stand."""
    long = p.shape[-1]
    rows = max(1, PART[p.device.type] // long)
    flat = p.view(-1, long), p0.view(-1, long), norms.view(-1)
    return zip(*(torch.split(part, rows) for part in flat), strict=True)


def norm(stack: Tensor) -> Tensor:
    """‖·‖ of each matrix (S, m, n) or vector (S, n) of a stack: (S,), float64.

    Rows are summed in the tensor's own precision and then together in float64: a float32 sum over a whole 2048 x 2048
    matrix is off by 1e-4, over its rows by 3e-8.
    """
    rows = torch.linalg.vector_norm(stack, dim=2) if stack.ndim == 3 else stack
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
