"""The runs of a stack that have diverged: which they are, and since when.

A run diverges at the first step at which its loss is not finite, or has grown by GROWTH_LIMIT since the start. It stays
in its stack, where its numbers disturb no other run, and it stays diverged, even if its loss falls again.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GROWTH_LIMIT = 1e6  # a run whose loss has grown by this factor has diverged


@dataclass(frozen=True)
class Divergence:
    """A diverged run: its position in the stack, the step at which it diverged, and the reason."""

    position: int
    step: int
    reason: str


class Losses:
    """The losses of S runs, which are read from their device now and then, and the runs that have diverged."""

    def __init__(self, runs: int):
        self.unread: list[Tensor] = []
        self.first: np.ndarray | None = None
        self.diverged: list[Divergence] = []
        self.ends = np.full(runs, np.inf)  # the step at which each run has diverged
        self.all_diverged = False

    def add(self, loss: Tensor) -> None:
        """Add the losses (S,) of the next step."""
        self.unread.append(loss.clone())

    def check(self, step: int) -> None:
        """Read all losses up to those of `step` in one transfer, and note the runs that have diverged."""
        losses = torch.stack(self.unread, dim=1).double().cpu().numpy()  # (S, steps)
        self.unread = []
        self.first = losses[:, 0] if self.first is None else self.first
        begun = step - losses.shape[1] + 1
        with np.errstate(invalid="ignore", over="ignore"):
            too_large = ~(losses < np.inf) | (losses > GROWTH_LIMIT * self.first[:, None])  # nan is not < inf
        for position in np.flatnonzero(too_large.any(axis=1) & np.isinf(self.ends)).tolist():
            k = int(too_large[position].argmax())
            reason = _reason(losses[position, k], self.first[position], begun + k)
            self.diverged.append(Divergence(position, begun + k, reason))
            self._end(self.diverged[-1])

    def take_up(self, diverged: list[Divergence]) -> None:
        """Take up the diverged runs of a checkpoint."""
        self.diverged = list(diverged)
        for run in diverged:
            self._end(run)

    def _end(self, run: Divergence) -> None:
        self.ends[run.position] = run.step
        self.all_diverged = bool(np.isfinite(self.ends).all())


def _reason(loss: float, first: float, step: int) -> str:
    if not loss < np.inf:
        return f"the loss is not finite at step {step}"
    return f"the loss has grown {loss / first if first else np.inf:.1e}-fold by step {step}"
