"""A matrix used both as a table and as a linear map, as where an output layer shares the weight of an embedding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.kernel import untiled
from ntkrun.engine.uses import Affine, Lookup, Outputs, Use, blocks


@dataclass(frozen=True)
class Tied(Use):
    """The use of w, (S, V, m), as z_t = w a_t and as z_u = w[k_u]. In δ, (S, N, O, T·V + U·m), the gradients in all z_t
    precede those in all z_u."""

    linear: Affine  # with an axis of positions
    table: Lookup

    def part(self, inputs: slice) -> "Tied":
        return Tied(self.linear.part(inputs), self.table.part(inputs))

    def split(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return δ of the linear map, (S, N, O, T, V), and of the table, (S, N, O, U, m)."""
        t, v, u = self.linear.a.shape[2], self.table.size, self.table.k.shape[2]
        return torch.unflatten(delta[..., : t * v], 3, (t, v)), torch.unflatten(delta[..., t * v :], 3, (u, -1))

    def gradient(self, delta: Tensor) -> Tensor:
        d, e = self.split(delta)
        return self.linear.gradient(d) + self.table.gradient(e)

    def add_update(self, weight: Tensor, bias: Tensor, d: Tensor, rate: float, keep: float = 1.0) -> None:
        d, e = (part.squeeze(2) for part in self.split(d.unsqueeze(2)))
        self.linear.add_update(weight, bias, d, rate, keep)
        self.table.add_update(weight, bias, e, rate)

    def add_gram(self, tile: Tensor, outputs: Outputs, delta: Tensor, other: Use, delta2: Tensor) -> None:
        assert isinstance(other, Tied), "uses of one layer are of one kind"
        (d, e), (d2, e2) = self.split(delta), other.split(delta2)
        self.linear.add_gram(tile, outputs, d, other.linear, d2)
        self.table.add_gram(tile, outputs, e, other.table, e2)
        kernel = untiled(tile, outputs, delta.shape[2])
        swapped = kernel.transpose(1, 2)
        _add_crossed(kernel, outputs, self.linear, d, other.table, e2)
        _add_crossed(swapped.mT if outputs == "full" else swapped, outputs, other.linear, d2, self.table, e)


SUMS = {
    "full": "snotmu,sntmpu->snmop",
    "diagonal": "snotmu,sntmou->snmo",
    "trace": "snotmu,sntmou->snm",
}


def _add_crossed(kernel: Tensor, outputs: Outputs, linear: Affine, d: Tensor, table: Lookup, e: Tensor) -> None:
    """Add Σ_tu δ_t[k_u] (a_t·δ_u), for a_t and δ_t of N inputs, k_u and δ_u of M inputs, to a kernel (S, N, M, ...)."""
    for i, j in blocks(linear.pairs, d, e):
        k = table.k[:, None, None, None, j].flatten(4)
        picked = torch.unflatten(d[:, i].gather(4, k.expand(*d[:, i].shape[:4], -1)), 4, (-1, e.shape[3]))
        crossed = torch.einsum("sntv,smpuv->sntmpu", linear.a[:, i], e[:, j])
        kernel[:, i, j] += linear.weight_scale * torch.einsum(SUMS[outputs], picked, crossed)
