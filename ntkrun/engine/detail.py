"""The dearer probes, at chosen steps: what the proof of lazy weights bounds (docs/theory.md), layer by layer.

Row l = 0..L-1 is about w^(l) and what it makes, z^(l+1) and a^(l+1), where a^(L) means F. Norms over the data are
‖·‖_Ê² = the mean over training inputs of the squared Euclidean norm. Norms of kernels are taken in float64, as those of
K are.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.columns import DESCENT, LAYER_DETAIL
from ntkrun.engine.flows import Flows, LearningProblem
from ntkrun.engine.kernel import as_matrix, layerwise_kernel
from ntkrun.engine.network import DenseNetwork, Layers, Parameters, pullback
from ntkrun.engine.operators import BLOCK, Largest, leading_vectors, operator_norms
from ntkrun.engine.training import State, shares_of

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


# ---------------------------------------------------------------- descent


@dataclass(frozen=True)
class Pull:
    """A state about to take its step: the `positions` of its S runs, their `outputs` on all A inputs, training first,
    and the `change` that the kernel makes of the step; (S, A, O) both."""

    positions: list[int]
    outputs: Tensor
    change: Tensor


def kernel_pull(
    net: DenseNetwork, state: State, problem: LearningProblem, kernel: Tensor, test: Layers, test_deltas: list[Tensor]
) -> Pull:
    """From K_t on the training inputs (S, N, O, N, O) and the passes of the test inputs."""
    assert state.deltas is not None, "only a probed state has them"
    rows = as_matrix(kernel)
    if len(problem.x_test):
        cross = layerwise_kernel(net, test, test_deltas, state.layers, state.deltas)
        rows = torch.cat([rows, as_matrix(cross)], dim=1)
    outputs = torch.cat([state.layers.outputs, test.outputs], dim=1)
    shares = shares_of(state.batch, problem.x)
    gradient = problem.loss.gradient(state.outputs, problem.y) * shares / problem.scale.factor
    change = -problem.step_size * (rows @ gradient.flatten(1).unsqueeze(2)).view(outputs.shape)
    return Pull(state.positions, outputs, change)


def residuals(net: DenseNetwork, before: Pull, state: State, problem: LearningProblem) -> dict[str, Tensor]:
    """‖ΔF - change‖/‖ΔF‖ over training and over test inputs, (S,), once the step has led to `state`. nan where nothing
    moved, without test inputs, and for runs that are no longer there."""
    whole = state.batch is None or state.deltas is not None
    after = [state.layers.outputs if whole else net.apply(state.params, problem.x)]
    after.append(net.apply(state.params, problem.x_test))
    keep = [before.positions.index(position) for position in state.positions]
    moved = torch.cat(after, dim=1).double() - before.outputs[keep].double()
    error, count = moved - before.change[keep].double(), len(problem.x)
    found = {}
    for name, part in zip(DESCENT, (slice(count), slice(count, None)), strict=True):
        size = _norm(moved[:, part])
        ratio = torch.where(size > 0, _norm(error[:, part]) / size, torch.nan)
        found[name] = ratio.new_full((len(before.positions),), torch.nan)
        found[name][keep] = ratio
    return found


def _norm(outputs: Tensor) -> Tensor:
    return torch.linalg.vector_norm(outputs.flatten(1), dim=1)


# ---------------------------------------------------------------- modes


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
