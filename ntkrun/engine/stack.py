"""One stack from its seeds to its tables: initialise, train, measure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.flows import Problem
from ntkrun.engine.kernel import as_blocks
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.precision import full_float32
from ntkrun.engine.probes import Measurement, Reference, measure, reference
from ntkrun.engine.readout import PLAIN, OutputScale
from ntkrun.engine.training import Departure, State, batches, train
from ntkrun.theory.losses import LOSSES

Columns = dict[str, list[float]]
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


@full_float32()
def run_stack(
    task: StackTask,
    device: torch.device,
    watch: Watcher = lambda state, measurement: None,
    read_every: int | None = None,
) -> StackResult:
    """Train the stack and measure it; `watch` sees every state (and what was measured of it) as it passes.

    Losses and probes are read from the device, and divergence looked for, every `read_every` steps; None: at each on a
    CPU, every STEPS_UNREAD elsewhere. The result does not depend on it.
    """
    started = time.perf_counter()
    read_every = read_every or (1 if device.type == "cpu" else STEPS_UNREAD)
    net, problem = task.network, _problem(task, device)
    params = net.init(task.seeds, task.dtype, device)
    drawn = None if task.batch is None else batches(net, task.seeds, len(problem.x), task.batch, device)
    recorder = _Recorder(task)
    ref: Reference | None = None
    alive = list(range(len(task.seeds)))
    descent = (task.step_size, task.steps, task.probed, problem.loss, task.momentum, drawn, read_every, task.scale)
    for state in train(net, params, problem.x, problem.y, *descent):
        if ref is not None and state.departed:
            ref = ref.select([alive.index(position) for position in state.positions])
        alive = state.positions
        measurement = None
        if state.deltas is not None:
            ref = ref or reference(net, state, problem)
            measurement = measure(net, state, ref)
            recorder.record(state, measurement)
        recorder.read(state)
        watch(state, measurement)
        ref = ref and ref.advanced(state)
    return recorder.result(time.perf_counter() - started)


def _problem(task: StackTask, device: torch.device) -> Problem:
    x, y, x_test, y_test = (_tensor(a, task.dtype, device) for a in (task.x, task.y, task.x_test, task.y_test))
    limit = None if task.limit is None else _tensor(task.limit, torch.float64, device)
    return Problem(x, y, x_test, y_test, LOSSES[task.loss], task.step_size, task.momentum, limit, task.scale)


@dataclass(frozen=True)
class _Record:
    """What is kept of a probed state until it is read: numbers on the device, and the kernel where it may be wanted."""

    step: int
    positions: list[int]
    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    kernel: Tensor | None


class _Recorder:
    """Collects the rows of a stack as it is trained."""

    def __init__(self, task: StackTask):
        self.task = task
        self.steps: Columns = {}
        self.layers: Columns = {}
        self.kernels: dict[int, dict[int, np.ndarray]] = {k: {} for k in range(len(task.seeds))}
        self.last: dict[int, tuple[int, Tensor]] = {}
        self.departed: list[Departure] = []
        self.unread: list[_Record] = []

    def record(self, state: State, measurement: Measurement) -> None:
        wanted = self.task.keep_last_kernel or state.step in self.task.keep_kernels
        kernel = measurement.kernel if wanted else None
        record = _Record(state.step, state.positions, measurement.numbers, measurement.layers, kernel)
        self.unread.append(record)

    def read(self, state: State) -> None:
        """Once divergence has been looked for: the rows of what is unread, up to where each run departed."""
        if not state.checked:
            return
        self.departed.extend(state.departed)
        ends = {run.position: run.step for run in state.departed}
        numbers = _read([record.numbers for record in self.unread])
        layers = _read([record.layers for record in self.unread])
        for record, of_runs, of_layers in zip(self.unread, numbers, layers, strict=True):
            keep = [k for k, p in enumerate(record.positions) if record.step < ends.get(p, record.step + 1)]
            self._write(record, keep, of_runs, of_layers)
        self.unread = []

    def _write(self, record: _Record, keep: list[int], numbers: Columns, layers: Columns) -> None:
        depth, step = self.task.network.depth, record.step
        positions = [record.positions[k] for k in keep]
        times = [step * self.task.step_size] * len(keep)
        _extend(self.steps, position=positions, step=[step] * len(keep), time=times, **_rows(numbers, keep))
        _extend(
            self.layers,
            position=[p for p in positions for _ in range(depth)],
            step=[step] * (len(keep) * depth),
            layer=list(range(depth)) * len(keep),
            **_rows(layers, [k * depth + layer for k in keep for layer in range(depth)]),
        )
        for k, position in zip(keep, positions, strict=True):
            self._keep_kernel(record, k, position)

    def _keep_kernel(self, record: _Record, k: int, position: int) -> None:
        if record.kernel is None:
            return
        if self.task.keep_last_kernel:
            self.last[position] = (record.step, record.kernel[k])
        if record.step in self.task.keep_kernels:
            self.kernels[position][record.step] = _kernel_array(record.kernel[k])

    def result(self, seconds: float) -> StackResult:
        for position, (step, kernel) in self.last.items():
            self.kernels[position][step] = _kernel_array(kernel)
        kept = {position: kernels for position, kernels in self.kernels.items() if kernels}
        return StackResult(self.steps, self.layers, kept, self.departed, seconds)


def _tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=dtype, device=device)


def _read(records: list[dict[str, Tensor]]) -> list[Columns]:
    """The columns of all records from the device in one transfer, flattened (runs before layers)."""
    columns = [column.double().flatten() for record in records for column in record.values()]
    if not columns:
        return []
    read = iter(torch.cat(columns).tolist())
    return [{name: list(islice(read, column.numel())) for name, column in record.items()} for record in records]


def _rows(columns: Columns, keep: list[int]) -> Columns:
    return {name: [values[k] for k in keep] for name, values in columns.items()}


def _extend(table: Columns, **columns: list[Any]) -> None:
    for name, values in columns.items():
        table.setdefault(name, []).extend(values)


def _kernel_array(kernel: Tensor) -> np.ndarray:
    return as_blocks(kernel[None])[0].cpu().numpy()
