"""The expensive probes, at chosen steps: the quantities bounded by the proof of lazy weights (docs/theory.md).

Row l = 0..L-1 is about w^(l), z^(l+1) and a^(l+1), where a^(L) means F. Norms over the data are ‖·‖_Ê² = the mean over
training inputs of the squared Euclidean norm. Norms of kernels are computed in float64, as those of K are.
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

OF_CHANGE = 4  # vectors from w_t - w_0 in the start block of the iteration for ‖w_t‖_op


@dataclass(frozen=True)
class Start:
    """The initial quantities for the expensive probes: a_0^(l+1) on the training inputs, L tensors (S, N, n); the
    sub-networks' kernels K^(l+1)_11(0), L tensors (S, N, N); and leading singular vectors of each w_0^(l)."""

    activations: list[Tensor]
    kernels: list[Tensor]
    vectors: list[Tensor]

    def select(self, keep: list[int]) -> "Start":
        """Return these quantities for the runs at these positions."""
        return Start(*([tensor[keep] for tensor in part] for part in (self.activations, self.kernels, self.vectors)))


def detail_start(net: DenseNetwork, state: State, kernel: Tensor) -> Start:
    """Return the initial quantities from the first state, whose kernel is K_0 (S, N, O, N, O)."""
    vectors = [leading_vectors(w) for w in state.params.weights]
    return Start(_layer_outputs(state.layers), subnetwork_kernels(net, state.layers, kernel), vectors)


def detail(net: DenseNetwork, state: State, kernel: Tensor, start: Start) -> dict[str, Tensor]:
    """Return the columns LAYER_DETAIL of a probed state, each (S, L), float64:

    weight_operator              ‖w_t‖_op/√m, m = max(n_l, n_{l+1}), weights in units of their initial std
    weight_drift_operator        ‖w_t - w_0‖_op/√m
    activation_norm              ‖a_t‖_Ê/√n of a^(l+1), n = n_{l+1}
    activation_drift             ‖a_t - a_0‖_Ê/√n
    backprop_norm                ‖δ_i^(l+1)‖, its root mean square over inputs and outputs i
    kernel_part                  ‖[s² a·a' + c²] ∘ [δ_i·δ_j']‖_F, the layer's summand of K_t
    subnetwork_kernel_norm       ‖K^(l+1)_11‖_F
    subnetwork_kernel_drift      ‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F
    """
    assert state.deltas is not None, "only a probed state has them"
    activations, grams = _layer_outputs(state.layers), forward_grams(net, state.layers)
    kernels = subnetwork_kernels(net, state.layers, kernel, grams)
    changes = [operator_norms(w - first) for w, first in zip(state.params.weights, state.start.weights, strict=True)]
    norms = [_weight_norm(*arguments) for arguments in zip(state.params.weights, changes, start.vectors, strict=True)]
    moved = [a - first for a, first in zip(activations, start.activations, strict=True)]
    drifts = [_frobenius(k.double() - k0.double()) for k, k0 in zip(kernels, start.kernels, strict=True)]
    parts = [_frobenius(_layer_kernel(gram, delta)) for gram, delta in zip(grams, state.deltas, strict=True)]
    columns = (
        [norm / _size(net, layer) for layer, norm in enumerate(norms)],
        [change.norms / _size(net, layer) for layer, change in enumerate(changes)],
        [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in activations],
        [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in moved],
        [_root_mean_square(delta) for delta in state.deltas],
        parts,
        [_frobenius(k) for k in kernels],
        [drift / _frobenius(k0) for drift, k0 in zip(drifts, start.kernels, strict=True)],
    )
    return {name: torch.stack(column, dim=1) for name, column in zip(LAYER_DETAIL, columns, strict=True)}


def growth(columns: dict[str, Tensor]) -> Tensor:
    """Return A(t) = Σ_{l<L} ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖a^(l)‖_Ê/√n_l, (S,), the quantity in the proof's Grönwall
    argument. F itself is left out, because training moves it by O(1) at any width."""
    return columns["weight_operator"].sum(dim=1) + columns["activation_norm"][:, :-1].sum(dim=1)


def forward_grams(net: DenseNetwork, layers: Layers) -> list[Tensor]:
    """Return s² a^(l)·a^(l) + c² for l = 0..L-1, each (S, N, N), s and c the factors before weights and biases."""
    return [
        torch.baddbmm(a.new_full((1, 1, 1), net.bias_scale(layer) ** 2), a, a.mT, alpha=net.scale(layer) ** 2)
        for layer, a in enumerate(layers.activations)
    ]


def subnetwork_kernels(
    net: DenseNetwork, layers: Layers, kernel: Tensor, grams: list[Tensor] | None = None
) -> list[Tensor]:
    """Return K^(l+1)_11 for l = 0..L-1, each (S, N, N): the kernel of the network of the first l+1 layers, with outputs
    z^(l+1), for its first neuron (neurons are exchangeable). The last is K_11 itself, from K (S, N, O, N, O)."""
    grams = grams or forward_grams(net, layers)
    kernels = []
    for layer in range(net.depth - 1):
        deltas = pullback(_first_neuron(layers, layer), torch.ones_like(layers.preactivations[layer][:, :, :1]))
        # The sum starts with the last layer, where δ^(l+1) = 1.
        kernels.append(sum((g * (d @ d.mT) for g, d in zip(grams, deltas[:-1], strict=False)), start=grams[layer]))
    return [*kernels, kernel[:, :, 0, :, 0]]


