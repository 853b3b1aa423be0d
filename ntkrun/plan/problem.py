"""A grid point as the engine takes it: data, network, step size, what infinite width predicts, the task."""

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
from ntkrun.engine.readout import OutputScale
from ntkrun.engine.stack import StackTask
from ntkrun.errors import ConfigError, ConfigProblem, FieldError, TooLarge, UserError
from ntkrun.plan.runs import Run, detail_steps, kept_steps, probed_steps
from ntkrun.theory.dynamics import EPSILON, component
from ntkrun.theory.ensemble import ensemble
from ntkrun.theory.limit import LimitKernels, dual_error, expected_kernel, limit_kernels, relative_step
from ntkrun.theory.rules import Descent


def data_of(point: Point) -> Data:
    """The data of a grid point, with targets that its network's kernel tells. Raises FieldError, under its key in the
    config, where they cannot be had."""
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
    data, wanted = _loaded(point), point.data.component
    assert wanted is not None
    try:
        found = component(limit_kernel(point), wanted.component)[:, None].numpy()
    except TooLarge:
        raise
    except UserError as error:
        raise FieldError("data.targets", str(error)) from None
    targets = point.data.target_scale * wanted.size * found
    y_test = data.y_test if point.data.between else read_only(targets[len(data.x) :])
    return replace(data, y=read_only(targets[: len(data.x)]), y_test=y_test)


def network(point: Point) -> DenseNetwork:
    """The network of a grid point."""
    data, net = _loaded(point), point.network
    scales = (net.beta, net.weight_scale, net.parametrization)
    return DenseNetwork(data.inputs, data.outputs, net.depth, net.width, net.activation, *scales)


def output_scale(point: Point) -> OutputScale:
    """What is trained at a grid point: f = αF, or α(F - F_0)."""
    given = point.training.output_scale
    return OutputScale(given.centred, centred=True) if isinstance(given, Centred) else OutputScale(given)


def check_ready(points: Iterable[Point]) -> None:
    """Raises UserError, with every problem, where the kernels that step sizes and targets of these grid points need
    cannot be had, or the targets do not suit the loss: what reading a config leaves, since it computes no kernel and
    fetches no data."""
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
    """η of a grid point. Raises FieldError where the limit kernel that a relative step needs cannot be had."""
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
    """The kernel that theory expects at the start, in the parametrisation of the grid point (K_inf itself under ntk),
    from the training inputs and then the test inputs to the training inputs, (N + M, N). Raises UserError where it
    cannot be had, TooLarge where it does not fit."""
    return _limit_kernel(Point(network=_as_its_limit(point).network, data=point.data))


def _as_its_limit(point: Point) -> Point:
    """The point as far as its expected kernel goes. Under ntk that knows no width: one computation serves all of a
    sweep's."""
    if point.network.parametrization != "ntk":
        return point
    return point.model_copy(update={"network": point.network.model_copy(update={"width": 1})})


@lru_cache(maxsize=64)
def _limit_kernel(point: Point) -> Tensor:
    data, net = _loaded(point), network(point)
    n, m = len(data.x), len(data.x_test)
    # Both kernels and a scaled copy of one, or one with what its eigenvalues take: three of float64 at a time.
    check_kernels(24 * n * (n + m), n + m)
    train = expected_kernel(net, data.x)
    if m == 0:
        return train
    return torch.cat([train, expected_kernel(net, data.x_test, data.x)])


def check_kernels(needed: int, inputs: int) -> None:
    """Raises TooLarge where the limit kernels of so many inputs do not fit into the memory of this machine."""
    what, todo = f"the limit kernels of {inputs} inputs", "take fewer, or fewer data.test_samples"
    check_free(needed, torch.device("cpu"), "data.samples", what, todo)


# ---------------------------------------------------------------- limits


COLUMNS = ("limit_kernel", "limit_kernel_row", "limit_mean", "limit_variance", "limit_covariance")


