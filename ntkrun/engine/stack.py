"""One stack from its seeds to its tables: initialise, train, measure."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine import detail
from ntkrun.engine.checkpoint import NO_CHECKPOINTS, Checkpoint, Keeper, checkpoint
from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.flows import LearningProblem
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.probes import Measurement, Reference, measure, reference
from ntkrun.engine.readout import PLAIN, OutputScale
from ntkrun.engine.recorder import Axes, Columns, Recorder
from ntkrun.engine.torch_settings import full_float32
from ntkrun.engine.training import Divergence, Snapshot, State, batches, train
from ntkrun.theory.losses import LOSSES

# A device of its own runs so many steps ahead of the host, which holds their kernels, and no more bytes of them. A CPU
# takes their eigenvalues together: between two products of many threads, threads of ours would wait for their cores.
STEPS_UNREAD = {"cpu": 16, "cuda": 32}
BYTES_UNREAD = {"cpu": 2**25, "cuda": 2**30}
MOVED_UNREAD = 2**24  # parameters that a CPU moves meanwhile: a fraction of a second, for a stop waits for it


@dataclass(frozen=True)
class StackTask:
    """What a stack is asked to do: which networks, on what data (float64 arrays), how long, and what to measure
    when."""

    network: DenseNetwork
    seeds: Sequence[int]
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    step_size: float
    steps: int
    probed: frozenset[int]  # steps at which everything is measured; 0 and `steps` among them
    keep_kernels: frozenset[int]  # steps whose whole kernel is kept
    keep_last_kernel: bool  # the last one measured too, wherever the run ends
    dtype: torch.dtype
    loss: str = "squared"
    batch: int | None = None  # inputs a step, i.i.d. with replacement; None for all of them
    momentum: float = 0.0
    limit: np.ndarray | None = None  # K_inf from training and then test inputs to the training inputs, (N + M, N)
    scale: OutputScale = PLAIN  # what is trained: f = αF or α(F - F_0)
    detailed: frozenset[int] = frozenset()  # those of the probed steps at which the dearer probes are measured too
    keep_outputs: frozenset[int] = frozenset()  # those of the probed steps whose outputs are kept

    @property
    def largest_product(self) -> int:
        """Multiply-adds of the largest product of a step, activations times weights: S N max_l n_l n_{l+1}."""
        return len(self.seeds) * len(self.x) * max(n * m for n, m in pairwise(self.network.widths))


@dataclass(frozen=True)
class StackResult:
    """What came out: the rows of the tables of that name with `position` (in the stack) for the run, and of `outputs`
    with `point` for the input, training inputs first; `kernels[position]` maps steps to K (N, N, O, O); `diverged` the
    runs that diverged; `seconds` for the whole stack."""

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
    """Train the stack and measure it; `watch` sees every state (and what was measured of it) as it passes.

    Losses and probes are read from the device, and divergence looked for, every `read_every` steps; None: every
    `steps_unread`. The result does not depend on it. `clock` is told of each phase as it ends.
    The `keeper` is given a checkpoint where one is due; to `resume` one of the same task gives the result that the
    stack would have had without a break, its seconds added up: to the bit on a CPU with the same threads.
    """
    started = time.perf_counter() - (resume.seconds if resume else 0.0)
    read_every = read_every or steps_unread(task, device)
    problem = _problem(task, device)
    seen = _Observer(task, problem, clock)
    states = _states(task, problem, device, read_every, clock, resume)
    if resume:
        seen.resume(next(states), resume)
    for state in states:
        seen.arrives(state)
        if state.checked and state.positions and 0 < state.step < task.steps and keeper.due():
            keeper.keep(seen.checkpoint(state, time.perf_counter() - started))
        measurement = seen.measure(state)
        watch(state, measurement)
        clock.lap("reading back")
        seen.advance(state)
    tables, kernels = seen.recorder.result()
    clock.lap("reading back")
    diverged = seen.recorder.recorded.diverged
    return StackResult(**tables, kernels=kernels, diverged=diverged, seconds=time.perf_counter() - started)


def steps_unread(task: StackTask, device: torch.device) -> int:
    """How many steps may pass until what was measured of them is read."""
    runs = len(task.seeds)
    kernels = runs * (len(task.x) * task.network.outputs) ** 2 * task.dtype.itemsize
    most = min(STEPS_UNREAD[device.type], BYTES_UNREAD[device.type] // kernels)
    if device.type == "cpu":
        most = min(most, MOVED_UNREAD // (runs * task.network.parameter_count))
    return max(1, most)


class _Observer:
    """Follows a training from state to state: its recorder, the reference of the runs still going, their time, and the
    pull of the kernel on the last state, which waits for the outcome of its step."""

    def __init__(self, task: StackTask, problem: LearningProblem, clock: Laps):
        self.task, self.problem, self.clock = task, problem, clock
        axes = Axes(task.network.depth, len(task.x), len(task.x_test), task.network.outputs)
        self.recorder = Recorder(axes, task.step_size, task.keep_kernels, task.keep_last_kernel)
        self.reference: Reference | None = None
        self.positions = list(range(len(task.seeds)))
        self.time = torch.zeros(1, dtype=torch.float64, device=problem.x.device)
        self.pull: detail.Pull | None = None

    def arrives(self, state: State) -> None:
        """Close what the states before left open: runs may have diverged, a step has led somewhere."""
        self._follow(state.positions)
        if self.pull is not None:
            self.recorder.complete(detail.residuals(self.task.network, self.pull, state, self.problem))
            self.pull = None
            self.clock.lap("detail")
        if state.checked:
            self.recorder.read(state.diverged)
            self.clock.lap("probes")  # eigenvalues, above all

    def measure(self, state: State) -> Measurement | None:
        """A probed state, against the reference that the first one makes."""
        if state.deltas is None:
            return None
        task = self.task
        ref = self.reference = self.reference or self._first(state)
        kept = state.step in task.detailed, state.step in task.keep_outputs
        self.time.fill_(state.step * task.step_size)
        measurement = measure(task.network, state, ref, self.time, *kept, self.clock)
        self.recorder.record(measurement)
        self.pull = measurement.pull if state.step < task.steps else None
        return measurement

    def advance(self, state: State) -> None:
        """To the step that this state is about to take."""
        if self.reference is not None:
            state.replay(("flows", state.deltas is None), partial(self.reference.flows.advance, state))
        self.clock.lap("flows")

    def checkpoint(self, state: State, seconds: float) -> Checkpoint:
        """Of a state that has arrived, is not measured yet, and at which divergence has been looked for."""
        assert self.reference is not None, "made of the first state"
        now = Snapshot(state.step, state.positions, state.params, state.velocity, state.distances)
        return checkpoint(now, self.reference.flows, self.recorder.recorded, seconds)

    def resume(self, first: State, kept: Checkpoint) -> None:
        """From the first state of a training on to where the checkpoint was made."""
        self.reference, self.positions = self._first(first), first.positions
        self._follow(kept.standing.positions)
        self.reference = replace(self.reference, flows=kept.flows(self.reference.flows))
        self.recorder.recorded = kept.recorded()

    def _first(self, state: State) -> Reference:
        return reference(self.task.network, state, self.problem, bool(self.task.detailed), self.clock)

    def _follow(self, positions: list[int]) -> None:
        """Those of the runs that go on at these positions."""
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
    """The training of the stack, from its seeds on."""
    net = task.network
    params = net.init(task.seeds, task.dtype, device)
    clock.lap("initialisation")
    drawn = None if task.batch is None else batches(net, task.seeds, len(problem.x), task.batch, device)
    how = (task.step_size, task.steps, task.probed, problem.loss, task.momentum, drawn, read_every, task.scale, clock)
    return train(net, params, problem.x, problem.y, *how, resume.standing if resume else None)


def _problem(task: StackTask, device: torch.device) -> LearningProblem:
    x, y, x_test, y_test = (_tensor(a, task.dtype, device) for a in (task.x, task.y, task.x_test, task.y_test))
    limit = None if task.limit is None else _tensor(task.limit, torch.float64, device)
    return LearningProblem(x, y, x_test, y_test, LOSSES[task.loss], task.step_size, task.momentum, limit, task.scale)


def _tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=dtype, device=device)
