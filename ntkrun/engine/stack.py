"""Run one stack from its seeds to its tables: initialise, train, measure."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.checkpoint import NO_CHECKPOINTS, Checkpoint, Keeper
from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.divergence import Divergence
from ntkrun.engine.measured_rows import Columns
from ntkrun.engine.probes import Measurement
from ntkrun.engine.recorder import StackRecorder
from ntkrun.engine.task import StackTask
from ntkrun.engine.torch_settings import full_float32
from ntkrun.engine.training import LearningProblem, State, train
from ntkrun.theory.losses import loss

# Upper limits on the steps between two reads, and on the bytes of their kernels. A GPU runs that far ahead of the host,
# which holds the kernels. On a CPU the eigenvalues of these steps are computed together: between two multithreaded
# products, our own threads would wait for cores.
STEPS_UNREAD = {"cpu": 16, "cuda": 32}
BYTES_UNREAD = {"cpu": 2**25, "cuda": 2**30}
MOVED_UNREAD = 2**24  # parameters that a CPU updates before a read: a fraction of a second, since a stop request waits


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
    problem = problem_of(task, device)
    recorder = StackRecorder(task, problem, read_every or steps_unread(task, device), clock, keeper, resume)
    for state in train(problem, recorder):
        if state.step or not resume:
            watch(state, recorder.measurement)
    tables, kernels = recorder.result()
    clock.lap("reading back")
    return StackResult(**tables, kernels=kernels, diverged=recorder.losses.diverged, seconds=recorder.seconds)


def steps_unread(task: StackTask, device: torch.device) -> int:
    """Return how many steps may run before their measurements are read from the device."""
    runs = len(task.seeds)
    kernels = runs * (len(task.x) * task.network.outputs) ** 2 * task.dtype.itemsize
    limit = min(STEPS_UNREAD[device.type], BYTES_UNREAD[device.type] // kernels)
    if device.type == "cpu":
        limit = min(limit, MOVED_UNREAD // (runs * task.network.parameter_count))
    return max(1, limit)


def problem_of(task: StackTask, device: torch.device) -> LearningProblem:
    """Return the problem of a task on a device, in the task's precision."""
    x, y, x_test, y_test = (_tensor(a, task.dtype, device) for a in (task.x, task.y, task.x_test, task.y_test))
    limit = None if task.limit is None else _tensor(task.limit, torch.float64, device)
    return LearningProblem(
        network=task.network,
        seeds=task.seeds,
        x=x,
        y=y,
        x_test=x_test,
        y_test=y_test,
        loss=loss(task.loss, task.huber_threshold),
        step_size=task.step_size,
        momentum=task.momentum,
        steps=task.steps,
        batch=task.batch,
        scale=task.scale,
        limit=limit,
        limit_layers=task.limit_layers,
    )


def _tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=dtype, device=device)
