"""The residual of training in the modes of the kernel it started from.

With u_i the unit eigenvectors of K̂_0 = K_0/N on the training inputs, the residual u_i·(F_t - y) of a frozen kernel
would fall as e^{-λ_i t}, each mode by itself. Squared loss alone has such modes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.flows import Flows

MOST = 64  # modes of a run that are recorded


@dataclass(frozen=True)
class Directions:
    """Some eigenvalues λ_i of K̂_0, (S, R), largest first, and their u_i as columns, (S, N·O, R), both float64. u_i
    points to where the residual was at the start: u_i·(F_0 - y) ≥ 0."""

    values: Tensor
    vectors: Tensor

    def select(self, keep: list[int]) -> "Directions":
        return Directions(self.values[keep], self.vectors[keep])


def ranks(count: int) -> np.ndarray:
    """Which of `count` modes are recorded, 0 the largest: all, or MOST of them evenly spaced, the first and the last
    among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(int))


def directions(flows: Flows) -> Directions | None:
    """Those of the runs that these predictions belong to; None where the loss has none."""
    if "flow" not in flows.predicted:
        return None
    modes, y = flows.predicted["flow"], flows.problem.y.double()
    count = modes.values.shape[-1]
    chosen = torch.from_numpy(count - 1 - ranks(count)).to(y.device)  # eigh's are ascending
    vectors = modes.vectors[:, :, chosen]
    along = torch.einsum("spr,sp->sr", vectors, (flows.linear[:, : len(y)] - y).flatten(1))
    return Directions(modes.values[:, chosen], vectors * torch.where(along < 0, -1.0, 1.0).unsqueeze(1))


def mode_columns(along: Directions, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
    """`eigenvalue` λ_i and `residual` u_i·(F_t - y)/sqrt(N·O) from F_t on the training inputs (S, N, O): (S, R)."""
    residual = (outputs.double() - y.double()).flatten(1)
    found = torch.einsum("spr,sp->sr", along.vectors, residual) / residual.shape[1] ** 0.5
    return {"eigenvalue": along.values, "residual": found}
