"""Predictions of F_t for a stack with a frozen kernel, at the times of its training: three of them, side by side.

* `linear`: the linearised network F_0 + J ΔW with the same steps as the network (step size, momentum, batches, loss).
  Its weights are W_lin = W_0 + J(X)ᵀc, so that F_lin = F_0 + K_0(·,X) c with c ← c + u, u ← μu - η s ∘ ∂ℓ/∂F_lin, s
  the shares of the inputs in the loss: 1/N, or how often the batch contains them over B. No Jacobian is stored;
  ‖W_lin - W_0‖² = cᵀ K_0(X,X) c.
* `flow`: gradient flow with K_0, squared error.
* `limit`: gradient flow with K_inf from the same start, squared error.

Where f = αF or α(F - F_0) is trained on loss/α² (output_scale.py), f replaces F: it starts from αF_0 or 0 and changes
by the kernel of F; W_lin = W_0 + J(X)ᵀc/α. Everything is in float64, with the float64 kernel of the initial weights:
rounding in a float32 kernel makes negative eigenvalues, whose modes would grow.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.kernel import Gradients, layerwise_kernel
from ntkrun.engine.network import Network, Parameters
from ntkrun.engine.operators import eigh
from ntkrun.engine.tiles import pieces
from ntkrun.engine.training import LearningProblem, State, shares_of
from ntkrun.theory.rules import Flow

WIDE = 2**22  # parameters held in float64 at a time: many small networks at once, large ones one by one


@dataclass(frozen=True)
class Modes:
    """Gradient flow of a frozen kernel in modes of its training part: F_t = start - reach · (s_t(λ) ∘ amplitude)."""

    start: Tensor  # (S, A·O, 1), or (S, A, O) for a kernel that acts on each output alike
    reach: Tensor  # (S, A·O, P) or (A, N)
    values: Tensor  # (S, P) or (N,)
    vectors: Tensor  # (S, P, P) or (N, N), as columns
    amplitude: Tensor  # (S, P, 1) or (S, N, O)

    def at(self, time: Tensor) -> Tensor:
        """Return F_t at one time, (1,)."""
        _, driven = Flow().factors(self.values, time)
        return self.start - self.reach @ (driven.mT * self.amplitude)


@dataclass(frozen=True)
class Flows:
    """The three predictions for the runs of a stack. `kernel` is K_0 from all A inputs to the training inputs, (S, A·O,
    N·O); `start` is F_0, (S, A, O). `coordinates` and `velocity` are c and u, (S, N, O), and `linear` is F_lin, (S, A,
    O), at the step of the next state; these three are updated in place."""

    problem: LearningProblem
    kernel: Tensor
    start: Tensor
    coordinates: Tensor
    velocity: Tensor
    linear: Tensor
    predicted: dict[str, Modes]

    def outputs(self, time: Tensor) -> dict[str, Tensor]:
        """Return each prediction at this time on all A inputs, training first: (S, A, O)."""
        return {"linear": self.linear} | {
            name: modes.at(time).reshape(self.linear.shape) for name, modes in self.predicted.items()
        }

    def weight_distance(self) -> Tensor:
        """Return ‖W_lin - W_0‖ over all weights and biases, (S,)."""
        moved = (self.linear - self.start)[:, : len(self.problem.y)]
        return (self.coordinates * moved).flatten(1).sum(dim=1).clamp(min=0).sqrt() / abs(self.problem.scale.factor)


def advance(flows: Flows, state: State) -> None:
    """Update the linearised network by the step that `state` is about to take."""
    p = flows.problem
    gradient = p.loss.gradient(flows.linear[:, : len(p.y)], p.y.double())
    flows.velocity.mul_(p.momentum).sub_(p.step_size * gradient * shares_of(state.batch, p.x))
    flows.coordinates.add_(flows.velocity)
    moved = (flows.kernel @ flows.coordinates.flatten(1).unsqueeze(2)).view(flows.start.shape)
    torch.add(flows.start, moved, out=flows.linear)


def flows(params: Parameters, problem: LearningProblem) -> Flows:
    """Return the predictions that start from these parameters."""
    net = problem.network
    points = torch.cat([problem.x, problem.x_test]).double()
    groups = pieces(len(params.weights[0]), max(1, WIDE // net.parameter_count))
    starts = [_start(net, params, group, points, len(problem.y)) for group in groups]
    outputs, kernel = (torch.cat(parts) for parts in zip(*starts, strict=True))
    start = problem.scale.start(outputs)
    predicted = {}
    if problem.loss.name == "squared":
        # A full kernel acts on all outputs, stacked in one column.
        predicted["flow"] = _modes(
            kernel, start.flatten(1).unsqueeze(2), problem.y.double().reshape(-1, 1), len(problem.y)
        )
        if problem.limit is not None:
            predicted["limit"] = _modes(problem.limit, start, problem.y.double(), len(problem.y))
    zeros = torch.zeros_like(start[:, : len(problem.y)])
    return Flows(problem, kernel, start, zeros, zeros.clone(), start.clone(), predicted)


def _start(net: Network, params: Parameters, runs: slice, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return F_0 on all points (S, A, O), and K_0 from them to the first `count`, (S, A·O, N·O), float64, for some of
    the runs, because their float64 copy is twice their size."""
    forward = net.forward(params.part(runs).double(), points)
    gradients = Gradients(forward.uses, net.output_gradients(forward))
    first = Gradients([use.part(slice(count)) for use in gradients.uses], [d[:, :count] for d in gradients.deltas])
    kernel = layerwise_kernel(gradients, first)
    return forward.outputs, kernel.flatten(3).flatten(1, 2)


def _modes(kernel: Tensor, start: Tensor, y: Tensor, inputs: int) -> Modes:
    """Return the modes of `kernel` (..., A·C, N·C) divided by its N inputs. Its first rows are the training inputs."""
    train = kernel[..., : kernel.shape[-1], :] / inputs
    values, vectors = eigh((train + train.mT) / 2)
    amplitude = vectors.mT @ (start[:, : kernel.shape[-1]] - y)
    return Modes(start, kernel / inputs @ vectors, values.clamp(min=0), vectors, amplitude)
