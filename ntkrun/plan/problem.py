"""The engine's input for a grid point: data, network, step size, the predictions of infinite width, and the task."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ntkrun.config.schema import Centred, Point, Relative
from ntkrun.data import Data
from ntkrun.data.base import read_only
from ntkrun.engine.devices import check_free
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.output_scale import OutputScale
from ntkrun.engine.stack import StackTask
from ntkrun.errors import ConfigError, ConfigProblem, FieldError, TooLarge, UserError
from ntkrun.plan.runs import Run, detail_steps, kept_steps, probed_steps
from ntkrun.theory.dynamics import EPSILON, component
from ntkrun.theory.ensemble import ensemble
from ntkrun.theory.limit import LimitKernels, dual_error, expected_kernel, limit_kernels, relative_step
from ntkrun.theory.rules import Descent


def data_of(point: Point) -> Data:
    """Return the data of a grid point. Targets may be an eigenvector of its network's limit kernel. Raises FieldError,
    under its key in the config, where the data or targets are not available."""
    if point.data.component is None:
        return _loaded(point)
    return _with_component(Point(network=_as_its_limit(point).network, data=point.data))


def _loaded(point: Point) -> Data:
    try:
        return point.data.load()
    except FieldError as error:
        raise FieldError(f"data.{error.field}", error.what) from None


@lru_cache(maxsize=16)
def _with_component(point: Point) -> Data:
    data, target = _loaded(point), point.data.component
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


def network(point: Point) -> DenseNetwork:
    """Return the network of a grid point."""
    data, net = _loaded(point), point.network
    scales = (net.beta, net.weight_scale, net.parametrization)
    return DenseNetwork(data.inputs, data.outputs, net.depth, net.width, net.activation, *scales)


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
            point.check_targets(data_of(point))
            step_size(point)
        except FieldError as error:
            problems.append(ConfigProblem("", error.field, error.what))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def step_size(point: Point) -> float:
    """Return η of a grid point. Raises FieldError where a relative step needs a limit kernel that is not available."""
    if not isinstance(point.training.step_size, Relative):
        return point.training.step_size
    return _relative(_as_its_limit(point))


@lru_cache(maxsize=256)
def _relative(point: Point) -> float:
    assert isinstance(point.training.step_size, Relative)
    try:
        return relative_step(limit_kernel(point)[: point.data.samples], point.training.step_size.relative)
    except TooLarge:
        raise
    except UserError as error:
        raise FieldError(
            "training.step_size", f"{error}; give the step size as a number instead, as in step_size: 0.5"
        ) from None


def limit_kernel(point: Point) -> Tensor:
    """Return the kernel that theory expects at the start, in the parametrization of the grid point (K_inf itself under
    ntk). Rows are the training inputs and then the test inputs, columns the training inputs, (N + M, N). Raises
    UserError where it is not available, TooLarge where it does not fit."""
    return _limit_kernel(Point(network=_as_its_limit(point).network, data=point.data))


def _as_its_limit(point: Point) -> Point:
    """Return the part of a grid point that its expected kernel depends on. Under ntk this excludes the width, so one
    computation serves all widths of a sweep."""
    if point.network.parametrization != "ntk":
        return point
    return point.model_copy(update={"network": point.network.model_copy(update={"width": 1})})


@lru_cache(maxsize=64)
def _limit_kernel(point: Point) -> Tensor:
    data, net = _loaded(point), network(point)
    n, m = len(data.x), len(data.x_test)
    # Three float64 matrices at once: both kernels and a scaled copy of one, or one kernel and its eigenvalue workspace.
    check_kernels(24 * n * (n + m), n + m)
    train = expected_kernel(net, data.x)
    if m == 0:
        return train
    return torch.cat([train, expected_kernel(net, data.x_test, data.x)])


def check_kernels(needed: int, inputs: int) -> None:
    """Raise TooLarge where the limit kernels of `inputs` inputs do not fit into the memory of this machine."""
    what, todo = f"the limit kernels of {inputs} inputs", "take fewer, or fewer data.test_samples"
    check_free(needed, torch.device("cpu"), "data.samples", what, todo)


# ---------------------------------------------------------------- limits


COLUMNS = ("limit_kernel", "limit_kernel_row", "limit_mean", "limit_variance", "limit_covariance")


def limit_outputs(point: Point, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the predictions of infinite width on all A inputs, training first, at T steps, (T, A, O) each.

    They are K_inf(x, x), K_inf(x, x') with the first test input (nan without test inputs), the mean of f_t(x) over
    initialisations, its variance, and its covariance with f_t of the first input of x's part, under the steps of the
    grid point's own training.

    Values are nan where there is no formula: at steps beyond 0 with batches or a loss other than squared, where the
    limit is not available, and in parametrizations that have none.
    """
    data = data_of(point)
    shape = (len(steps), len(data.x) + len(data.x_test), data.outputs)
    columns = {name: np.full(shape, np.nan) for name in COLUMNS}
    if not steps or point.network.parametrization != "ntk":
        return columns
    kernels = _kernels(_architecture(point))
    if kernels is None:
        return columns
    (nngp, ntk), error = kernels
    columns["limit_kernel"][:] = ntk.diagonal().numpy()[:, None]
    if len(data.x_test):
        columns["limit_kernel_row"][:] = ntk[:, len(data.x)].numpy()[:, None]
    training, predicted = point.training, _predicted_positions(point, steps)
    if predicted:
        eta = step_size(point)
        rule, times = Descent(eta, training.momentum), [steps[k] * eta for k in predicted]
        start = output_scale(point).variance(nngp)
        law = ensemble(start, ntk, torch.from_numpy(data.y.copy()), times, rule, max(EPSILON, error))
        columns["limit_mean"][predicted] = law.mean.numpy()
        columns["limit_variance"][predicted] = law.covariance.diagonal(dim1=1, dim2=2).unsqueeze(2).numpy()
        firsts = [0] * len(data.x) + [len(data.x)] * len(data.x_test)
        columns["limit_covariance"][predicted] = law.covariance[:, range(len(firsts)), firsts].unsqueeze(2).numpy()
    return columns


