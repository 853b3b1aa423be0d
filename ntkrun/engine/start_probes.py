"""The probes of untrained networks, at step 0 where its outputs are stored: each layer against its limit, its neurons
against the normal distribution that they have given the layers below, and K_0 against a second computation.

Row l = 0..L-1 is about w^(l) and z^(l+1), as in detail_probes.py. All sums are in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.detail_probes import first_neurons, frobenius
from ntkrun.engine.kernel import as_matrix
from ntkrun.engine.network import Network, Parameters
from ntkrun.engine.parametrization import Scales
from ntkrun.engine.tiles import pieces
from ntkrun.engine.training import LearningProblem, State
from ntkrun.engine.uses import Affine, Use
from ntkrun.theory.limit import LimitLayers

MOVE = 1e-7  # ‖ΔW‖ of the finite differences of F: their error is the rounding of F over MOVE, 1e-9; few gates flip
WIDE = 2**22  # parameters held in float64 at a time


def start_columns(problem: LearningProblem, state: State) -> dict[str, Tensor]:
    """Return the columns of the layers table that are measured at step 0 only, each (S, L), from the first state. nan
    where a layer is not affine, or has no limit."""
    net, limits = problem.network, problem.limit_layers
    found: list[dict[str, Tensor]] = []
    for l, (z, use, layer) in enumerate(zip(state.forward.z, state.forward.uses, net.layers, strict=True)):
        c, kernel = _covariance(use, layer.scales), neuron_kernel(net, state, l)
        first = kernel[:, :, 0, :, 0]
        between = frobenius(kernel[:, :, 0, :, 1]) / frobenius(first) if kernel.shape[2] > 1 else _missing(z)
        found.append({"subnetwork_off_diagonal": between, **_neurons(z, c), **_of_limits(limits, l, c, first)})
    return {name: torch.stack([of_layer[name] for of_layer in found], dim=1) for name in found[0]}


def neuron_kernel(net: Network, state: State, layer: int) -> Tensor:
    """Return the kernel of the layers up to this one for its first two neurons, K^(l+1)_ij with i, j = 1, 2, (S, N, 2,
    N, 2); or for its only one, (S, N, 1, N, 1). For the last layer it is a part of K itself."""
    assert state.kernel is not None, "only a probed state has one"
    if layer == len(net.layers) - 1:
        return state.kernel[:, :, :2, :, :2]
    z = state.forward.z[layer]
    s, n, count = len(z), z.shape[1], min(2, z.flatten(2).shape[2])
    deltas = net.backward(state.forward, first_neurons(z, count), layer)
    kernel = z.new_zeros(s, n, count, n * count)
    for use, delta in zip(state.forward.uses, deltas, strict=False):
        use.add_gram(kernel, "full", delta, use, delta)
    return kernel.view(s, n, count, n, count)


def _of_limits(limits: LimitLayers | None, l: int, c: Tensor | None, kernel: Tensor) -> dict[str, Tensor]:
    """Return how much of its limits a layer has, each (S,): of Σ^(l+1) the covariance `c` given the layers below, of
    K^(l+1) the kernel of the layers up to it, (S, N, N), and of K^(l) Σ'^(l+1) what this carries up from below."""
    names = ("covariance_projection", "covariance_distance", "kernel_projection", "carried_projection")
    columns = dict.fromkeys(names, _missing(kernel))
    if limits is None:
        return columns
    sigma, ntk = (part[l].to(kernel.device) for part in (limits.nngp, limits.ntk))
    columns["kernel_projection"] = projection(kernel, ntk)
    if c is not None:
        runs = len(kernel)  # the first layer's covariance is the same for all
        columns["covariance_projection"] = projection(c, sigma).expand(runs)
        columns["covariance_distance"] = (frobenius(c.double() - sigma) / frobenius(sigma[None])).expand(runs)
    if c is not None and l:
        carried = (limits.ntk[l - 1] * limits.slopes[l - 1]).to(kernel.device)
        columns["carried_projection"] = projection(kernel.double() - c, carried)
    return columns


def projection(kernels: Tensor, limit: Tensor) -> Tensor:
    """Return Σ (K ∘ K_inf)/Σ K_inf² of each kernel (S, N, N): (S,), 1 for the limit (N, N) itself."""
    return (kernels.double() * limit).sum(dim=(1, 2)) / limit.square().sum()


def _covariance(use: Use, scales: Scales) -> Tensor | None:
    """Return C(x, x') = s² a·a' + c², the covariance of each output of a layer given the layers below, (S, N, N), or
    (1, N, N) for the first; s and c include the initial deviations of weights and biases. None for a layer that is not
    affine, or is applied at several positions."""
    if not isinstance(use, Affine) or use.a.ndim != 3:
        return None
    return replace(use, weight_scale=scales.weight * scales.weight_std, bias_scale=scales.bias * scales.bias_std).gram()