def limit_outputs(point: Point, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """On all A inputs, training first, at T steps, (T, A, O): K_inf(x, x), K_inf(x, x') with the first test input
    (nan without test inputs), and the mean of f_t(x) over initialisations,
    its variance, and its covariance with f_t of the first input of x's part, under the steps of the grid point's own
    training.

    nan where there is no formula: at steps beyond 0 under another loss than squared or with batches, where the limit
    cannot be had, and in parametrisations that have none.
    """
    data = data_of(point)
    shape = (len(steps), len(data.x) + len(data.x_test), data.outputs)
    found = {name: np.full(shape, np.nan) for name in COLUMNS}
    if not steps or point.network.parametrization != "ntk":
        return found
    kernels = _kernels(_architecture(point))
    if kernels is None:
        return found
    (nngp, ntk), error = kernels
    found["limit_kernel"][:] = ntk.diagonal().numpy()[:, None]
    if len(data.x_test):
        found["limit_kernel_row"][:] = ntk[:, len(data.x)].numpy()[:, None]
    training, known = point.training, _known(point, steps)
    if known:
        eta = step_size(point)
        rule, times = Descent(eta, training.momentum), [steps[k] * eta for k in known]
        start = output_scale(point).variance(nngp)
        law = ensemble(start, ntk, torch.from_numpy(data.y.copy()), times, rule, max(EPSILON, error))
        found["limit_mean"][known] = law.mean.numpy()
        found["limit_variance"][known] = law.covariance.diagonal(dim1=1, dim2=2).unsqueeze(2).numpy()
        firsts = [0] * len(data.x) + [len(data.x)] * len(data.x_test)
        found["limit_covariance"][known] = law.covariance[:, range(len(firsts)), firsts].unsqueeze(2).numpy()
    return found


def check_limits(point: Point) -> None:
    """Raises TooLarge where what `limit_outputs` needs at the steps whose outputs are kept does not fit: before a
    network is trained, not after."""
    steps, data = sorted(kept_steps(point.probes.outputs, point.training.steps)), data_of(point)
    if steps and point.network.parametrization == "ntk":
        inputs = len(data.x) + len(data.x_test)
        check_kernels(8 * inputs**2 * (6 + 4 * len(_known(point, steps))), inputs)


def _known(point: Point, steps: Sequence[int]) -> list[int]:
    """Which of the steps there is a law for."""
    lawful = point.training.loss == "squared" and point.training.batch == "full"
    return [k for k, step in enumerate(steps) if lawful or step == 0]


def _architecture(point: Point) -> Point:
    """What the limit depends on: one computation serves all widths and trainings of a sweep."""
    network_of_limit = point.network.model_copy(update={"width": 1})
    return Point(network=network_of_limit, data=point.data)


@lru_cache(maxsize=4)
def _kernels(point: Point) -> tuple[LimitKernels, float] | None:
    """Σ^(L) and K^(L) on all inputs, (A, A) each, and the measured error of the duals behind them; None where they
    cannot be had (sweep.yaml says why, under notes)."""
    data, net = data_of(point), network(point)
    points = np.concatenate([data.x, data.x_test])
    try:
        return limit_kernels(net, points), dual_error(net, points)
    except UserError:
        return None


# ---------------------------------------------------------------- tasks

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def task_of(point: Point, seeds: tuple[int, ...] = ()) -> StackTask:
    """What the engine is to do for a stack of these seeds of a grid point."""
    data = data_of(point)
    point.check_targets(data)
    check_limits(point)
    steps, kept, probes = point.training.steps, point.probes.kernels, point.probes
    keep = kept_steps((step for step in kept if step != "last"), steps)
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
        keep_last_kernel="last" in kept,
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
    """What a person should read before the numbers: what the data sets report of themselves, such as repeated inputs,
    and limit kernels that cannot be had."""
    points = list(dict.fromkeys(run.point for run in runs))
    of_data = [note for point in points for note in data_of(point).notes]
    of_limits = [note for point in points if (note := _limit(point)[1])]
    return tuple(dict.fromkeys(of_data + of_limits))


def _limit(point: Point) -> tuple[np.ndarray | None, str]:
    """The limit kernel of a grid point, or None and why it cannot be had. Raises TooLarge."""
    try:
        return limit_kernel(point).numpy(), ""
    except TooLarge:
        raise
    except UserError as error:
        return None, f"{error}; so distance_to_limit and the limit's flow are not measured"
