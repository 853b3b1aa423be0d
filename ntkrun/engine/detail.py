"""The dearer probes, at chosen steps: what the proof of lazy weights bounds (docs/theory.md), layer by layer.

Row l = 0..L-1 is about w^(l) and what it makes, z^(l+1) and a^(l+1), where a^(L) means F. Norms over the data are
‖·‖_Ê² = the mean over training inputs of the squared Euclidean norm. Norms of kernels are taken in float64, as those of
K are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.columns import LAYER_DETAIL
from ntkrun.engine.network import DenseNetwork, Layers, Parameters, pullback
from ntkrun.engine.operators import BLOCK, Largest, leading_vectors, operator_norms
from ntkrun.engine.training import State

OF_CHANGE = 4  # vectors of the block in which ‖w_t‖ is looked for that come from w_t - w_0


@dataclass(frozen=True)
class Start:
    """What the first state leaves to be measured against: a_0^(l+1) on the training inputs, L tensors (S, N, n); the
    sub-networks' kernels K^(l+1)_11(0), L tensors (S, N, N); and leading singular vectors of each w_0^(l)."""

    activations: list[Tensor]
    kernels: list[Tensor]
    vectors: list[Tensor]

    def select(self, keep: list[int]) -> "Start":
        return Start(*([tensor[keep] for tensor in part] for part in (self.activations, self.kernels, self.vectors)))


def detail_start(net: DenseNetwork, state: State, kernel: Tensor) -> Start:
    """Of the first state, whose kernel is K_0 (S, N, O, N, O)."""
    vectors = [leading_vectors(w) for w in state.params.weights]
    return Start(_made(state.layers), subnetwork_kernels(net, state.layers, kernel), vectors)


def detail(net: DenseNetwork, state: State, kernel: Tensor, start: Start) -> dict[str, Tensor]:
    """LAYER_DETAIL of a probed state, each (S, L), float64:

    weight_operator              ‖w_t‖_op/√m, m = max(n_l, n_{l+1}), weights in units of their initial deviation
    weight_drift_operator        ‖w_t - w_0‖_op/√m
    activation_norm              ‖a_t‖_Ê/√n of a^(l+1), n = n_{l+1}
    activation_drift             ‖a_t - a_0‖_Ê/√n
    backprop_norm                ‖δ_i^(l+1)‖, its root mean square over inputs and outputs i
    kernel_part                  ‖[s² a·a' + c²] ∘ [δ_i·δ_j']‖_F, the layer's summand of K_t
    subnetwork_kernel_norm       ‖K^(l+1)_11‖_F
    subnetwork_kernel_drift      ‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F
    """
    assert state.deltas is not None, "only a probed state has them"
    made, grams = _made(state.layers), forward_grams(net, state.layers)
    kernels = subnetwork_kernels(net, state.layers, kernel, grams)
    changes = [operator_norms(w - first) for w, first in zip(state.params.weights, state.start.weights, strict=True)]
    whole = [_whole(*each) for each in zip(state.params.weights, changes, start.vectors, strict=True)]
    moved = [a - first for a, first in zip(made, start.activations, strict=True)]
    drifts = [_frobenius(k.double() - k0.double()) for k, k0 in zip(kernels, start.kernels, strict=True)]
    parts = [_frobenius(_layer_kernel(gram, delta)) for gram, delta in zip(grams, state.deltas, strict=True)]
    columns = (
        [norms / _size(net, layer) for layer, norms in enumerate(whole)],
        [change.norms / _size(net, layer) for layer, change in enumerate(changes)],
        [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in made],
        [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in moved],
        [_root_mean_square(delta) for delta in state.deltas],
        parts,
        [_frobenius(k) for k in kernels],
        [drift / _frobenius(k0) for drift, k0 in zip(drifts, start.kernels, strict=True)],
    )
    return {name: torch.stack(column, dim=1) for name, column in zip(LAYER_DETAIL, columns, strict=True)}