def check_limits(point: Point) -> None:
    """Raise TooLarge where the memory that `limit_outputs` needs for the kept outputs is not available. Call this
    before training, so that training is not wasted."""
    steps, data = sorted(kept_steps(point.probes.outputs, point.training.steps)), data_of(point)
    if steps and point.network.parametrization == "ntk":
        inputs = len(data.x) + len(data.x_test)
        check_kernels(8 * inputs**2 * (6 + 4 * len(_predicted_positions(point, steps))), inputs)


def _predicted_positions(point: Point, steps: Sequence[int]) -> list[int]:
    """Return the positions of the steps for which theory predicts the outputs' distribution."""
    linear = point.training.loss == "squared" and point.training.batch == "full"
    return [k for k, step in enumerate(steps) if linear or step == 0]


def _architecture(point: Point) -> Point:
    """Return the part of a grid point that the limit depends on. One computation serves all widths and trainings."""
    network_of_limit = point.network.model_copy(update={"width": 1})
    return Point(network=network_of_limit, data=point.data)


@lru_cache(maxsize=4)
def _kernels(point: Point) -> tuple[LimitKernels, float] | None:
    """Return Σ^(L) and K^(L) on all inputs, (A, A) each, and the measured error of their numerical duals. Return None
    where they are not available (sweep.yaml says why, under notes)."""
    data, net = data_of(point), network(point)
    points = np.concatenate([data.x, data.x_test])
    try:
        return limit_kernels(net, points), dual_error(net, points)
    except UserError:
        return None


# ---------------------------------------------------------------- tasks

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def task_of(point: Point, seeds: tuple[int, ...] = ()) -> StackTask:
    """Return the engine's task for a stack of these seeds of a grid point."""
    data = data_of(point)
    point.check_targets(data)
    check_limits(point)
    steps, probes = point.training.steps, point.probes
    keep = kept_steps((step for step in probes.kernels if step != "last"), steps)
    outputs = kept_steps(probes.outputs, steps)
    return StackTask(
        network=network(point),
        seeds=seeds,
        x=data.x,
        y=data.y,
        x_test=data.x_test,
        y_test=data.y_test,
        step_size=step_size(point),
        steps=steps,
        probed=probed_steps(probes, steps) | keep | outputs,
        keep_kernels=keep,
        keep_last_kernel="last" in probes.kernels,
        dtype=DTYPES[point.training.dtype],
        loss=point.training.loss,
        batch=None if point.training.batch == "full" else point.training.batch,
        momentum=point.training.momentum,
        limit=_limit(point)[0],
        detailed=detail_steps(probes, steps),
        keep_outputs=outputs,
        scale=output_scale(point),
    )


def notes_on(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what the user should know before reading the numbers: notes of the data sets, such as repeated inputs, and
    limit kernels that are not available."""
    points = list(dict.fromkeys(run.point for run in runs))
    data_notes = [note for point in points for note in data_of(point).notes]
    limit_notes = [note for point in points if (note := _limit(point)[1])]
    return tuple(dict.fromkeys(data_notes + limit_notes))


def _limit(point: Point) -> tuple[np.ndarray | None, str]:
    """Return the limit kernel of a grid point and "", or None and why it is not available. Raises TooLarge."""
    try:
        return limit_kernel(point).numpy(), ""
    except TooLarge:
        raise
    except UserError as error:
        return None, f"{error}; so distance_to_limit and the limit's flow are not measured"
