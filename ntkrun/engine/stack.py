"""One stack from its seeds to its tables: initialise, train, measure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.flows import Problem
from ntkrun.engine.kernel import as_blocks
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.probes import Measurement, Reference, measure, reference
from ntkrun.engine.training import Departure, State, batches, train
from ntkrun.theory.losses import LOSSES

Columns = dict[str, list[float]]


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


@dataclass(frozen=True)
class StackResult:
    """What came out: `steps` and `layers` are the rows of those tables with `position` (in the stack) for the run;
    `kernels[position]` maps steps to K (N, N, O, O); `departed` the runs that diverged; `seconds` for the whole
    stack."""

    steps: Columns
    layers: Columns
    kernels: dict[int, dict[int, np.ndarray]]
    departed: list[Departure]
    seconds: float


Watcher = Callable[[State, Measurement | None], None]


def run_stack(task: StackTask, device: torch.device, watch: Watcher = lambda state, measurement: None) -> StackResult:
    """Train the stack and measure it; `watch` sees every state (and what was measured of it) as it passes."""
    started = time.perf_counter()
    net, problem = task.network, _problem(task, device)
    params = net.init(task.seeds, task.dtype, device)
    drawn = None if task.batch is None else batches(net, task.seeds, len(problem.x), task.batch, device)
    recorder = _Recorder(task)
    ref: Reference | None = None
    alive = list(range(len(task.seeds)))
    descent = (task.step_size, task.steps, task.probed, problem.loss, task.momentum, drawn)
    for state in train(net, params, problem.x, problem.y, *descent):
        recorder.departed.extend(state.departed)
        if ref is not None and state.departed:
            ref = ref.select([alive.index(position) for position in state.positions])
        alive = state.positions
        measurement = None
        if state.deltas is not None:
            ref = ref or reference(net, state, problem)
            measurement = measure(net, state, ref)
            recorder.record(state, measurement)
        watch(state, measurement)
        ref = ref and ref.advanced(state)
    return recorder.result(time.perf_counter() - started)


def _problem(task: StackTask, device: torch.device) -> Problem:
    x, y, x_test, y_test = (_tensor(a, task.dtype, device) for a in (task.x, task.y, task.x_test, task.y_test))
    limit = None if task.limit is None else _tensor(task.limit, torch.float64, device)
    return Problem(x, y, x_test, y_test, LOSSES[task.loss], task.step_size, task.momentum, limit)


class _Recorder:
    """Collects the rows of a stack as it is trained."""

    def __init__(self, task: StackTask):
        self.task = task
        self.steps: Columns = {}
        self.layers: Columns = {}
        self.kernels: dict[int, dict[int, np.ndarray]] = {k: {} for k in range(len(task.seeds))}
        self.last: dict[int, tuple[int, Tensor]] = {}
        self.departed: list[Departure] = []

    def record(self, state: State, measurement: Measurement) -> None:
        runs, depth = len(state.positions), self.task.network.depth
        time_now = state.step * self.task.step_size
        _extend(self.steps, position=state.positions, step=[state.step] * runs, time=[time_now] * runs)
        _extend(self.steps, **_read(measurement.numbers))
        _extend(
            self.layers,
            position=[p for p in state.positions for _ in range(depth)],
            step=[state.step] * (runs * depth),
            layer=list(range(depth)) * runs,
            **_read(measurement.layers),
        )
        for k, position in enumerate(state.positions):
            if self.task.keep_last_kernel:
                self.last[position] = (state.step, measurement.kernel[k])
            if state.step in self.task.keep_kernels:
                self.kernels[position][state.step] = _kernel_array(measurement.kernel[k])

    def result(self, seconds: float) -> StackResult:
        for position, (step, kernel) in self.last.items():
            self.kernels[position][step] = _kernel_array(kernel)
        kept = {position: kernels for position, kernels in self.kernels.items() if kernels}
        return StackResult(self.steps, self.layers, kept, self.departed, seconds)


def _tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=dtype, device=device)


def _read(columns: dict[str, Tensor]) -> Columns:
    """All columns from the device in one transfer, flattened (runs before layers)."""
    values = torch.stack([column.double().flatten() for column in columns.values()]).tolist()
    return dict(zip(columns, values, strict=True))


def _extend(table: Columns, **columns: list[Any]) -> None:
    for name, values in columns.items():
        table.setdefault(name, []).extend(values)


def _kernel_array(kernel: Tensor) -> np.ndarray:
    return as_blocks(kernel[None])[0].cpu().numpy()
