"""The ways in which a network uses the parameters of a layer: all that kernel, update and probes need to know of it.

A use holds the inputs of the layer on N inputs of S stacked networks. With δ_i = ∂F_i/∂z, z the layer's output, the
gradient of F_i(x) in the layer's weight w and bias b follows:

    Affine         z_t = s w a_t + c b      ∂w = s Σ_t δ_t a_tᵀ        ∂b = c Σ_t δ_t
    Elementwise    z_t = w ∘ a_t + c b      ∂w = Σ_t δ_t ∘ a_t         ∂b = c Σ_t δ_t
    Lookup         z_t = w[k_t]             ∂w = Σ_t e(k_t) δ_tᵀ
    Free           z = w                    ∂w = δ                     (rows of a Jacobian)

t = 1..T are the positions of an input at which the layer is applied, such as pixels or tokens. The axis of positions is
left out where there is one: a is (S, N, n) or (S, N, T, n), δ is (S, N, O, m) or (S, N, O, T, m).

Each kind offers its gradient, its Gram matrix (the layer's summand of the kernel) and its update. A layer without
biases has c = 0 and biases of shape (S, 0).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Outputs = Literal["full", "trace", "diagonal"]  # K_ij, Σ_i K_ii, K_ii over the outputs i, j
PAIRS = 2**22  # most numbers of a product over pairs of positions: more would not fit into the cache


def tile_of(result: Tensor, outputs: Outputs, o: int, i: slice, j: slice) -> Tensor:
    """Return the part of a kernel with O outputs, in the layout of `Use.add_gram`, for inputs i against inputs j."""
    return result[:, i, :, slice(j.start * o, j.stop * o)] if outputs == "full" else result[..., i, j]


class Use(ABC):
    """A layer's use of its parameters. Kinds whose Gram matrix is cheaper than by gradients override it."""

    @abstractmethod
    def part(self, inputs: slice) -> "Use":
        """Return the use on these inputs only."""

    @abstractmethod
    def gradient(self, delta: Tensor) -> Tensor:
        """Return the gradients of F_i(x) in weight and bias, in one row: (S, N, O, P), from δ. Where c = 0 the bias has
        no gradient and is left out."""

    @abstractmethod
    def add_update(self, weight: Tensor, bias: Tensor, d: Tensor, rate: float, keep: float = 1.0) -> None:
        """Update weight and bias in place: p ← keep·p + rate·Σ_x ∂p, with d = Σ_i r_i δ_i, (S, N, m), in place of δ."""

    def add_gram(self, tile: Tensor, outputs: Outputs, delta: Tensor, other: "Use", delta2: Tensor) -> None:
        """Add the inner products of this use's gradients, on N inputs, with those of another one, on M inputs, to a
        tile: K_ij (S, N, O, M·O), K_ii (S, O, N, M), or Σ_i K_ii (S, N, M)."""
        rows, columns = self.gradient(delta), other.gradient(delta2)
        if outputs == "trace":
            tile += rows.flatten(2) @ columns.flatten(2).mT
        elif outputs == "diagonal":
            tile += rows.transpose(1, 2) @ columns.permute(0, 2, 3, 1)
        else:
            tile += (rows.flatten(1, 2) @ columns.flatten(1, 2).mT).view(tile.shape)

    def aligned(self, delta: Tensor, other: "Use", delta2: Tensor) -> Tensor:
        """Return the inner products of the gradients of F_i(x_k) and F_i(x'_k), (S, N, O), for uses on N inputs each,
        or on N inputs and one."""
        return (self.gradient(delta) * other.gradient(delta2)).sum(dim=-1)


class _Paired(Use):
    """A use whose Gram matrix is Σ_tt' g_tt' δ_t·δ'_t': a sum over pairs of positions, in which no gradient appears."""

    pairs: int

    @abstractmethod
    def part(self, inputs: slice) -> "_Paired": ...

    @abstractmethod
    def gram(self, other: Use) -> Tensor:
        """Return g, (S, N·T, M·T'), or (1, N·T, M·T') if all networks share the inputs."""

    def add_gram(self, tile: Tensor, outputs: Outputs, delta: Tensor, other: Use, delta2: Tensor) -> None:
        for i, j in blocks(self.pairs, delta, delta2):
            gram = self.part(i).gram(other.part(j))
            _add_pairs(tile_of(tile, outputs, delta.shape[2], i, j), outputs, gram, delta[:, i], delta2[:, j])


