"""The update of a training step, and how far it has taken the parameters from their start.

With d^(l)(x) = Σ_i r_i(x) δ_i^(l)(x), r = ∂loss/∂F, gradient descent G = -η ∇loss is

    G_w^(l) = -η s_l Σ_x d^(l+1)(x) a^(l)(x)ᵀ        G_b^(l) = -η c_l Σ_x d^(l+1)(x)

with s_l and c_l the factors before weights and biases, and W ← W + G; with momentum μ (heavy ball) v ← μ v + G, W ← W +
v. G is added inside the product that makes it and never stands in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntkrun.engine.network import Layers, Parameters

# Numbers moved at a time where distances are wanted: 4 MB in float32, which a cache still holds; on a device of its own
# 64 MB, for there a small piece leaves most of the chip idle.
PART = {"cpu": 2**20, "cuda": 2**24}


@dataclass(frozen=True)
class Update:
    """The update rule of a stack: η, μ, the `start` W_0 and, with momentum, the `velocity` v."""

    step_size: float
    momentum: float
    start: Parameters
    velocity: Parameters | None
    scratch: Tensor  # for w - w_0, a part at a time: a fresh tensor's memory would be mapped in anew at every step

    @classmethod
    def begin(cls, params: Parameters, step_size: float, momentum: float, moves: bool = True) -> "Update":
        """Of parameters that stand at their start; unless anything `moves`, they stay it."""
        longest_row = max(w.shape[2] for w in params.weights)
        scratch = params.weights[0].new_empty(max(part_of(params.weights[0]), longest_row) if moves else 0)
        start = params.clone() if moves else params
        return cls(step_size, momentum, start, params.zeros() if momentum and moves else None, scratch)

    def select(self, keep: list[int]) -> "Update":
        velocity = None if self.velocity is None else self.velocity.select(keep)
        return replace(self, start=self.start.select(keep), velocity=velocity)

    def update(self, layers: Layers, directions: list[Tensor], distances: Tensor, measure: bool) -> None:
        """Move the parameters of `layers` given d^(l), l = 1..L, each (S, N, n_l); to `measure` is to write the
        distances ‖p - p_0‖ at which they then are into `distances`, (S, 2L)."""
        weights = []
        for layer, (d, a) in enumerate(zip(directions, layers.activations, strict=True)):
            weights.append(self._move_weight(layers, layer, d, a, measure))
            self._move_bias(layers, layer, d)
        if measure:
            biases = [norm(b - start) for b, start in zip(layers.params.biases, self.start.biases, strict=True)]
            torch.stack([norm(rows) for rows in weights] + biases, dim=1, out=distances)

    def _move_weight(self, layers: Layers, layer: int, d: Tensor, a: Tensor, measure: bool) -> Tensor:
        """The norms of the rows of w - w_0, (S, m), if asked for: of each part while it is in the cache."""
        w, start = layers.params.weights[layer], self.start.weights[layer]
        v = None if self.velocity is None else self.velocity.weights[layer]
        rate = -self.step_size * layers.net.scale(layer)
        norms = w.new_empty(w.shape[:2])
        for runs, rows in _parts(w, part_of(w) if measure else w.numel()):
            part = w[runs, rows]
            if v is None:
                part.baddbmm_(d[runs, :, rows].mT, a[runs], alpha=rate)
            else:
                part.add_(v[runs, rows].baddbmm_(d[runs, :, rows].mT, a[runs], beta=self.momentum, alpha=rate))
            if measure:
                moved = torch.sub(part, start[runs, rows], out=self.scratch[: part.numel()].view_as(part))
                torch.linalg.vector_norm(moved, dim=2, out=norms[runs, rows])
        return norms

    def _move_bias(self, layers: Layers, layer: int, d: Tensor) -> None:
        b, rate = layers.params.biases[layer], -self.step_size * layers.net.bias_scale(layer)
        if self.velocity is None:
            b.add_(d.sum(dim=1), alpha=rate)
        else:
            b.add_(self.velocity.biases[layer].mul_(self.momentum).add_(d.sum(dim=1), alpha=rate))


def part_of(like: Tensor) -> int:
    return PART[like.device.type]


def norm(stack: Tensor) -> Tensor:
    """‖·‖ of each matrix (S, m, n) or vector (S, n) of a stack: (S,), float64.

    Rows are summed in the tensor's own precision and then together in float64: a float32 sum over a whole 2048 x 2048
    matrix is off by 1e-4, over its rows by 3e-8.
    """
    rows = torch.linalg.vector_norm(stack, dim=2) if stack.ndim == 3 else stack
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def _parts(stack: Tensor, size: int) -> Iterator[tuple[slice, slice]]:
    """Runs and rows that together make up a stack (S, m, n), about `size` numbers at a time: several whole matrices, or
    rows of one."""
    s, m, n = stack.shape
    runs, rows = max(1, size // (m * n)), max(1, size // n)
    for first in range(0, s, runs):
        for top in range(0, m, rows):
            yield slice(first, first + runs), slice(top, top + rows)
