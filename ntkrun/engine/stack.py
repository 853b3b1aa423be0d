"""Run one stack from its seeds to its tables: initialise, train, measure."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine import detail_probes
from ntkrun.engine.checkpoint import NO_CHECKPOINTS, Checkpoint, Keeper, checkpoint
from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.flows import LearningProblem
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.output_scale import PLAIN, OutputScale
from ntkrun.engine.probes import Measurement, Reference, measure, reference
from ntkrun.engine.recorder import Axes, Columns, Recorder
from ntkrun.engine.torch_settings import full_float32
from ntkrun.engine.training import Divergence, Snapshot, State, batches, train
from ntkrun.theory.losses import LOSSES

# Upper limits on the steps between two reads, and on the bytes of their kernels. A GPU runs that far ahead of the host,
# which holds the kernels. On a CPU the eigenvalues of these steps are computed together: between two multithreaded
# products, our own threads would wait for cores.
STEPS_UNREAD = {"cpu": 16, "cuda": 32}
BYTES_UNREAD = {"cpu": 2**25, "cuda": 2**30}
MOVED_UNREAD = 2**24  # parameters that a CPU updates before a read: a fraction of a second, since a stop request waits


@dataclass(frozen=True)
class StackTask:
    """The specification of a stack: its networks, the data (float64 arrays), the training, and which steps are
    measured."""

    network: DenseNetwork
    seeds: Sequence[int]
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    step_size: float
    steps: int
    probed: frozenset[int]  # steps at which everything is measured, including 0 and `steps`
    keep_kernels: frozenset[int]  # steps whose full kernel is stored
    keep_last_kernel: bool  # store the last measured kernel too, at whichever step the run ends
    dtype: torch.dtype
    loss: str = "squared"
    batch: int | None = None  # inputs per step, i.i.d. with replacement; None for all inputs
    momentum: float = 0.0
    limit: np.ndarray | None = None  # K_inf from training inputs, then test inputs, to the training inputs, (N + M, N)
    scale: OutputScale = PLAIN  # the trained function: f = αF or α(F - F_0)
    detailed: frozenset[int] = frozenset()  # probed steps with the expensive probes too
    keep_outputs: frozenset[int] = frozenset()  # probed steps whose outputs are stored

    @property
    def largest_product(self) -> int:
        """Multiply-adds of the largest product of a step, activations times weights: S N max_l n_l n_{l+1}."""
        return len(self.seeds) * len(self.x) * max(n * m for n, m in pairwise(self.network.widths))


@dataclass(frozen=True)
class StackResult:
    """The results of a stack. `steps`, `layers`, `modes` and `outputs` are the rows of the tables of that name. Column
    `position` (in the stack) identifies the run, and column `point` of `outputs` the input, training inputs first.
    `kernels[position]` maps steps to K (N, N, O, O). `diverged` lists the diverged runs, and `seconds` is the time of
    the whole stack."""

    steps: Columns
    layers: Columns
    modes: Columns
    outputs: Columns
    kernels: dict[int, dict[int, np.ndarray]]
    diverged: list[Divergence]
    seconds: float


Watcher = Callable[[State, Measurement | None], None]


@full_float32()
def run_stack(
    task: StackTask,
    device: torch.device,
    watch: Watcher = lambda state, measurement: None,
    read_every: int | None = None,
    clock: Laps = NO_CLOCK,
    keeper: Keeper = NO_CHECKPOINTS,
    resume: Checkpoint | None = None,
) -> StackResult:
    """Train a stack and measure it. `watch` is called with every state and its measurement.

    Every `read_every` steps (None: every `steps_unread`) losses and probes are read from the device and divergence is
    checked. The result does not depend on `read_every`. `clock.lap` is called at the end of each phase.
    The `keeper` receives a checkpoint when one is due. With `resume`, a checkpoint of the same task, the result equals
    that of an uninterrupted run, bit for bit on a CPU with the same threads, and the seconds are added up.
    """
    started = time.perf_counter() - (resume.seconds if resume else 0.0)
    read_every = read_every or steps_unread(task, device)
    problem = _problem(task, device)
    observer = _Observer(task, problem, clock)
    states = _states(task, problem, device, read_every, clock, resume)
    if resume:
        observer.resume(next(states), resume)
    for state in states:
        observer.receive(state)
        if state.checked and state.positions and 0 < state.step < task.steps and keeper.due():
            keeper.keep(observer.checkpoint(state, time.perf_counter() - started))
        measurement = observer.measure(state)
        watch(state, measurement)
        clock.lap("reading back")
        observer.advance(state)
    tables, kernels = observer.recorder.result()
    clock.lap("reading back")
    diverged = observer.recorder.recorded.diverged
    return StackResult(**tables, kernels=kernels, diverged=diverged, seconds=time.perf_counter() - started)


def steps_unread(task: StackTask, device: torch.device) -> int:
    """Return how many steps may run before their measurements are read from the device."""
    runs = len(task.seeds)
    kernels = runs * (len(task.x) * task.network.outputs) ** 2 * task.dtype.itemsize
    limit = min(STEPS_UNREAD[device.type], BYTES_UNREAD[device.type] // kernels)
    if device.type == "cpu":
        limit = min(limit, MOVED_UNREAD // (runs * task.network.parameter_count))
    return max(1, limit)


class _Observer:
    """Measures a training run state by state. It holds the recorder, the reference of the remaining runs, their time,
    and the change of outputs that the kernel predicts for the last state, until that step's outcome is known."""

    def __init__(self, task: StackTask, problem: LearningProblem, clock: Laps):
        self.task, self.problem, self.clock = task, problem, clock
        axes = Axes(task.network.depth, len(task.x), len(task.x_test), task.network.outputs)
        self.recorder = Recorder(axes, task.step_size, task.keep_kernels, task.keep_last_kernel)
        self.reference: Reference | None = None
        self.positions = list(range(len(task.seeds)))
        self.time = torch.zeros(1, dtype=torch.float64, device=problem.x.device)
        self.pull: detail_probes.Pull | None = None

    def receive(self, state: State) -> None:
        """Complete the measurement of earlier states: drop diverged runs and record the outcome of the last step."""
        self._restrict(state.positions)
        if self.pull is not None:
            self.recorder.complete(detail_probes.residuals(self.task.network, self.pull, state, self.problem))
            self.pull = None
            self.clock.lap("detail")
        if state.checked:
            self.recorder.read(state.diverged)
            self.clock.lap("probes")  # mostly eigenvalues

    def measure(self, state: State) -> Measurement | None:
        """Measure a probed state against the reference computed from the first one. Return None for other states."""
        if state.deltas is None:
            return None
        task = self.task
        ref = self.reference = self.reference or self._first(state)
        options = state.step in task.detailed, state.step in task.keep_outputs
        self.time.fill_(state.step * task.step_size)
        measurement = measure(task.network, state, ref, self.time, *options, self.clock)
        self.recorder.record(measurement)
        self.pull = measurement.pull if state.step < task.steps else None
        return measurement

    def advance(self, state: State) -> None:
        """Advance the predictions of the frozen kernels by the step that this state is about to take."""
        if self.reference is not None:
            state.replay(("flows", state.deltas is None), partial(self.reference.flows.advance, state))
        self.clock.lap("flows")

    def checkpoint(self, state: State, seconds: float) -> Checkpoint:
        """Return the checkpoint of a state that is checked for divergence but not measured yet."""
        assert self.reference is not None, "computed from the first state"
        snapshot = Snapshot(state.step, state.positions, state.params, state.velocity, state.distances)
        return checkpoint(snapshot, self.reference.flows, self.recorder.recorded, seconds)

    def resume(self, first: State, saved: Checkpoint) -> None:
        """Restore the checkpoint, starting from the first state of the training run."""
        self.reference, self.positions = self._first(first), first.positions
        self._restrict(saved.snapshot.positions)
        self.reference = replace(self.reference, flows=saved.flows(self.reference.flows))
        self.recorder.recorded = saved.recorded()

    def _first(self, state: State) -> Reference:
        return reference(self.task.network, state, self.problem, bool(self.task.detailed), self.clock)

    def _restrict(self, positions: list[int]) -> None:
        """Restrict the observer to the remaining runs, which have these positions."""
        if self.reference is not None and len(positions) < len(self.positions):
            self.reference = self.reference.select([self.positions.index(position) for position in positions])
        self.positions = positions


def _states(
    task: StackTask,
    problem: LearningProblem,
    device: torch.device,
    read_every: int,
    clock: Laps,
    resume: Checkpoint | None,
) -> Iterator[State]:
    """Return the states of training the stack from its seeds."""
    net = task.network
    params = net.init(task.seeds, task.dtype, device)
    clock.lap("initialisation")
    drawn = None if task.batch is None else batches(net, task.seeds, len(problem.x), task.batch, device)
    args = (task.step_size, task.steps, task.probed, problem.loss, task.momentum, drawn, read_every, task.scale, clock)
    return train(net, params, problem.x, problem.y, *args, resume.snapshot if resume else None)


def _problem(task: StackTask, device: torch.device) -> LearningProblem:
    x, y, x_test, y_test = (_tensor(a, task.dtype, device) for a in (task.x, task.y, task.x_test, task.y_test))
    limit = None if task.limit is None else _tensor(task.limit, torch.float64, device)
    return LearningProblem(x, y, x_test, y_test, LOSSES[task.loss], task.step_size, task.momentum, limit, task.scale)


def _tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=dtype, device=device)