@dataclass(frozen=True)
class Affine(_Paired):
    """The product with a matrix w, (S, m, n), of inputs a; s and c are the factors before weight and bias."""

    a: Tensor
    weight_scale: float
    bias_scale: float
    pairs: int = PAIRS

    def part(self, inputs: slice) -> "Affine":
        return replace(self, a=self.a[:, inputs])

    def gradient(self, delta: Tensor) -> Tensor:
        a, d = _positions(self.a, 3), _positions(delta, 4)
        weight = (d.transpose(2, 3).flatten(3).mT @ a).view(*d.shape[:3], -1)  # with fewer calls than an einsum
        weight = weight if self.weight_scale == 1 else self.weight_scale * weight
        return torch.cat([weight, self.bias_scale * d.sum(dim=3)], dim=3) if self.bias_scale else weight

    def add_update(self, weight: Tensor, bias: Tensor, d: Tensor, rate: float, keep: float = 1.0) -> None:
        a, d = _rows(self.a), _rows(d)
        weight.baddbmm_(d.mT, a, beta=keep, alpha=rate * self.weight_scale)
        if bias.shape[1]:
            _decayed(bias, keep).add_(d.sum(dim=1), alpha=rate * self.bias_scale)

    def gram(self, other: Use | None = None) -> Tensor:
        """Return s² a·a' + c². `other = None` means this use."""
        other = other or self
        assert isinstance(other, Affine), "uses of one layer are of one kind"
        a, a2 = _drop_shared_stack(_rows(self.a)), _drop_shared_stack(_rows(other.a))
        constant = a.new_full((1, 1, 1), self.bias_scale**2)
        return torch.baddbmm(constant, a, a2.mT, alpha=self.weight_scale**2)

    def add_gram(self, tile: Tensor, outputs: Outputs, delta: Tensor, other: Use, delta2: Tensor) -> None:
        """Add [s² a·a' + c²] times δ_i·δ_j', δ_i·δ_i' or Σ_i δ_i·δ_i'; summed over pairs of positions."""
        if self.a.ndim == 4:
            return super().add_gram(tile, outputs, delta, other, delta2)
        forward = self.gram(other)
        delta, delta2 = _drop_shared_stack(delta), _drop_shared_stack(delta2)
        _, n, o, _ = delta.shape
        if outputs == "trace":
            tile.addcmul_(forward, torch.bmm(delta.flatten(2), delta2.flatten(2).mT))
        elif outputs == "diagonal":
            for i in range(o):
                tile[:, i].addcmul_(forward, torch.bmm(delta[:, :, i], delta2[:, :, i].mT))
        else:
            # The weights are repeated for every j to make the inner axis long: broadcasting takes five times as long.
            weight = forward if o == 1 else forward.repeat_interleave(o, dim=2)
            product = torch.bmm(delta.flatten(1, 2), delta2.flatten(1, 2).mT)
            tile.addcmul_(weight.unsqueeze(2), product.view(len(product), n, o, -1))
        return None

    def aligned(self, delta: Tensor, other: Use, delta2: Tensor) -> Tensor:
        if self.a.ndim == 4:
            return super().aligned(delta, other, delta2)
        assert isinstance(other, Affine), "uses of one layer are of one kind"
        forward = self.weight_scale**2 * (self.a * other.a).sum(dim=2, keepdim=True) + self.bias_scale**2
        return forward * (delta * delta2).sum(dim=3)


@dataclass(frozen=True)
class Elementwise(Use):
    """The product of each entry of a with that of a vector w, (S, m), as after a normalisation; c is the factor before
    the bias."""

    a: Tensor
    bias_scale: float = 1.0

    def part(self, inputs: slice) -> "Elementwise":
        return replace(self, a=self.a[:, inputs])

    def gradient(self, delta: Tensor) -> Tensor:
        a, d = _positions(self.a, 3), _positions(delta, 4)
        weight = (d * a.unsqueeze(2)).sum(dim=3)
        return torch.cat([weight, self.bias_scale * d.sum(dim=3)], dim=3) if self.bias_scale else weight

    def add_update(self, weight: Tensor, bias: Tensor, d: Tensor, rate: float, keep: float = 1.0) -> None:
        a, d = _rows(self.a), _rows(d)
        _decayed(weight, keep).add_((d * a).sum(dim=1), alpha=rate)
        if bias.shape[1]:
            _decayed(bias, keep).add_(d.sum(dim=1), alpha=rate * self.bias_scale)


