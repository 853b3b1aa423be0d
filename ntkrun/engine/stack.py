"""One stack from its seeds to its tables: initialise, train, measure."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.clock import SILENT, Laps
from ntkrun.engine.flows import Problem
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.precision import full_float32
from ntkrun.engine.probes import Measurement, Reference, completed, measure, reference
from ntkrun.engine.readout import PLAIN, OutputScale
from ntkrun.engine.recorder import Axes, Columns, Recorder
from ntkrun.engine.training import Departure, State, batches, train
from ntkrun.theory.losses import LOSSES

STEPS_UNREAD = 32  # on a device of its own: it runs so far ahead of the host, and holds so many measurements


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


@dataclass(frozen=True)
class StackResult:
    """What came out: the rows of the tables of that name with `position` (in the stack) for the run, and of `outputs`
    with `point` for the input, training inputs first; `kernels[position]` maps steps to K (N, N, O, O); `departed` the
    runs that diverged; `seconds` for the whole stack."""

    steps: Columns
    layers: Columns
    modes: Columns
    outputs: Columns
    kernels: dict[int, dict[int, np.ndarray]]
    departed: list[Departure]
    seconds: float


Watcher = Callable[[State, Measurement | None], None]


@full_float32()
def run_stack(
    task: StackTask,
    device: torch.device,
    watch: Watcher = lambda state, measurement: None,
    read_every: int | None = None,
    clock: Laps = SILENT,
) -> StackResult:
    """Train the stack and measure it; `watch` sees every state (and what was measured of it) as it passes.

    Losses and probes are read from the device, and divergence looked for, every `read_every` steps; None: at each on a
    CPU, every STEPS_UNREAD elsewhere. The result does not depend on it. `clock` is told of each phase as it ends.
    """
    started = time.perf_counter()
    read_every = read_every or (1 if device.type == "cpu" else STEPS_UNREAD)
    net, problem = task.network, _problem(task, device)
    axes = Axes(net.depth, len(task.x), len(task.x_test), net.outputs)
    recorder = Recorder(axes, task.step_size, task.keep_kernels, task.keep_last_kernel)
    ref: Reference | None = None
    waiting: Measurement | None = None  # for the outcome of its step
    alive = list(range(len(task.seeds)))
    for state in _states(task, problem, device, read_every, clock):
        if ref is not None and state.departed:
            ref = ref.select([alive.index(position) for position in state.positions])
        alive = state.positions
        if waiting is not None:
            recorder.record(completed(net, waiting, state, problem))
            waiting = None
            clock.lap("detail")
        measurement = None
        if state.deltas is not None:
            ref = ref or reference(net, state, problem, bool(task.detailed), clock)
            kept = state.step in task.detailed, state.step in task.keep_outputs
            measurement = measure(net, state, ref, *kept, clock)
            if measurement.pull is not None and state.step < task.steps:
                waiting = measurement
            else:
                recorder.record(measurement)
        recorder.read(state)
        watch(state, measurement)
        clock.lap("reading back")
        ref = ref and ref.advanced(state)
        clock.lap("flows")
    tables, kernels = recorder.result()
    clock.lap("reading back")
    return StackResult(**tables, kernels=kernels, departed=recorder.departed, seconds=time.perf_counter() - started)


def _states(task: StackTask, problem: Problem, device: torch.device, read_every: int, clock: Laps) -> Iterator[State]:
    """The training of the stack, from its seeds on."""
    net = task.network
    params = net.init(task.seeds, task.dtype, device)
    clock.lap("initialisation")
    drawn = None if task.batch is None else batches(net, task.seeds, len(problem.x), task.batch, device)
    how = (task.step_size, task.steps, task.probed, problem.loss, task.momentum, drawn, read_every, task.scale, clock)
    return train(net, params, problem.x, problem.y, *how)


def _problem(task: StackTask, device: torch.device) -> Problem:
    x, y, x_test, y_test = (_tensor(a, task.dtype, device) for a in (task.x, task.y, task.x_test, task.y_test))
    limit = None if task.limit is None else _tensor(task.limit, torch.float64, device)
    return Problem(x, y, x_test, y_test, LOSSES[task.loss], task.step_size, task.momentum, limit, task.scale)


def _tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=dtype, device=device)