def _first_neuron(layers: Layers, last: int) -> Layers:
    """Return the network that ends in the first entry of z^(last+1), with its passes."""
    weights, biases = layers.params.weights, layers.params.biases
    params = Parameters([*weights[:last], weights[last][:, :1]], [*biases[:last], biases[last][:, :1]])
    preactivations = [*layers.preactivations[:last], layers.preactivations[last][:, :, :1]]
    return Layers(layers.net, params, layers.activations[: last + 1], preactivations)


def _layer_outputs(layers: Layers) -> list[Tensor]:
    """Return a^(1), ..., a^(L-1), F."""
    return [*layers.activations[1:], layers.outputs]


def _weight_norm(w: Tensor, change: Largest, start: Tensor) -> Tensor:
    """Return ‖w_t‖_op. The iteration starts from leading singular vectors of w_0 and of w_t - w_0, which saves a block
    or two and misses no direction that has become large in training."""
    if not start.shape[2]:
        return operator_norms(w).norms
    return operator_norms(w, torch.cat([start[:, :, : BLOCK - OF_CHANGE], change.vectors[:, :, :OF_CHANGE]], 2)).norms


def _size(net: DenseNetwork, layer: int) -> float:
    """Return √m times the initial standard deviation of w^(l)."""
    return net.weight_std(layer) * math.sqrt(max(net.widths[layer], net.widths[layer + 1]))


def _layer_kernel(gram: Tensor, delta: Tensor) -> Tensor:
    """Return a layer's summand of K, (S, N, O, N, O), from its gram (S, N, N) and δ (S, N, O, n)."""
    s, n, o, _ = delta.shape
    rows = delta.flatten(1, 2)
    return gram[:, :, None, :, None] * (rows @ rows.mT).view(s, n, o, n, o)


def _root_mean_square(vectors: Tensor) -> Tensor:
    """Return sqrt(mean ‖v‖²) of each run's vectors (S, ..., n): (S,), float64."""
    return vectors.double().square().sum(dim=-1).flatten(1).mean(dim=1).sqrt()


def _frobenius(kernel: Tensor) -> Tensor:
    return torch.linalg.vector_norm(kernel.flatten(1), dim=1, dtype=torch.float64)


# ---------------------------------------------------------------- descent


@dataclass(frozen=True)
class Pull:
    """A state before its step: the `positions` of its S runs, their `outputs` on all A inputs, training first, and the
    `change` of the outputs that the kernel predicts for the step; both (S, A, O)."""

    positions: list[int]
    outputs: Tensor
    change: Tensor


def kernel_pull(
    net: DenseNetwork, state: State, problem: LearningProblem, kernel: Tensor, test: Layers, test_deltas: list[Tensor]
) -> Pull:
    """Return the change of outputs predicted by K_t on the training inputs (S, N, O, N, O) and the test passes."""
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
    """Return ‖ΔF - change‖/‖ΔF‖ over training and over test inputs, (S,), where the step has led to `state`. The ratio
    is nan where the outputs did not change, without test inputs, and for runs that were removed."""
    all_inputs = state.batch is None or state.deltas is not None
    after = [state.layers.outputs if all_inputs else net.apply(state.params, problem.x)]
    after.append(net.apply(state.params, problem.x_test))
    keep = [before.positions.index(position) for position in state.positions]
    moved = torch.cat(after, dim=1).double() - before.outputs[keep].double()
    error, count = moved - before.change[keep].double(), len(problem.x)
    columns = {}
    for name, part in zip(DESCENT, (slice(count), slice(count, None)), strict=True):
        size = _norm(moved[:, part])
        ratio = torch.where(size > 0, _norm(error[:, part]) / size, torch.nan)
        columns[name] = ratio.new_full((len(before.positions),), torch.nan)
        columns[name][keep] = ratio
    return columns


def _norm(outputs: Tensor) -> Tensor:
    return torch.linalg.vector_norm(outputs.flatten(1), dim=1)


# ---------------------------------------------------------------- modes


MOST = 64  # recorded modes per run


@dataclass(frozen=True)
class Directions:
    """Recorded eigenvalues λ_i of K̂_0, (S, R), largest first, and their eigenvectors u_i as columns, (S, N·O, R), both
    float64. The sign of u_i is chosen so that u_i·(F_0 - y) ≥ 0."""

    values: Tensor
    vectors: Tensor

    def select(self, keep: list[int]) -> "Directions":
        """Return the modes of the runs at these positions."""
        return Directions(self.values[keep], self.vectors[keep])


def ranks(count: int) -> np.ndarray:
    """Return the indices of the recorded modes out of `count`, 0 the largest: all, or MOST of them evenly spaced,
    including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(int))


def directions(flows: Flows) -> Directions | None:
    """Return the recorded modes of the runs of these predictions; None where the loss has no modes."""
    if "flow" not in flows.predicted:
        return None
    modes, y = flows.predicted["flow"], flows.problem.y.double()
    count = modes.values.shape[-1]
    chosen = torch.from_numpy(count - 1 - ranks(count)).to(y.device)  # eigh sorts in ascending order
    vectors = modes.vectors[:, :, chosen]
    along = torch.einsum("spr,sp->sr", vectors, (flows.linear[:, : len(y)] - y).flatten(1))
    return Directions(modes.values[:, chosen], vectors * torch.where(along < 0, -1.0, 1.0).unsqueeze(1))


def mode_columns(along: Directions, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return `eigenvalue` λ_i and `residual` u_i·(F_t - y)/sqrt(N·O), both (S, R), from F_t on the training inputs
    (S, N, O)."""
    residual = (outputs.double() - y.double()).flatten(1)
    projection = torch.einsum("spr,sp->sr", along.vectors, residual) / residual.shape[1] ** 0.5
    return {"eigenvalue": along.values, "residual": projection}