@dataclass(frozen=True)
class Lookup(_Paired):
    """Rows of a table w, (S, V, m), at the indices k, (S, N, T), or (1, N, T) if all networks share the inputs:
    embeddings. There is no bias."""

    k: Tensor
    size: int  # V
    pairs: int = PAIRS

    def part(self, inputs: slice) -> "Lookup":
        return replace(self, k=self.k[:, inputs])

    def gradient(self, delta: Tensor) -> Tensor:
        s, n, o, _, m = delta.shape
        rows = delta.new_zeros(s, n, o, self.size, m)
        return rows.scatter_add_(3, self.k[:, :, None, :, None].expand_as(delta), delta).flatten(3)

    def add_update(self, weight: Tensor, bias: Tensor, d: Tensor, rate: float, keep: float = 1.0) -> None:
        d = _rows(d)
        _decayed(weight, keep).scatter_add_(1, self.k.flatten(1).unsqueeze(2).expand_as(d), rate * d)

    def gram(self, other: Use) -> Tensor:
        """Return [k_t = k'_t']: no table is filled."""
        assert isinstance(other, Lookup), "uses of one layer are of one kind"
        return self.k.flatten(1).unsqueeze(2) == other.k.flatten(1).unsqueeze(1)


@dataclass(frozen=True)
class Free(Use):
    """Any use of a parameter w, (S, P), in which δ is the gradient itself, (S, N, O, P): rows of a Jacobian."""

    def part(self, inputs: slice) -> "Free":
        return self

    def gradient(self, delta: Tensor) -> Tensor:
        return delta

    def add_update(self, weight: Tensor, bias: Tensor, d: Tensor, rate: float, keep: float = 1.0) -> None:
        _decayed(weight, keep).add_(d.sum(dim=1), alpha=rate)


def _add_pairs(tile: Tensor, outputs: Outputs, g: Tensor, delta: Tensor, delta2: Tensor) -> None:
    """Add the sum over pairs of positions of g, (S, N·T, M·T'), times the products of δ (S, N, O, T, m)."""
    (s, n, _, t, _), (_, m, _, t2, _) = delta.shape, delta2.shape
    g = g.to(delta.dtype).view(len(g), n, t, m, t2).expand(s, -1, -1, -1, -1)
    if outputs == "trace":
        tile += torch.einsum("sntmu,sntmu->snm", g, torch.einsum("snotk,smouk->sntmu", delta, delta2))
    elif outputs == "diagonal":
        tile += torch.einsum("sntmu,sontmu->sonm", g, torch.einsum("snotk,smouk->sontmu", delta, delta2))
    else:
        products = torch.einsum("snotk,smpuk->snotmpu", delta, delta2)
        tile += torch.einsum("sntmu,snotmpu->snomp", g, products).flatten(3)


def blocks(pairs: int, delta: Tensor, delta2: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield inputs i and j whose products over pairs of positions, for all outputs, are at most `pairs` numbers, or one
    pair of inputs, until every pair was met. δ and δ' are (S, N, O, T, m) and (S, M, O, T', m')."""
    (s, n, o, t, _), (_, m, _, t2, _) = delta.shape, delta2.shape
    each = s * o * o * t * t2
    columns = max(1, min(m, pairs // each))
    for i in _cut(n, max(1, pairs // (each * columns))):
        for j in _cut(m, columns):
            yield i, j


def _cut(count: int, size: int) -> list[slice]:
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def _positions(tensor: Tensor, axes: int) -> Tensor:
    """Return the tensor with an axis of one position before its last, if it has `axes` axes."""
    return tensor.unsqueeze(-2) if tensor.ndim == axes else tensor


def _rows(tensor: Tensor) -> Tensor:
    """Return (S, N, n) or (S, N, T, n) with one row for each position: (S, N·T, n)."""
    return tensor if tensor.ndim == 3 else tensor.flatten(1, 2)


def _decayed(parameter: Tensor, keep: float) -> Tensor:
    return parameter if keep == 1 else parameter.mul_(keep)


def _drop_shared_stack(a: Tensor) -> Tensor:
    """Return one network's part of (S, N, n) if all networks share it: x and δ^(L) are expanded over the stack, not
    copied."""
    return a[:1] if a.stride(0) == 0 else a
