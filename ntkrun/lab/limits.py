"""What infinite width says of the outputs of a grid point: the columns limit_* of its outputs table."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ntkrun.errors import UserError
from ntkrun.lab.plan import kept_steps
from ntkrun.lab.points import check_kernels, data_of, network, output_scale, step_size
from ntkrun.lab.sections import Point
from ntkrun.theory.dynamics import EPSILON
from ntkrun.theory.ensemble import ensemble
from ntkrun.theory.limit import LimitKernels, dual_error, limit_kernels
from ntkrun.theory.rules import Descent

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
