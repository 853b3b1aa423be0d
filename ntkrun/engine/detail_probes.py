"""The expensive probes, at chosen steps: the quantities bounded by the proof of lazy weights (docs/theory.md).

Row l = 0..L-1 is about w^(l), z^(l+1) and a^(l+1), where a^(L) means F. Norms over the data are ‖·‖_Ê² = the mean over
training inputs of the squared Euclidean norm. Norms of kernels are computed in float64, as those of K are.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.flows import Flows
from ntkrun.engine.kernel import Gradients, as_matrix, layer_kernel, layerwise_kernel
from ntkrun.engine.network import Network
from ntkrun.engine.operators import BLOCK, Largest, leading_vectors, operator_norms
from ntkrun.engine.training import LearningProblem, State, shares_of

OF_CHANGE = 4  # vectors from w_t - w_0 in the start block of the iteration for ‖w_t‖_op


@dataclass(frozen=True)
class Start:
    """The initial quantities for the expensive probes: a_0^(l+1) on the training inputs, L tensors (S, N, n); the
    sub-networks' kernels K^(l+1)_11(0), L tensors (S, N, N); and leading singular vectors of each w_0^(l)."""

    activations: list[Tensor]
    kernels: list[Tensor]
    vectors: list[Tensor]


def detail_start(net: Network, state: State) -> Start:
    """Return the initial quantities from the first state, whose kernel is K_0."""
    vectors = [leading_vectors(w) for w in state.params.weights]
    return Start(state.forward.activations, subnetwork_kernels(net, state), vectors)


def detail(net: Network, state: State, start: Start) -> dict[str, Tensor]:
    """Return the detail columns of the layers table for a probed state, each (S, L), float64:

    weight_operator              ‖w_t‖_op/√m, m = max(n_l, n_{l+1}), weights in units of their initial std; nan for a
                                 weight that is no matrix
    weight_drift_operator        ‖w_t - w_0‖_op/√m
    activation_norm              ‖a_t‖_Ê/√n of a^(l+1), n = n_{l+1}
    activation_drift             ‖a_t - a_0‖_Ê/√n
    backprop_norm                ‖δ_i^(l+1)‖, its root mean square over inputs and outputs i
    kernel_part                  ‖[s² a·a' + c²] ∘ [δ_i·δ_j']‖_F, the layer's summand of K_t
    subnetwork_kernel_norm       ‖K^(l+1)_11‖_F
    subnetwork_kernel_drift      ‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F
    """
    gradients, activations = state.gradients, state.forward.activations
    kernels = subnetwork_kernels(net, state)
    changes = [operator_norms(w - first) for w, first in zip(state.params.weights, state.start.weights, strict=True)]
    norms = [_weight_norm(*arguments) for arguments in zip(state.params.weights, changes, start.vectors, strict=True)]
    moved = [a - first for a, first in zip(activations, start.activations, strict=True)]
    drifts = [_frobenius(k.double() - k0.double()) for k, k0 in zip(kernels, start.kernels, strict=True)]
    parts = [_frobenius(layer_kernel(*of_layer)) for of_layer in zip(gradients.uses, gradients.deltas, strict=True)]
    columns = {
        "weight_operator": [norm / layer.size for layer, norm in zip(net.layers, norms, strict=True)],
        "weight_drift_operator": [change.norms / layer.size for layer, change in zip(net.layers, changes, strict=True)],
        "activation_norm": [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in activations],
        "activation_drift": [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in moved],
        "backprop_norm": [_root_mean_square(delta.flatten(3)) for delta in gradients.deltas],
        "kernel_part": parts,
        "subnetwork_kernel_norm": [_frobenius(k) for k in kernels],
        "subnetwork_kernel_drift": [drift / _frobenius(k0) for drift, k0 in zip(drifts, start.kernels, strict=True)],
    }
    return {name: torch.stack(column, dim=1) for name, column in columns.items()}


def growth(net: Network, columns: dict[str, Tensor]) -> Tensor:
    """Return A(t) = Σ_{l<L} ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖a^(l)‖_Ê/√n_l, (S,), the quantity in the proof's Grönwall
    argument, over the weights that are matrices. F itself is left out, because training moves it by O(1) at any width.
    """
    matrices = [l for l, layer in enumerate(net.layers) if len(layer.weight) == 2]
    return columns["weight_operator"][:, matrices].sum(dim=1) + columns["activation_norm"][:, :-1].sum(dim=1)


