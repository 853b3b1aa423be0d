"""Gradient descent on a stack of networks, with their kernel at every probed step.

The loss is (1/N) Σ_i ℓ(f(x_i), y_i), with ℓ from theory/losses.py. f is the network's function F, or F scaled and
centred by output_scale.py. With batches the gradient is that of B inputs, drawn for the step. Time is t = η·step.

The step and the kernel share their passes: with r = ∂loss/∂F (of loss/α² if f has a factor α), in an affine layer

    ∂loss/∂w^(l) = s_l Σ_x (Σ_i r_i(x) δ_i^(l+1)(x)) a^(l)(x)ᵀ
    ∂loss/∂b^(l) = c_l Σ_x Σ_i r_i(x) δ_i^(l+1)(x).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.calls import Call
from ntkrun.engine.kernel import Gradients, layerwise_kernel
from ntkrun.engine.network import BATCHES, Forward, Network, Parameters, generator
from ntkrun.engine.output_scale import OutputScale, Readout
from ntkrun.engine.update import Distance, update
from ntkrun.theory.limit import LimitLayers
from ntkrun.theory.losses import Loss

STEPS_AHEAD = 64  # batches are drawn and sent to the device for this many steps at once


@dataclass(frozen=True)
class LearningProblem:
    """The learning problem of a stack, on its device: the networks of these seeds, inputs x (N, n_0), targets y (N, O),
    test data likewise (M rows), the `loss`, η, μ, the number of `steps`, and the inputs B of a `batch` (None for all).
    `scale` turns F into the trained function f. `limit` is K_inf from all A = N + M inputs to the training inputs,
    (A, N), float64, or None if it is unavailable; `limit_layers` likewise holds the limits of all sub-networks on the
    training inputs, on the CPU."""

    network: Network
    seeds: Sequence[int]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    loss: Loss
    step_size: float
    momentum: float
    steps: int
    batch: int | None
    scale: OutputScale
    limit: Tensor | None
    limit_layers: LimitLayers | None = None


@dataclass(frozen=True)
class State:
    """A stack of S runs before an update. A state is valid until the next one is requested, because parameters are
    updated in place, and on CUDA the passes too.

    `params` is W, `start` is W_0, `velocity` is v with momentum. `batch` (S, B) holds the inputs used by the update;
    None means all. `outputs` are f, (S, N, O), and `loss` (S,) is the loss of these outputs.

    At probed steps `forward`, `outputs` and `loss` cover all inputs, `deltas` are δ^(l), (S, N, O, n_l), `kernel` is
    K_t, (S, N, O, N, O), both from the passes of the training step itself, and `distances` are ‖p - p_0‖ of each
    parameter, (S, 2L), float64. At other steps `forward`, `outputs` and `loss` cover the batch, and the others are
    None. Functions of these tensors that run at every step may go through `call`.
    """

    step: int
    params: Parameters
    start: Parameters
    velocity: Parameters | None
    batch: Tensor | None
    forward: Forward
    outputs: Tensor
    loss: Tensor
    deltas: list[Tensor] | None
    kernel: Tensor | None
    distances: Tensor | None
    call: Call

    @property
    def gradients(self) -> Gradients:
        """The gradients of F on the training inputs, at a probed step."""
        assert self.deltas is not None, "only a probed state has them"
        return Gradients(self.forward.uses, self.deltas)


class Recorder(Protocol):
    """Watches a training."""

    call: Call

    def steps(self, descent: "Descent") -> Iterator[int]:
        """Yield the steps of a training, from 0. They go on after a checkpoint, which is restored into `descent`."""

    def probes(self, step: int) -> bool:
        """Return True if the kernel is measured at this step."""

    def record(self, state: State) -> None:
        """Measure a state."""


def train(problem: LearningProblem, recorder: Recorder) -> Iterator[State]:
    """Yield states 0..`steps` of gradient descent, each after it was recorded and before its update."""
    call = recorder.call
    descent = call("initialisation", Descent, problem)  # W = W_0, v = 0
    for step in recorder.steps(descent):
        probe = recorder.probes(step)
        descent.draw_batch()
        now = call("forward", forward, descent, probe)  # a^(l), z^(l+1), F = z^(L), f and its loss
        delta = call("backward", output_gradients, descent, now) if probe else None  # δ_i^(l) = ∂F_i/∂z^(l)
        kernel = call("kernel", kernel_of, now, delta) if probe else None  # K_t = Σ_l [s² a·a' + c²] · [δ·δ']
        state = descent.state(step, now, delta, kernel, call)
        recorder.record(state)
        yield state
        if step < problem.steps:
            d = call("backward", directions, descent, now, delta, probe)  # d^(l) = Σ_i r_i δ_i^(l)
            call("update", move, descent, now, d, probe, recorder.probes(step + 1))  # w^(l) -= η s_l Σ_x d^(l+1) a^(l)ᵀ


# ---------------------------------------------------------------- the parts of a step


@dataclass(frozen=True)
class Pass:
    """The forward pass of a step: its outputs f and their loss, the targets of its inputs, and the `shares` of these
    inputs in the loss that the step minimises."""

    forward: Forward
    outputs: Tensor
    targets: Tensor
    shares: Tensor | float
    loss: Tensor


def forward(descent: "Descent", probe: bool) -> Pass:
    """Run the forward pass: on all inputs at a probed step, else on the batch only."""
    problem, batch, readout = descent.problem, descent.batch, descent.readout
    x, y = problem.x, problem.y
    if batch is None or probe:
        shares = shares_of(batch, x)
    else:
        readout, x, y, shares = readout.of_batch(batch), x[batch], y[batch], 1 / batch.shape[1]
    passes = problem.network.forward(descent.params, x)
    outputs = readout(passes.outputs)
    return Pass(passes, outputs, y, shares, problem.loss(outputs, y))


def output_gradients(descent: "Descent", now: Pass) -> list[Tensor]:
    """Return δ^(l), l = 1..L, each (S, N, O, n_l)."""
    return descent.problem.network.output_gradients(now.forward)


def kernel_of(now: Pass, deltas: list[Tensor]) -> Tensor:
    """Return K_t on the training inputs, (S, N, O, N, O), from the passes of the step."""
    gradients = Gradients(now.forward.uses, deltas)
    return layerwise_kernel(gradients, gradients)


def directions(descent: "Descent", now: Pass, deltas: list[Tensor] | None, probe: bool) -> list[Tensor]:
    """Return d^(l) = Σ_i r_i δ_i^(l) for l = 1..L, each (S, N, n_l), from the δ of the kernel at a probed step. By
    `probe` alone calls.py tells recordings of the two ways apart, here and in `move`."""
    problem = descent.problem
    r = descent.readout.pull(problem.loss.gradient(now.outputs, now.targets) * now.shares)
    if deltas is None:
        return problem.network.pullback(now.forward, r)
    if r.shape[2] == 1:
        return [r.view(*r.shape, *[1] * (delta.ndim - 4)) * delta.squeeze(2) for delta in deltas]
    return [(r.unsqueeze(2) @ delta.flatten(3)).squeeze(2).view(*r.shape[:2], *delta.shape[3:]) for delta in deltas]


def move(descent: "Descent", now: Pass, d: list[Tensor], probe: bool, measure: bool) -> None:
    """Update the parameters, and then their distances from the start if `measure`."""
    problem = descent.problem
    update(descent.params, descent.velocity, now.forward.uses, d, problem.step_size, problem.momentum)
    if measure:
        descent.distance.measure(descent.distances)


def shares_of(batch: Tensor | None, x: Tensor) -> Tensor | float:
    """Return the weight of each of the inputs x (N, n_0) in the loss of a step: 1/N without batches. With batches it is
    (S, N, 1): how often the batch (S, B) contains the input, divided by B."""
    if batch is None:
        return 1 / len(x)
    runs, size = batch.shape
    weight = x.new_full((runs, size), 1 / size)
    return x.new_zeros(runs, len(x)).scatter_add_(1, batch, weight).unsqueeze(2)


# ---------------------------------------------------------------- what a training moves


@dataclass(frozen=True)
class Snapshot:
    """A training before the update of `step` > 0: the part of a State that cannot be recomputed from its seeds."""

    step: int
    params: Parameters
    velocity: Parameters | None
    distances: Tensor | None


class Descent:
    """The tensors that a training changes in place: W, v with momentum, the distances of W from W_0, and the batch."""

    def __init__(self, problem: LearningProblem):
        net, x, moves = problem.network, problem.x, problem.steps > 0
        self.problem = problem
        self.params = net.init(problem.seeds, x.dtype, x.device)
        self.start = self.params.clone() if moves else self.params
        self.velocity = self.params.zeros() if problem.momentum and moves else None
        self.distance = Distance(self.params, self.start)
        # Those of the latest probed state, or of the next one if it is probed.
        self.distances = x.new_zeros(len(problem.seeds), sum(1 for _ in self.params), dtype=torch.float64)
        self.readout = Readout.begin(problem.scale, net, self.params, x)
        self.batches = batches(net, problem.seeds, len(x), problem.batch or 0, x.device)
        self.batch: Tensor | None = None

    def draw_batch(self) -> None:
        """Draw the batch of the next step, if the training uses batches."""
        if self.problem.batch is not None:
            drawn = next(self.batches)
            self.batch = drawn.clone() if self.batch is None else self.batch.copy_(drawn)

    def state(self, step: int, now: Pass, deltas: list[Tensor] | None, kernel: Tensor | None, call: Call) -> State:
        """Return the state before an update."""
        distances = None if deltas is None else self.distances
        passes = (self.batch, now.forward, now.outputs, now.loss, deltas, kernel, distances)
        return State(step, self.params, self.start, self.velocity, *passes, call)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to the state that a snapshot recorded, from state 0."""
        self.params.set_(snapshot.params)
        if self.velocity is not None and snapshot.velocity is not None:
            self.velocity.set_(snapshot.velocity)
        if snapshot.distances is not None:
            self.distances.copy_(snapshot.distances)
        self.batches = islice(self.batches, snapshot.step - 1, None)


def batches(net: Network, seeds: Sequence[int], inputs: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches (S, B) without end: `size` of the inputs 0..`inputs`-1 per step and run, i.i.d. with replacement.

    Each run has its own generator, so its batches do not depend on the other runs of the stack. The widths are part of
    the generator's key, as the shapes are for initial weights.
    """
    key = (len(net.layers), BATCHES, net.inputs, *(layer.outputs for layer in net.layers))
    generators = [generator(seed, *key) for seed in seeds]
    while True:
        ahead = np.stack([random.integers(inputs, size=(STEPS_AHEAD, size)) for random in generators], axis=1)
        yield from torch.from_numpy(ahead).to(device)
