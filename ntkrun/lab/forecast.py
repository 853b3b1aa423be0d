"""How long runs will take and how much memory, roughly, before they start."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ntkrun.lab.execute import DTYPES, work
from ntkrun.lab.plan import Stack
from ntkrun.lab.points import data_of, network

MULTIPLICATIONS = 5e10  # a second and CPU thread, in the units of `work`; on a GPU, GPU_FACTOR times as many
GPU_FACTOR = 100
COPIES = 5  # of the parameters: W, W_0, the linearised network's, and what a step and its tangents hold meanwhile
OF_KERNEL = 8  # copies of an (N·O)² kernel in float64, with its eigendecompositions


@dataclass(frozen=True)
class Forecast:
    """Seconds for all the runs, and GiB for the largest stack of them. Within a factor of three or so."""

    seconds: float
    gib: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        time = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
        return f"about {'1 min' if minutes < 1 else time}, at most {self.gib:.2g} GiB"


def forecast(missing: Iterable[Stack], device: torch.device) -> Forecast:
    """For these stacks, one after the other, on this device."""
    planned = list(missing)
    rate = MULTIPLICATIONS * (GPU_FACTOR if device.type == "cuda" else torch.get_num_threads())
    return Forecast(sum(map(work, planned)) / rate, max(map(_gib, planned), default=0.0))


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """One after the other."""
    return Forecast(sum(each.seconds for each in forecasts), max((each.gib for each in forecasts), default=0.0))


def _gib(stack: Stack) -> float:
    point = stack.point
    net, data, size = network(point), data_of(point), DTYPES[point.training.dtype].itemsize
    inputs = len(data.x) + len(data.x_test)
    passes = 2 * inputs * sum(net.widths) * (1 + data.outputs)
    kernel = OF_KERNEL * 8 * (len(data.x) * data.outputs) ** 2
    return len(stack.runs) * (size * (COPIES * net.parameter_count + passes) + kernel) / 2**30