def subnetwork_kernels(net: Network, state: State) -> list[Tensor]:
    """Return K^(l+1)_11 for l = 0..L-1, each (S, N, N): the kernel of the network of the first l+1 layers, with outputs
    z^(l+1), for its first neuron (neurons are exchangeable). The last is K_11 itself."""
    assert state.kernel is not None, "only a probed state has one"
    forward, uses = state.forward, state.forward.uses[:-1]
    deltas = [net.backward(forward, _first_neuron(forward.z[layer]), layer) for layer in range(len(uses))]
    s, n, *_ = forward.outputs.shape
    kernels = forward.outputs.new_zeros(s, len(uses), n, n)
    for layer, use in enumerate(uses):  # its summand in the kernels of all sub-networks that contain it
        delta = torch.cat([of_subnetwork[layer] for of_subnetwork in deltas[layer:]], dim=2)
        use.add_gram(kernels[:, layer:], "diagonal", delta, use, delta)
    return [*kernels.unbind(1), state.kernel[:, :, 0, :, 0]]


def _first_neuron(z: Tensor) -> Tensor:
    """Return e_1 for each input, (S, N, 1, ...), for the outputs z of a layer, (S, N, ...)."""
    first = torch.zeros_like(z[:1, :1])
    first.view(-1)[0] = 1
    return first.unsqueeze(2).expand(*z.shape[:2], 1, *z.shape[2:])


def _weight_norm(w: Tensor, change: Largest, start: Tensor) -> Tensor:
    """Return ‖w_t‖_op. The iteration starts from leading singular vectors of w_0 and of w_t - w_0, which saves a block
    or two and misses no direction that has become large in training."""
    if not start.shape[2]:
        return operator_norms(w).norms
    return operator_norms(w, torch.cat([start[:, :, : BLOCK - OF_CHANGE], change.vectors[:, :, :OF_CHANGE]], 2)).norms


def _root_mean_square(vectors: Tensor) -> Tensor:
    """Return sqrt(mean ‖v‖²) of each run's vectors (S, ..., n): (S,), float64."""
    return vectors.double().square().sum(dim=-1).flatten(1).mean(dim=1).sqrt()


def _frobenius(kernel: Tensor) -> Tensor:
    return torch.linalg.vector_norm(kernel.flatten(1), dim=1, dtype=torch.float64)


# ---------------------------------------------------------------- descent


@dataclass(frozen=True)
class Pull:
    """A state before its step: the `outputs` of its S runs on all A inputs, training first, and the `change` of the
    outputs that the kernel predicts for the step; both (S, A, O)."""

    outputs: Tensor
    change: Tensor


def kernel_pull(state: State, problem: LearningProblem, test_outputs: Tensor, test: Gradients) -> Pull:
    """Return the change of outputs predicted by K_t on the training inputs and on the test inputs, on which F and its
    gradients are given."""
    assert state.kernel is not None, "only a probed state has one"
    rows = as_matrix(state.kernel)
    if len(problem.x_test):
        rows = torch.cat([rows, as_matrix(layerwise_kernel(test, state.gradients))], dim=1)
    outputs = torch.cat([state.forward.outputs, test_outputs], dim=1)
    shares = shares_of(state.batch, problem.x)
    gradient = problem.loss.gradient(state.outputs, problem.y) * shares / problem.scale.factor
    change = -problem.step_size * (rows @ gradient.flatten(1).unsqueeze(2)).view(outputs.shape)
    return Pull(outputs, change)


def residuals(before: Pull, state: State, problem: LearningProblem) -> dict[str, Tensor]:
    """Return ‖ΔF - change‖/‖ΔF‖ over training and over test inputs, (S,), where the step has led to `state`. The ratio
    is nan where the outputs did not change, and without test inputs."""
    net, all_inputs = problem.network, state.batch is None or state.deltas is not None
    after = [state.forward.outputs if all_inputs else net.apply(state.params, problem.x)]
    after.append(net.apply(state.params, problem.x_test))
    moved = torch.cat(after, dim=1).double() - before.outputs.double()
    error, count = moved - before.change.double(), len(problem.x)
    columns = {}
    for name, part in (("descent_residual", slice(count)), ("test_descent_residual", slice(count, None))):
        size = _norm(moved[:, part])
        columns[name] = torch.where(size > 0, _norm(error[:, part]) / size, torch.nan)
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
