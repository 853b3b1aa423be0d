"""The engine's input for a grid point: data, step size, task, predictions of infinite width.

`problem_of` builds a grid point's task once, with shapes in place of arrays, which is all that planning needs.
`inputs_of` gives the arrays too, for running; they are shared (limits.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkrun.config.schema import MOST_POINTS, Centred, Point, Probes, Relative
from ntkrun.data import Data
from ntkrun.data.base import read_only
from ntkrun.engine.output_scale import OutputScale
from ntkrun.engine.task import StackTask
from ntkrun.errors import ConfigError, ConfigProblem, FieldError, TooLarge, UserError
from ntkrun.plan.limits import (
    DATA,
    Kernels,
    check_kernels,
    kernels_of_test_inputs,
    kernels_to_training_inputs,
    limit_kernel,
    limit_of,
    limits_of_layers,
    loaded,
    network,
    smallest_eigenvalue,
)
from ntkrun.plan.runs import Run, detail_steps, kept_steps, probed_steps
from ntkrun.theory.dynamics import EPSILON, component
from ntkrun.theory.ensemble import ensemble, posterior
from ntkrun.theory.limit import relative_step
from ntkrun.theory.rules import Descent


def data_of(point: Point) -> Data:
    """Return the data of a grid point. Targets may be an eigenvector of its network's limit kernel. Raises FieldError,
    under its key in the config, where the data or targets are not available."""
    if point.data.component is None:
        return loaded(point)
    limit = limit_of(point)
    return DATA.get(limit, lambda: _with_component(limit))


def _with_component(point: Point) -> Data:
    data, target = loaded(point), point.data.component
    assert target is not None
    try:
        values = component(limit_kernel(point), target.component)[:, None].numpy()
    except TooLarge:
        raise
    except UserError as error:
        raise FieldError("data.targets", str(error)) from None
    targets = point.data.target_scale * target.size * values
    y_test = data.y_test if point.data.between else read_only(targets[len(data.x) :])
    return replace(data, y=read_only(targets[: len(data.x)]), y_test=y_test)


def output_scale(point: Point) -> OutputScale:
    """Return the trained function of a grid point: f = αF, or α(F - F_0)."""
    scale = point.training.output_scale
    return OutputScale(scale.centred, centred=True) if isinstance(scale, Centred) else OutputScale(scale)


def check_ready(points: Iterable[Point]) -> None:
    """Check what reading a config leaves open, since that computes no kernel and fetches no data.

    Raises UserError, with every problem, where step sizes or targets of these grid points need kernels that are not
    available, or where the targets do not suit the loss.
    """
    problems = list[ConfigProblem]()
    for point in points:
        try:
            problem_of(point)
        except FieldError as error:
            problems.append(ConfigProblem("", error.field, error.what))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def step_size(point: Point) -> float:
    """Return η of a grid point. Raises FieldError where a relative step needs a limit kernel that is not available."""
    if not isinstance(point.training.step_size, Relative):
        return point.training.step_size
    return _relative(limit_of(point), point.training.step_size.relative)


@lru_cache(maxsize=MOST_POINTS)
def _relative(point: Point, relative: float) -> float:
    try:
        return relative_step(limit_kernel(point)[: point.data.samples], relative)
    except TooLarge:
        raise
    except UserError as error:
        raise FieldError(
            "training.step_size", f"{error}; give the step size as a number instead, as in step_size: 0.5"
        ) from None


# ---------------------------------------------------------------- tasks

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Problem:
    """A grid point for the planner: the engine's task without seeds, and a note on its limit kernel.

    The arrays of `task`, which are data and limit kernel, have their shapes but no values: costs and memory depend on
    shapes alone, and so the problems of a whole sweep are small. `inputs_of` gives the values. `note` says why the
    limit kernel is not available, "" if it is.
    """

    point: Point
    task: StackTask
    note: str


@dataclass(frozen=True)
class Inputs:
    """Everything that running the stacks of a grid point takes: the engine's task without seeds, with all its arrays,
    and the `kernels` of the predictions of infinite width.

    These are the kernels from all inputs to the training inputs, (A, N), and among the test inputs, (M, M). They are
    None where no outputs are kept or the predictions are not available. `limit_lambda_min` is λ_min of K_inf/N on the
    training inputs, nan where K_inf is not known.
    """

    task: StackTask
    kernels: tuple[Kernels, Kernels] | None
    limit_lambda_min: float

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        task = self.task
        arrays = [task.x, task.y, task.x_test, task.y_test, *([] if task.limit is None else [task.limit])]
        layers = task.limit_layers
        limits = [] if layers is None else [layers.nngp, layers.slopes, layers.ntk]
        return sum(part.nbytes for part in (*arrays, *limits, *(self.kernels or ())))


@lru_cache(maxsize=MOST_POINTS)
def problem_of(point: Point) -> Problem:
    """Return the problem of a grid point, built once. Raises FieldError where data, targets or step size are not
    available or the targets do not suit the loss, TooLarge where kernels or predictions do not fit."""
    data = data_of(point)
    point.check_targets(data)
    eta, (limit, note) = step_size(point), _limit(point)
    task = StackTask(
        network=network(point),
        seeds=(),
        x=_shape_of(data.x),
        y=_shape_of(data.y),
        x_test=_shape_of(data.x_test),
        y_test=_shape_of(data.y_test),
        step_size=eta,
        steps=point.training.steps,
        dtype=DTYPES[point.training.dtype],
        loss=point.training.loss,
        huber_threshold=point.training.huber_threshold,
        batch=None if point.training.batch == "full" else point.training.batch,
        momentum=point.training.momentum,
        limit=None if limit is None else _shape_of(limit),
        scale=output_scale(point),
        **_schedule(point.probes, point.training.steps),
    )
    if limit_of(point).probes.outputs:
        check_limits(task)
    return Problem(point, task, note)


def _shape_of(array: np.ndarray) -> np.ndarray:
    """Return an array of the same shape that is nan everywhere and takes no memory."""
    return np.broadcast_to(np.nan, array.shape)


@lru_cache(maxsize=16)
def _schedule(probes: Probes, steps: int) -> dict[str, Any]:
    """Return the steps of a task at which each kind of measurement is made. Grid points share these sets, which may
    hold a million steps."""
    keep = kept_steps((step for step in probes.kernels if step != "last"), steps)
    outputs = kept_steps(probes.outputs, steps)
    return {
        "probed": probed_steps(probes, steps) | keep | outputs,
        "keep_kernels": keep,
        "keep_last_kernel": "last" in probes.kernels,
        "detailed": detail_steps(probes, steps),
        "keep_outputs": outputs,
    }


def task_of(point: Point, seeds: tuple[int, ...] = ()) -> StackTask:
    """Return the engine's task for a stack of these seeds of a grid point, with its arrays. Raises as `problem_of`."""
    task, data, (limit, _) = problem_of(point).task, data_of(point), _limit(point)
    task = replace(task, seeds=seeds, limit=limit, limit_layers=limits_of_layers(point))
    return replace(task, x=data.x, y=data.y, x_test=data.x_test, y_test=data.y_test)