def _neurons(z: Tensor, c: Tensor | None) -> dict[str, Tensor]:
    """Return the moments of a layer's neurons z (S, N, n) in units of their deviations, given the layers below."""
    if c is None or z.ndim != 3:
        return dict.fromkeys(("neuron_mean", "neuron_second", "neuron_fourth", "neuron_coupling"), _missing(z))
    unit = z.double() / c.double().diagonal(dim1=1, dim2=2).sqrt().unsqueeze(2)
    n, total, squares = unit.shape[2], unit.sum(dim=2), unit.square()
    pairs = (total.square() - squares.sum(dim=2)) / math.sqrt(2 * n * (n - 1)) if n > 1 else _missing(z).unsqueeze(1)
    return {
        "neuron_mean": (total / math.sqrt(n)).mean(dim=1),
        "neuron_second": squares.mean(dim=(1, 2)),
        "neuron_fourth": squares.square().mean(dim=(1, 2)) / 3,
        "neuron_coupling": pairs.mean(dim=1),
    }


# ---------------------------------------------------------------- a second way to K_0


def kernel_errors(problem: LearningProblem, state: State) -> dict[str, Tensor]:
    """Return `kernel_error`, ‖K_0 u - J Jᵀu‖/‖K_0 u‖ of the first state's kernel for a random vector u, and
    `last_layer_error`, the same for the part of the last layer's parameters, δ_ij C, each (S,).

    The second way shares nothing with the first but the definition of F: weights are drawn again from the seeds, Jᵀu is
    the gradient of u·F by autograd, and J t the difference of F at W ± t. nan where nothing is trained.
    """
    missing = _missing(state.loss)
    names = ("kernel_error", "last_layer_error")
    if not problem.steps or state.kernel is None:
        return dict.fromkeys(names, missing)
    u = torch.from_numpy(np.random.default_rng(0).standard_normal(problem.y.shape)).to(problem.y.device)
    groups = pieces(len(problem.seeds), max(1, WIDE // problem.network.parameter_count))
    whole, last = (torch.cat(parts) for parts in zip(*(_products(problem, group, u) for group in groups), strict=True))
    use = state.forward.uses[-1]
    first = as_matrix(state.kernel).double() @ u.flatten()
    columns = {"kernel_error": _relative_error(whole.flatten(1), first)}
    part = missing
    if isinstance(use, Affine) and use.a.ndim == 3:  # part A of the kernel: δ_ij [s² a·a' + c²]
        part = _relative_error(last.flatten(1), (use.gram().double() @ u).expand_as(last).flatten(1))
    return columns | {"last_layer_error": part}


def _products(problem: LearningProblem, group: slice, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return J Jᵀu of these runs, (S, N, O), over all parameters and over those of the last layer."""
    net, x = problem.network, problem.x.double()
    params = net.init(problem.seeds[group], torch.float64, x.device)
    with torch.enable_grad():
        tensors = [tensor.requires_grad_() for tensor in params]
        total = (net.forward(params, x).outputs * u).sum()
        gradients = torch.autograd.grad(total, tensors, materialize_grads=True)
    layers = len(params.weights)
    last = [t if k in (layers - 1, 2 * layers - 1) else None for k, t in enumerate(gradients)]
    return _derivative(net, params, gradients, x), _derivative(net, params, last, x)


def _derivative(net: Network, params: Parameters, along: Sequence[Tensor | None], x: Tensor) -> Tensor:
    """Return J t for t = `along`, (S, N, O), by central differences; None stands for parameters that stay."""
    size = torch.stack([part.flatten(1).square().sum(dim=1) for part in along if part is not None]).sum(dim=0).sqrt()
    move, layers = MOVE / size, len(params.weights)

    def at(sign: float) -> Tensor:
        moved = [
            p.detach() if t is None else (sign * move.view(-1, *[1] * (p.ndim - 1)) * t).add_(p.detach())
            for p, t in zip(params, along, strict=True)
        ]
        return net.apply(Parameters(moved[:layers], moved[layers:]), x)

    return (at(1.0) - at(-1.0)) / (2 * move.view(-1, 1, 1))


def _relative_error(found: Tensor, exact: Tensor) -> Tensor:
    return torch.linalg.vector_norm(found - exact, dim=1) / torch.linalg.vector_norm(exact, dim=1)


def _missing(of_runs: Tensor) -> Tensor:
    """Return nan for each run, (S,), float64."""
    return of_runs.new_full((len(of_runs),), torch.nan, dtype=torch.float64)
