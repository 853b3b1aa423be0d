"""Gradients of some inputs in one parameter, and their inner products with those of other inputs.

Rows      the gradients themselves, (N, O, P)
Factors   Σ_t u_t v_tᵀ, not multiplied out: one factor is a function's input, the other the gradient of its output
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.tiles import Outputs, pieces
from ntkrun.engine.torch_modules.layers import Use, rows


@dataclass(frozen=True)
class Rows:
    """The gradients in a parameter of P entries, multiplied out."""

    gradients: Tensor  # (N, O, P)

    @property
    def bytes(self) -> int:
        return self.gradients.numel() * self.gradients.element_size()


@dataclass(frozen=True)
class Factor:
    """One use of a matrix or a table: its input `given`, a (N, T, q) or k (N, T), and δ (N, O, T, p)."""

    use: Use
    given: Tensor
    delta: Tensor

    def part(self, piece: slice) -> "Factor":
        """Return the factor of these inputs only."""
        return Factor(self.use, self.given[piece], self.delta[piece])


@dataclass(frozen=True)
class Factors:
    """The gradients in a parameter as factors, one for each of its uses."""

    uses: list[Factor]
    shape: torch.Size  # of the parameter

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for f in self.uses for t in (f.given, f.delta))

    def rows(self) -> Rows:
        """Return the same gradients, multiplied out."""
        return Rows(sum_of([rows(f.use, f.given, f.delta, self.shape) for f in self.uses]))


Part = Rows | Factors


def sum_of(tensors: list[Tensor]) -> Tensor:
    total, *others = tensors
    for tensor in others:
        total = total + tensor
    return total


def factors_pay(entries: int, positions: int, given: int, channels: int, outputs: int) -> bool:
    """Return True if products over pairs of positions, T² (q + O² (p + 1)), cost less than over gradients, O² P.

    P = `entries` of the parameter, q = `given` (0 for a table, where indices are compared), p = `channels`.
    """
    return positions**2 * (given + outputs**2 * (channels + 1)) < outputs**2 * entries


def add(tile: Tensor, outputs: Outputs, first: Part, second: Part, pairs: int) -> None:
    """Add the kernel of one parameter to a tile: (N, O, M, O), diagonal (N, M, O), trace (N, M).

    Products over pairs of positions are computed for at most `pairs` entries at a time, or for one pair of inputs.
    """
    if isinstance(first, Factors) and isinstance(second, Factors):
        for f in first.uses:
            for g in second.uses:
                _add_factors(tile, outputs, f, g, pairs)
        return
    j = first.rows() if isinstance(first, Factors) else first
    j2 = second.rows() if isinstance(second, Factors) else second
    tile += _ROWS[outputs](j.gradients, j2.gradients)


_ROWS = {
    "full": lambda j, j2: (j.flatten(0, 1) @ j2.flatten(0, 1).T).view(*j.shape[:2], *j2.shape[:2]),
    "diagonal": lambda j, j2: (j.transpose(0, 1) @ j2.permute(1, 2, 0)).permute(1, 2, 0),
    "trace": lambda j, j2: j.flatten(1) @ j2.flatten(1).T,
}


def _add_factors(tile: Tensor, outputs: Outputs, f: Factor, g: Factor, pairs: int) -> None:
    per_pair = f.delta.shape[1:3].numel() * g.delta.shape[1:3].numel()  # per pair of inputs: outputs times positions
    columns = min(len(g.delta), max(1, pairs // per_pair))
    rows = max(1, pairs // (per_pair * columns))
    product = _PRODUCTS[f.use.kind, g.use.kind]
    for i in pieces(len(f.delta), rows):
        for j in pieces(len(g.delta), columns):
            part = tile[i, :, j] if outputs == "full" else tile[i, j]
            part += product(outputs, f.part(i), g.part(j))


def _same_kind(outputs: Outputs, f: Factor, g: Factor) -> Tensor:
    """Return Σ_ts (given_t·given'_s) (δ_t·δ'_s), for two uses of the same kind."""
    if f.use.kind == "table":
        forward = (f.given[:, :, None, None] == g.given).to(f.delta.dtype)
    else:
        forward = torch.einsum("ntq,msq->ntms", f.given, g.given)
    if outputs == "full":
        backward = torch.einsum("notp,misp->notmis", f.delta, g.delta)
        return torch.einsum("ntms,notmis->nomi", forward, backward)
    if outputs == "diagonal":
        backward = torch.einsum("notp,mosp->ontms", f.delta, g.delta)
        return torch.einsum("ntms,ontms->nmo", forward, backward)
    return torch.einsum("ntms,ntms->nm", forward, torch.einsum("notp,mosp->ntms", f.delta, g.delta))


def _matrix_table(outputs: Outputs, f: Factor, g: Factor) -> Tensor:
    """Return Σ_ts δ_t[k'_s] (a_t·δ'_s), for a tied weight used as w a_t + b in one place and as w[k'_s] in another."""
    picked = f.delta[..., g.given]  # (N, O, T, M, S)
    crossed = torch.einsum("ntq,misq->ntmis", f.given, g.delta)
    sums = {"full": "notms,ntmis->nomi", "diagonal": "notms,ntmos->nmo", "trace": "notms,ntmos->nm"}
    return torch.einsum(sums[outputs], picked, crossed)


def _table_matrix(outputs: Outputs, f: Factor, g: Factor) -> Tensor:
    swapped = _matrix_table(outputs, g, f)
    return swapped.permute(2, 3, 0, 1) if outputs == "full" else swapped.transpose(0, 1)


_PRODUCTS = {
    ("matrix", "matrix"): _same_kind,
    ("table", "table"): _same_kind,
    ("matrix", "table"): _matrix_table,
    ("table", "matrix"): _table_matrix,
}
