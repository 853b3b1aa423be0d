"""The update of a training step, and how far it has taken the parameters from their start.

With d^(l)(x) = Σ_i r_i(x) δ_i^(l)(x), r = ∂loss/∂F, gradient descent G = -η ∇loss is in an affine layer

    G_w^(l) = -η s_l Σ_x d^(l+1)(x) a^(l)(x)ᵀ        G_b^(l) = -η c_l Σ_x d^(l+1)(x)

with s_l and c_l the factors before weights and biases, and W ← W + G; with momentum μ (heavy ball) v ← μ v + G, W ← W +
v. G is added inside the product that makes it and never stands in memory. Other kinds of layers: uses.py.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ntkrun.engine.network import Parameters
from ntkrun.engine.uses import Use

# Numbers whose distance is taken at a time, so that their difference is still in a cache when its norm is: 1 MB in
# float32; on a device of its own 64 MB, for there a small piece leaves most of the chip idle.
PART = {"cpu": 2**18, "cuda": 2**24}


def update(
    params: Parameters, velocity: Parameters | None, uses: list[Use], d: list[Tensor], step_size: float, momentum: float
) -> None:
    """Move the parameters, and with momentum their `velocity`, by one step, given d^(l), l = 1..L, each (S, N, n_l)."""
    for layer, (use, d_of_layer) in enumerate(zip(uses, d, strict=True)):
        w, b = params.weights[layer], params.biases[layer]
        if velocity is None:
            use.add_update(w, b, d_of_layer, -step_size)
        else:
            v, u = velocity.weights[layer], velocity.biases[layer]
            use.add_update(v, u, d_of_layer, -step_size, keep=momentum)
            w.add_(v)
            b.add_(u)


class Distance:
    """‖p - p_0‖ of each parameter p of a stack, after updates in place, from its `start` p_0.

    The views and the memory that this takes at every step are made once: at small widths they cost more than the norms.
    """

    def __init__(self, params: Parameters, start: Parameters):
        pairs = list(zip(params, start, strict=True))
        s, like = len(params.weights[0]), params.weights[0]
        matrices, vectors = ([k for k, (p, _) in enumerate(pairs) if (p.ndim > 2) == large] for large in (True, False))
        self.rows = [like.new_empty(s, pairs[k][0].shape[1:-1].numel()) for k in matrices]  # norms of rows of w - w_0
        self.vectors = like.new_zeros(len(vectors), s)
        order = [[*matrices, *vectors].index(k) for k in range(len(pairs))]
        self.order = None if order == sorted(order) else torch.tensor(order, device=like.device)
        norms = dict(zip([*matrices, *vectors], [*self.rows, *self.vectors], strict=True))
        pieces = [piece for k, (p, p0) in enumerate(pairs) if p.numel() for piece in _pieces(p, p0, norms[k])]
        longest = max(now.numel() for now, _, _ in pieces)
        scratch = like.new_empty(longest)  # a fresh tensor's memory would be mapped in anew at every step
        self.pieces = [(now, then, scratch[: now.numel()].view_as(now), norms) for now, then, norms in pieces]

    def measure(self, out: Tensor) -> None:
        """Write the distances into `out`, (S, 2L), float64: weights, then biases."""
        for now, then, moved, norms in self.pieces:
            torch.linalg.vector_norm(torch.sub(now, then, out=moved), dim=1, out=norms)
        columns = [*(norm(rows).unsqueeze(1) for rows in self.rows), self.vectors.mT.double()]
        if self.order is None:
            torch.cat(columns, dim=1, out=out)
        else:  # some weights are vectors
            torch.index_select(torch.cat(columns, dim=1), 1, self.order, out=out)


def _pieces(p: Tensor, p0: Tensor, norms: Tensor) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Return rows of a parameter (S, ..., n), the same of its start, and where their norms are to stand."""
    long = p.shape[-1]
    rows = max(1, PART[p.device.type] // long)
    flat = p.view(-1, long), p0.view(-1, long), norms.view(-1)
    return zip(*(torch.split(part, rows) for part in flat), strict=True)


def norm(stack: Tensor) -> Tensor:
    """Return ‖·‖ of each matrix (S, ..., n) or vector (S, n) of a stack: (S,), float64.

    Rows are summed in the tensor's own precision and then together in float64: a float32 sum over a whole 2048 x 2048
    matrix is off by 1e-4, over its rows by 3e-8.
    """
    rows = torch.linalg.vector_norm(stack, dim=-1).flatten(1) if stack.ndim > 2 else stack
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