def growth(columns: dict[str, Tensor]) -> Tensor:
    """A(t) = Σ_{l<L} ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖a^(l)‖_Ê/√n_l, (S,): what the proof's Grönwall argument is about. Not
    F itself, which training moves by O(1) at any width."""
    return columns["weight_operator"].sum(dim=1) + columns["activation_norm"][:, :-1].sum(dim=1)


def forward_grams(net: DenseNetwork, layers: Layers) -> list[Tensor]:
    """s² a^(l)·a^(l) + c² for l = 0..L-1, each (S, N, N), s and c the factors before weights and biases."""
    return [
        torch.baddbmm(a.new_full((1, 1, 1), net.bias_scale(layer) ** 2), a, a.mT, alpha=net.scale(layer) ** 2)
        for layer, a in enumerate(layers.activations)
    ]


def subnetwork_kernels(
    net: DenseNetwork, layers: Layers, kernel: Tensor, grams: list[Tensor] | None = None
) -> list[Tensor]:
    """K^(l+1)_11 for l = 0..L-1, each (S, N, N): the kernel of the first (l+1) layers as a network whose outputs are
    z^(l+1), of its first neuron (neurons are exchangeable). The last is K_11 itself, from K (S, N, O, N, O)."""
    grams = grams or forward_grams(net, layers)
    found = []
    for layer in range(net.depth - 1):
        deltas = pullback(_first_neuron(layers, layer), torch.ones_like(layers.preactivations[layer][:, :, :1]))
        # Summed from the last: δ^(l+1) = 1 there.
        found.append(sum((g * (d @ d.mT) for g, d in zip(grams, deltas[:-1], strict=False)), start=grams[layer]))
    return [*found, kernel[:, :, 0, :, 0]]


def _first_neuron(layers: Layers, last: int) -> Layers:
    """The network that ends in the first entry of z^(last+1), with its passes."""
    weights, biases = layers.params.weights, layers.params.biases
    params = Parameters([*weights[:last], weights[last][:, :1]], [*biases[:last], biases[last][:, :1]])
    made = [*layers.preactivations[:last], layers.preactivations[last][:, :, :1]]
    return Layers(layers.net, params, layers.activations[: last + 1], made)


def _made(layers: Layers) -> list[Tensor]:
    """a^(1), ..., a^(L-1), F."""
    return [*layers.activations[1:], layers.outputs]


def _whole(w: Tensor, change: Largest, first: Tensor) -> Tensor:
    """‖w_t‖_op, looked for where w_0 was largest and where w_t - w_0 is: so it takes a block or two less, and misses
    no direction that training has made large."""
    if not first.shape[2]:
        return operator_norms(w).norms
    return operator_norms(w, torch.cat([first[:, :, : BLOCK - OF_CHANGE], change.vectors[:, :, :OF_CHANGE]], 2)).norms


def _size(net: DenseNetwork, layer: int) -> float:
    return net.weight_std(layer) * math.sqrt(max(net.widths[layer], net.widths[layer + 1]))


def _layer_kernel(gram: Tensor, delta: Tensor) -> Tensor:
    """A layer's summand of K, (S, N, O, N, O), from its gram (S, N, N) and δ (S, N, O, n)."""
    s, n, o, _ = delta.shape
    rows = delta.flatten(1, 2)
    return gram[:, :, None, :, None] * (rows @ rows.mT).view(s, n, o, n, o)


def _root_mean_square(vectors: Tensor) -> Tensor:
    """sqrt(mean ‖v‖²) of each run's vectors (S, ..., n): (S,), float64."""
    return vectors.double().square().sum(dim=-1).flatten(1).mean(dim=1).sqrt()


def _frobenius(kernel: Tensor) -> Tensor:
    return torch.linalg.vector_norm(kernel.flatten(1), dim=1, dtype=torch.float64)
