"""Is training descent along the kernel's gradient? A step's change of the outputs against what the kernel says.

    ΔF(x) = F_{t+1}(x) - F_t(x) ≈ -η Σ_i s_i K_t(x, x_i) ∂ℓ_i/∂F(x_i)

(∂ℓ/∂f /α where f = αF or α(F - F_0) is trained: readout.py)

with s the shares of the inputs in the loss that the step descends: 1/N, or those of the batch. Exact to first order in
η at any width, training and test inputs alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.columns import DESCENT
from ntkrun.engine.flows import Problem
from ntkrun.engine.kernel import as_matrix, layerwise_kernel
from ntkrun.engine.network import DenseNetwork, Layers
from ntkrun.engine.training import State, shares_of


@dataclass(frozen=True)
class Pull:
    """A state about to take its step: the `positions` of its S runs, their `outputs` on all A inputs, training first,
    and the `change` that the kernel makes of the step; (S, A, O) both."""

    positions: list[int]
    outputs: Tensor
    change: Tensor


def pull(
    net: DenseNetwork, state: State, problem: Problem, kernel: Tensor, test: Layers, test_deltas: list[Tensor]
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


def residuals(net: DenseNetwork, before: Pull, state: State, problem: Problem) -> dict[str, Tensor]:
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
