"""A grid point as the engine takes it: its network, sized for its data, and its step size as a number."""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from ntkrun.engine.data import Data
from ntkrun.engine.data.base import read_only
from ntkrun.engine.memory import check_free
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.readout import OutputScale
from ntkrun.errors import ConfigError, FieldError, Problem, TooLarge, UserError
from ntkrun.lab.sections import Centred, Point, Relative
from ntkrun.theory.components import component
from ntkrun.theory.limit import expected_kernel, relative_step


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
    problems = list[Problem]()
    for point in points:
        try:
            point.check_targets(data_of(point))
            step_size(point)
        except FieldError as error:
            problems.append(Problem("", error.field, error.what))
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
