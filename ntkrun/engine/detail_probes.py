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
from ntkrun.engine.network import Layer, Network
from ntkrun.engine.operators import BLOCK, Largest, eigh, leading_vectors, operator_norms
from ntkrun.engine.training import LearningProblem, State, shares_of
from ntkrun.engine.uses import Affine, Use
from ntkrun.theory.random_matrices import operator_norm

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
    kernels = subnetwork_kernels(state, subnetwork_gradients(net, state))
    return Start(state.forward.activations, kernels, vectors)


def detail(problem: LearningProblem, state: State, start: Start) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the detail columns of the layers table for a probed state, each (S, L), float64, and the change of each
    layer's first neuron on the training inputs that its kernel predicts for the step, (S, N) each. The columns are

    weight_operator              ‖w_t‖_op/√m, m = max(n_l, n_{l+1}), weights in units of their initial std; nan for a
                                 weight that is no matrix
    weight_operator_ratio        ‖w_t‖_op over the expectation of ‖w_0‖_op
    weight_drift_operator        ‖w_t - w_0‖_op/√m
    weight_speed                 ‖∂loss/∂w^(l)‖_op/√m of the loss that training minimises
    preactivation_norm           ‖z_t‖_Ê/√n of z^(l+1), n = n_{l+1}
    activation_norm              ‖a_t‖_Ê/√n of a^(l+1)
    activation_drift             ‖a_t - a_0‖_Ê/√n
    backprop_norm                ‖δ_i^(l+1)‖, its root mean square over inputs and outputs i
    kernel_part                  ‖[s² a·a' + c²] ∘ [δ_i·δ_j']‖_F, the layer's summand of K_t
    subnetwork_kernel_norm       ‖K^(l+1)_11‖_F
    subnetwork_kernel_drift      ‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F
    """
    net, gradients, activations = problem.network, state.gradients, state.forward.activations
    of_subnetworks = subnetwork_gradients(net, state)
    kernels = subnetwork_kernels(state, of_subnetworks)
    shares = shares_of(state.batch, problem.x)
    r = problem.loss.gradient(state.outputs, problem.y) * shares / problem.scale.factor
    d = net.pullback(state.forward, r)
    changes = [operator_norms(w - first) for w, first in zip(state.params.weights, state.start.weights, strict=True)]
    norms = [_weight_norm(*arguments) for arguments in zip(state.params.weights, changes, start.vectors, strict=True)]
    moved = [a - first for a, first in zip(activations, start.activations, strict=True)]
    drifts = [frobenius(k.double() - k0.double()) for k, k0 in zip(kernels, start.kernels, strict=True)]
    parts = [frobenius(layer_kernel(*of_layer)) for of_layer in zip(gradients.uses, gradients.deltas, strict=True)]
    columns = {
        "weight_operator": [norm / layer.size for layer, norm in zip(net.layers, norms, strict=True)],
        "weight_operator_ratio": [_over_expectation(*pair) for pair in zip(norms, net.layers, strict=True)],
        "weight_drift_operator": [change.norms / layer.size for layer, change in zip(net.layers, changes, strict=True)],
        "weight_speed": [_speed(*of_layer) for of_layer in zip(net.layers, gradients.uses, d, strict=True)],
        "preactivation_norm": [_root_mean_square(z) / math.sqrt(z.shape[-1]) for z in state.forward.z],
        "activation_norm": [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in activations],
        "activation_drift": [_root_mean_square(a) / math.sqrt(a.shape[-1]) for a in moved],
        "backprop_norm": [_root_mean_square(delta.flatten(3)) for delta in gradients.deltas],
        "kernel_part": parts,
        "subnetwork_kernel_norm": [frobenius(k) for k in kernels],
        "subnetwork_kernel_drift": [drift / frobenius(k0) for drift, k0 in zip(drifts, start.kernels, strict=True)],
    }
    stacked = {name: torch.stack(column, dim=1) for name, column in columns.items()}
    return stacked, [-problem.step_size * pull for pull in _pulls(state, of_subnetworks, d)]


def growth(net: Network, columns: dict[str, Tensor]) -> Tensor:
    """Return A(t) = Σ_{l<L} ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖z^(l)‖_Ê/√n_l, (S,), the quantity in the proof's Grönwall
    argument, over the weights that are matrices. F = z^(L) is left out, because training moves it by O(1) at any width.
    """
    matrices = [l for l, layer in enumerate(net.layers) if len(layer.weight) == 2]
    return columns["weight_operator"][:, matrices].sum(dim=1) + columns["preactivation_norm"][:, :-1].sum(dim=1)


def subnetwork_gradients(net: Network, state: State) -> list[list[Tensor]]:
    """Return for each hidden layer l = 0..L-2 the gradients of its first neuron, ∂z_1^(l+1)/∂z^(k+1) for k = 0..l, each
    (S, N, 1, n)."""
    z = state.forward.z
    return [net.backward(state.forward, first_neurons(z[layer]), layer) for layer in range(len(z) - 1)]


def subnetwork_kernels(state: State, of_subnetworks: list[list[Tensor]]) -> list[Tensor]:
    """Return K^(l+1)_11 for l = 0..L-1, each (S, N, N): the kernel of the network of the first l+1 layers, with outputs
    z^(l+1), for its first neuron (neurons are exchangeable). The last is K_11 itself."""
    assert state.kernel is not None, "only a probed state has one"
    uses = state.forward.uses[:-1]
    s, n, *_ = state.forward.outputs.shape
    kernels = state.forward.outputs.new_zeros(s, len(uses), n, n)
    for layer, use in enumerate(uses):  # its summand in the kernels of all sub-networks that contain it
        delta = torch.cat([deltas[layer] for deltas in of_subnetworks[layer:]], dim=2)
        use.add_gram(kernels[:, layer:], "diagonal", delta, use, delta)
    return [*kernels.unbind(1), state.kernel[:, :, 0, :, 0]]


def _pulls(state: State, of_subnetworks: list[list[Tensor]], d: list[Tensor]) -> list[Tensor]:
    """Return Σ_i Σ_k K^(l+1)_1k(x, x_i) d_k(x_i) for each hidden layer, (S, N), from the gradients of its first neuron
    and d^(l) = ∂loss/∂z^(l). By the chain rule its z_1 falls by η times this in a step."""
    uses, pulls = state.forward.uses, []
    for deltas in of_subnetworks:
        s, n = deltas[0].shape[:2]
        tile = deltas[0].new_zeros(s, 1, n, n)
        for use, delta, pulled in zip(uses, deltas, d, strict=False):
            use.add_gram(tile, "diagonal", delta.contiguous(), use, pulled.unsqueeze(2))  # e_1 is shared by the stack
        pulls.append(tile[:, 0].double().sum(dim=2))
    return pulls


def _speed(layer: Layer, use: Use, d: Tensor) -> Tensor:
    """Return ‖∂loss/∂w‖_op/√m, (S,), of the gradient s Σ_x d(x) a(x)ᵀ: its singular values are those of a matrix over
    inputs, R D Rᵀ with D = d·d' and RᵀR = s² a·a'. nan for a layer that is no matrix, or is applied at positions."""
    if not isinstance(use, Affine) or use.a.ndim != 3 or d.ndim != 3:
        return d.new_full((len(d),), torch.nan, dtype=torch.float64)
    a, d = use.a.double(), d.double()
    values, vectors = eigh(use.weight_scale**2 * a @ a.mT)
    root = vectors * values.clamp(min=0).sqrt().unsqueeze(1)
    squares, _ = eigh(root.mT @ (d @ d.mT) @ root)
    return squares[:, -1].clamp(min=0).sqrt() / layer.size


def first_neurons(z: Tensor, count: int = 1) -> Tensor:
    """Return e_1, ..., e_count for each input, (S, N, count, ...), for the outputs z of a layer, (S, N, ...)."""
    unit = torch.eye(count, z[0, 0].numel(), dtype=z.dtype, device=z.device)
    return unit.view(count, *z.shape[2:]).expand(*z.shape[:2], count, *z.shape[2:])


def _weight_norm(w: Tensor, change: Largest, start: Tensor) -> Tensor:
    """Return ‖w_t‖_op. The iteration starts from leading singular vectors of w_0 and of w_t - w_0, which saves a block
    or two and misses no direction that has become large in training."""
    if not start.shape[2]:
        return operator_norms(w).norms
    return operator_norms(w, torch.cat([start[:, :, : BLOCK - OF_CHANGE], change.vectors[:, :, :OF_CHANGE]], 2)).norms


def _over_expectation(norms: Tensor, layer: Layer) -> Tensor:
    """Return ‖w_t‖_op over the expectation of ‖w_0‖_op; nan for a weight that is no matrix."""
    if len(layer.weight) != 2:
        return torch.full_like(norms, torch.nan)
    rows, columns = layer.weight
    return norms / (operator_norm(rows, columns) * layer.scales.weight_std)


def _root_mean_square(vectors: Tensor) -> Tensor:
    """Return sqrt(mean ‖v‖²) of each run's vectors (S, ..., n): (S,), float64."""
    return vectors.double().square().sum(dim=-1).flatten(1).mean(dim=1).sqrt()


