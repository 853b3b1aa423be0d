"""The data, the network and the limit kernels of a grid point, each computed once for the grid points that share it.

Data sets and limit kernels are kept up to 1 GiB each; the oldest go first, and are then computed again.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ntkrun.config.schema import MOST_POINTS, Point, Probes
from ntkrun.data import Data
from ntkrun.data.base import DataSet
from ntkrun.engine.devices import check_free
from ntkrun.engine.network import Network
from ntkrun.errors import FieldError, TooLarge, UserError
from ntkrun.plan.memo import Memo
from ntkrun.plan.runs import kept_steps
from ntkrun.theory.architecture import SizedArchitecture
from ntkrun.theory.limit import LimitLayers, expected_kernel, limit_kernels_with_error, limit_layers

DATA = Memo[Point | DataSet, Data](lambda data: sum(part.nbytes for part in (data.x, data.y, data.x_test, data.y_test)))


def loaded(point: Point) -> Data:
    """Return the data set of a grid point, before its targets are put in place. Raises FieldError, under its key in the
    config, where it is not available."""
    try:
        return DATA.get(point.data, point.data.load)
    except FieldError as error:
        raise FieldError(f"data.{error.field}", error.what) from None


def network(point: Point) -> Network:
    """Return the network of a grid point."""
    data = loaded(point)
    built: Network = point.network.build(data.inputs, data.outputs)
    return built


def layered_network(point: Point) -> SizedArchitecture:
    """Return the network of a grid point as its theory sees it. Raises UserError where no limit is known for its
    architecture."""
    net = network(point)
    if not isinstance(net, SizedArchitecture):
        raise UserError(f"the infinite-width limit of {point.network.architecture} networks is not known")
    return net


class Kernels(NamedTuple):
    """Kernels on the same pairs of inputs: Σ^(L) (`nngp`, None where no prediction needs it) and the expected kernel
    (`ntk`), float64, and the measured error of their numerical duals."""

    nngp: np.ndarray | None
    ntk: np.ndarray
    error: float

    @property
    def nbytes(self) -> int:
        return self.ntk.nbytes + (0 if self.nngp is None else self.nngp.nbytes)


# Kernels by what they depend on, or why they are not available. Each is computed once as long as all fit into 1 GiB.
_KERNELS = Memo[tuple[Point, str], Kernels | str](lambda found: 0 if isinstance(found, str) else found.nbytes)
# The limits of all sub-networks, None where there are none.
_LAYERS = Memo[Point, LimitLayers | None](
    lambda found: 0 if found is None else sum(part.nbytes for part in (found.nngp, found.slopes, found.ntk))
)


def limit_kernel(point: Point) -> Tensor:
    """Return the kernel that theory expects at the start, in the parametrization of the grid point (K_inf itself under
    ntk). Rows are the training inputs and then the test inputs, columns the training inputs, (N + M, N). Raises
    UserError where it is not available, TooLarge where it does not fit. Do not write into it: it is shared."""
    return torch.from_numpy(kernels_to_training_inputs(point).ntk)


def limit_of(point: Point) -> Point:
    """Return the part of a grid point that its limit kernels depend on. Under ntk this excludes the width, so one
    computation serves all widths of a sweep. `probes.outputs` is not empty where predictions need Σ^(L) too."""
    if point.network.parametrization != "ntk":
        return Point(network=point.network, data=point.data, probes=Probes(outputs=()))
    probes = Probes(outputs=("first",) if point.probes.outputs else ())
    return Point(network=point.network.of_any_width(), data=point.data, probes=probes)


def _kept(key: tuple[Point, str], compute: Callable[[Point], Kernels]) -> Kernels:
    """Return the kernels of a key. Raises UserError where they are not available, TooLarge where they do not fit."""

    def attempt() -> Kernels | str:
        try:
            return compute(key[0])
        except FieldError:
            raise
        except UserError as error:
            return str(error)

    found = _KERNELS.get(key, attempt)
    if isinstance(found, str):
        raise UserError(found)
    return found


def kernels_to_training_inputs(point: Point) -> Kernels:
    """Return the kernels from all inputs, training first, to the training inputs, (N + M, N)."""
    return _kept((limit_of(point), "training"), _training)


def _training(point: Point) -> Kernels:
    data, net = loaded(point), layered_network(point)
    n, m = len(data.x), len(data.x_test)
    pairs = [(data.x, None), (data.x_test, data.x)][: 2 if m else 1]
    # Float64 matrices at once: both kernels and a scaled copy of one, or one kernel and its eigenvalue workspace; with
    # Σ kept, both kernels twice as they are put together.
    check_kernels((32 if point.probes.outputs else 24) * n * (n + m), n + m)
    if not point.probes.outputs:
        return Kernels(None, torch.cat([expected_kernel(net, *pair) for pair in pairs]).numpy(), 0.0)
    parts = [limit_kernels_with_error(net, *pair) for pair in pairs]
    nngp, ntk = (torch.cat(blocks).numpy() for blocks in zip(*(kernels for kernels, _ in parts), strict=True))
    return Kernels(nngp, ntk, max(error for _, error in parts))


def smallest_eigenvalue(point: Point) -> float:
    """Return λ_min of K_inf/N on the training inputs; nan where K_inf is not known. Raises TooLarge."""
    return _smallest(limit_of(point))


@lru_cache(maxsize=MOST_POINTS)
def _smallest(point: Point) -> float:
    try:
        kernel = limit_kernel(point)[: point.data.samples]
    except (FieldError, TooLarge):
        raise
    except UserError:
        return math.nan  # as for the kernel itself, of which a note says why
    return float(torch.linalg.eigvalsh(kernel / len(kernel))[0])


def limits_of_layers(point: Point) -> LimitLayers | None:
    """Return the limits of all sub-networks on the training inputs, with which those of finite networks are compared at
    step 0, where its outputs are stored. None elsewhere, in other parametrizations than ntk, and for networks with skip
    connections, whose layers do not start from independent outputs. Raises TooLarge."""
    if 0 not in kept_steps(point.probes.outputs, point.training.steps) or point.network.parametrization != "ntk":
        return None
    return _LAYERS.get(limit_of(point), lambda: _layers(point))


def _layers(point: Point) -> LimitLayers | None:
    try:
        net, x = layered_network(point), loaded(point).x
        if any(net.skips):
            return None
        check_kernels(8 * (3 * net.depth + 2) * len(x) ** 2, len(x))
        return limit_layers(net, x)
    except (FieldError, TooLarge):
        raise
    except UserError:
        return None  # as for the kernel of the whole network, of which a note says why


def kernels_of_test_inputs(point: Point) -> Kernels:
    """Return the kernels among the test inputs, (M, M)."""
    return _kept((limit_of(point), "test"), _test)


def _test(point: Point) -> Kernels:
    x = loaded(point).x_test
    if not len(x):
        return Kernels(np.empty((0, 0)), np.empty((0, 0)), 0.0)
    (nngp, ntk), error = limit_kernels_with_error(layered_network(point), x)
    return Kernels(nngp.numpy(), ntk.numpy(), error)


def check_kernels(needed: int, inputs: int) -> None:
    """Raise TooLarge where the limit kernels of `inputs` inputs do not fit into the memory of this machine."""
    what, todo = f"the limit kernels of {inputs} inputs", "take fewer, or fewer data.test_samples"
    check_free(needed, torch.device("cpu"), "data.samples", what, todo)