def inputs_of(point: Point) -> Inputs:
    """Return what running a grid point takes. Raises as `problem_of`."""
    return Inputs(task_of(point), _prediction_kernels(point), smallest_eigenvalue(point))


def _prediction_kernels(point: Point) -> tuple[Kernels, Kernels] | None:
    if not limit_of(point).probes.outputs:
        return None
    try:
        return kernels_to_training_inputs(point), kernels_of_test_inputs(point)
    except TooLarge:
        raise
    except UserError:
        return None


def notes_on(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what the user should know before reading the numbers: notes of the data sets, such as repeated inputs, and
    limit kernels that are not available. Raises as `check_ready`."""
    points = list(dict.fromkeys(run.point for run in runs))
    check_ready(points)
    data_notes = [note for point in points for note in data_of(point).notes]
    limit_notes = [note for point in points if (note := problem_of(point).note)]
    return tuple(dict.fromkeys(data_notes + limit_notes))


def _limit(point: Point) -> tuple[np.ndarray | None, str]:
    """Return the limit kernel of a grid point and "", or None and why it is not available. Raises TooLarge."""
    try:
        return kernels_to_training_inputs(point).ntk, ""
    except TooLarge:
        raise
    except UserError as error:
        return None, f"{error}; so distance_to_limit and the limit's flow are not measured"


# ---------------------------------------------------------------- predictions


LAWS = ("limit", "nngp")  # of trained networks, and of those of which only the last layer is trained
COLUMNS = (
    *("limit_kernel", "limit_kernel_row"),
    *(f"{law}_{moment}" for law in LAWS for moment in ("mean", "variance", "covariance")),
)


def limit_outputs(inputs: Inputs, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the predictions of infinite width on all A inputs, training first, at T steps, (T, A, O) each.

    They are K_inf(x, x), K_inf(x, x') with the first test input (nan without test inputs), the mean of f_t(x) over
    initialisations, its variance, and its covariance with f_t of the first input of x's part, under the steps of the
    task's own training; and, the same at every step, the mean, variance and covariance of the posterior of the Gaussian
    process that f_0 is, given the targets.

    Values are nan where there is no formula: at steps beyond 0 with batches or a loss other than squared, where the
    limit is not available, and in parametrizations that have none. The posterior takes the squared loss, and an f_0
    that is not 0.
    """
    task = inputs.task
    n, m = len(task.x), len(task.x_test)
    columns = {name: np.full((len(steps), n + m, task.network.outputs), np.nan) for name in COLUMNS}
    if not steps or inputs.kernels is None:
        return columns
    nngp, ntk = (_whole(*blocks) for blocks in zip(*((k.nngp, k.ntk) for k in inputs.kernels), strict=True))
    columns["limit_kernel"][:] = ntk.diagonal().numpy()[:, None]
    if m:
        columns["limit_kernel_row"][:] = ntk[:, n].numpy()[:, None]
    precision, y = max(EPSILON, *(kernels.error for kernels in inputs.kernels)), torch.tensor(task.y)
    variance, firsts = task.scale.variance(nngp), [0] * n + [n] * m

    def write(law: str, positions: Sequence[int], mean: Tensor, covariance: Tensor) -> None:
        columns[f"{law}_mean"][positions] = mean.numpy()
        columns[f"{law}_variance"][positions] = covariance.diagonal(dim1=-2, dim2=-1).unsqueeze(-1).numpy()
        columns[f"{law}_covariance"][positions] = covariance[..., range(n + m), firsts].unsqueeze(-1).numpy()

    predicted = _predicted_positions(task, steps)
    if predicted:
        rule, times = Descent(task.step_size, task.momentum), [steps[k] * task.step_size for k in predicted]
        law = ensemble(variance, ntk, y, times, rule, precision)
        write("limit", predicted, law.mean, law.covariance)
    if task.loss == "squared" and not task.scale.centred:
        write("nngp", range(len(steps)), *posterior(variance, y, precision))
    return columns


def _whole(training: np.ndarray, test: np.ndarray) -> Tensor:
    """Return a symmetric kernel (A, A) from its columns of the training inputs (A, N) and its last block (M, M)."""
    count, n = training.shape
    whole = torch.empty(count, count, dtype=torch.float64)
    values = whole.numpy()
    values[:, :n], values[:n, n:], values[n:, n:] = training, training[n:].T, test
    return whole


def check_limits(task: StackTask) -> None:
    """Raise TooLarge where the memory that `limit_outputs` needs for the kept outputs is not available. Call this
    before a training whose outputs theory predicts, so that training is not wasted."""
    steps, inputs = sorted(task.keep_outputs), len(task.x) + len(task.x_test)
    if steps:
        check_kernels(8 * inputs**2 * (6 + 4 * max(1, len(_predicted_positions(task, steps)))), inputs)


def _predicted_positions(task: StackTask, steps: Sequence[int]) -> list[int]:
    """Return the positions of the steps for which theory predicts the outputs' distribution."""
    linear = task.loss == "squared" and task.batch is None
    return [k for k, step in enumerate(steps) if linear or step == 0]