def frobenius(kernel: Tensor) -> Tensor:
    """Return ‖K‖_F of each kernel of a stack, (S,), float64."""
    return torch.linalg.vector_norm(kernel.flatten(1), dim=1, dtype=torch.float64)


# ---------------------------------------------------------------- descent

DIFFERENCE = 1e-5  # of f: central differences are off by DIFFERENCE² and by 1e-16/DIFFERENCE


@dataclass(frozen=True)
class Pull:
    """A state before its step: F of its S runs on all A inputs, training first, and f on the training inputs; the
    `change` of F that the kernel predicts for the step, (S, A, O); the change of the loss that it predicts, (S,); and
    for each hidden layer the first neuron's z_1, (S, N), with its predicted change."""

    outputs: Tensor
    trained: Tensor
    change: Tensor
    loss_change: Tensor
    neurons: list[Tensor]
    neuron_changes: list[Tensor]


def kernel_pull(
    state: State, problem: LearningProblem, test_outputs: Tensor, test: Gradients, neuron_changes: list[Tensor]
) -> Pull:
    """Return the changes predicted by K_t on the training inputs and on the test inputs, on which F and its gradients
    are given, and by the kernels of the layers."""
    assert state.kernel is not None, "only a probed state has one"
    kernel = as_matrix(state.kernel)
    rows = kernel
    if len(problem.x_test):
        rows = torch.cat([rows, as_matrix(layerwise_kernel(test, state.gradients))], dim=1)
    outputs = torch.cat([state.forward.outputs, test_outputs], dim=1)
    shares = shares_of(state.batch, problem.x)
    gradient = problem.loss.gradient(state.outputs, problem.y) * shares / problem.scale.factor
    change = -problem.step_size * (rows @ gradient.flatten(1).unsqueeze(2)).view(outputs.shape)
    g = numerical_gradient(problem, state.outputs)
    moved = (kernel.double() @ (g * shares).flatten(1).unsqueeze(2)).squeeze(2)
    loss_change = -problem.step_size * (g.flatten(1) * moved).sum(dim=1) / len(problem.x)
    neurons = [_first(z) for z in state.forward.z[:-1]]
    trained = state.outputs.clone()  # those of the state are overwritten by the next
    return Pull(outputs, trained, change, loss_change, neurons, neuron_changes)


def numerical_gradient(problem: LearningProblem, outputs: Tensor) -> Tensor:
    """Return ∂ℓ/∂f from values of the loss alone, by central differences, (S, N, O), float64."""
    f, y = outputs.double(), problem.y.double()
    gradient = torch.empty_like(f)
    for o in range(f.shape[2]):
        move = torch.zeros_like(f[:1, :1])
        move[..., o] = DIFFERENCE
        gradient[..., o] = (problem.loss.each(f + move, y) - problem.loss.each(f - move, y)) / (2 * DIFFERENCE)
    return gradient


def residuals(before: Pull, state: State, problem: LearningProblem) -> dict[str, dict[str, Tensor]]:
    """Return the deviations from the predictions, where the step has led to `state`: columns of the tables of steps,
    (S,), and of layers, (S, L). They are nan where nothing changed, and without test inputs; and for the first layer,
    which has none, and the output layer, whose deviation is in the steps table."""
    net, all_inputs = problem.network, state.batch is None or state.deltas is not None
    forward = state.forward if all_inputs else net.forward(state.params, problem.x)
    after = torch.cat([forward.outputs, net.apply(state.params, problem.x_test)], dim=1)
    moved, count = after.double() - before.outputs.double(), len(problem.x)
    columns = {
        name: _deviation(moved[:, part], before.change[:, part])
        for name, part in (("descent_residual", slice(count)), ("test_descent_residual", slice(count, None)))
    }
    f, y = before.trained.double(), problem.y.double()
    fallen = problem.loss(f + problem.scale.factor * moved[:, :count], y) - problem.loss(f, y)
    columns["loss_descent_residual"] = _deviation(fallen.unsqueeze(1), before.loss_change.unsqueeze(1))
    of_layers = [
        _deviation(_first(z).double() - z_before.double(), change)
        for z, z_before, change in zip(forward.z[:-1], before.neurons, before.neuron_changes, strict=True)
    ]
    if of_layers:
        of_layers[0] = torch.full_like(fallen, torch.nan)  # z^(1) is linear in its weights: nothing but rounding
    layers = torch.stack([*of_layers, torch.full_like(fallen, torch.nan)], dim=1)
    return {"steps": columns, "layers": {"descent_residual": layers}}


def _first(z: Tensor) -> Tensor:
    """Return the first neuron of a layer's outputs (S, N, ...), (S, N), as a copy that stays."""
    return z.flatten(2)[..., 0].clone()


def _deviation(moved: Tensor, predicted: Tensor) -> Tensor:
    """Return ‖moved - predicted‖/‖moved‖ of each run, nan where nothing moved."""
    size = _norm(moved)
    return torch.where(size > 0, _norm(moved - predicted.double()) / size, torch.nan)


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
