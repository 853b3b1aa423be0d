"""Estimate how long stacks take: roughly from their sizes, or from rates measured on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ntkrun.config.schema import Point
from ntkrun.engine.costs import Cost, Rates, measure
from ntkrun.engine.devices import GIB
from ntkrun.engine.footprint import Footprint
from ntkrun.plan.limits import network
from ntkrun.plan.problem import data_of, task_of
from ntkrun.plan.runs import Run, Stack, probed_steps, stacks

ROUGH_RATE = 3e10  # multiplications per second, where nothing has been measured
WORTH_MEASURING = 20.0  # seconds of a sweep below which a measurement of half a second does not pay


@dataclass(frozen=True)
class Estimate:
    """The cost of a grid point: its runs, its number of stacks, the seconds of all of them, and the bytes of the
    largest."""

    point: Point
    runs: tuple[Run, ...]
    stacks: int
    seconds: float
    bytes: int

    def as_json(self) -> dict[str, Any]:
        point = {"network.width": self.point.network.width, "first_run_id": self.runs[0].run_id}
        return point | {
            "runs": len(self.runs),
            "stacks": self.stacks,
            "seconds": self.seconds,
            "gib": self.bytes / GIB,
        }


def estimates(planned: Sequence[Stack], device: torch.device) -> list[Estimate]:
    """Return the estimate of each grid point of these stacks, by rates measured now."""
    seconds, by_point = measured_seconds(device), []
    for whole in stacks(run for stack in planned for run in stack.runs):
        parts = [stack for stack in planned if stack.point == whole.point]
        most = max(len(stack.runs) for stack in parts)
        size = Footprint(task_of(whole.point)).bytes(most)
        by_point.append(Estimate(whole.point, whole.runs, len(parts), sum(map(seconds, parts)), size))
    return by_point


def seconds_of(planned: Sequence[Stack], device: torch.device) -> tuple[Callable[[Stack], float], bool]:
    """Return a function that gives the seconds of a stack, and True if it uses measured rates. It uses a rough rate for
    sweeps so short that a measurement does not pay."""
    if sum(map(rough_seconds, planned)) < WORTH_MEASURING:
        return rough_seconds, False
    return measured_seconds(device), True


def measured_seconds(device: torch.device) -> Callable[[Stack], float]:
    """Return a function that gives the seconds of a stack. It measures the rates at the first stack of each
    precision."""
    rates: dict[torch.dtype, Rates] = {}
    cache: dict[tuple[Point, int], float] = {}

    def seconds(stack: Stack) -> float:
        key = stack.point, len(stack.runs)
        if key not in cache:
            task = task_of(stack.point)
            if task.dtype not in rates:
                rates[task.dtype] = measure(device, task.dtype)
            cache[key] = Cost(task, rates[task.dtype]).seconds(len(stack.runs))
        return cache[key]

    return seconds


def rough_seconds(stack: Stack) -> float:
    """Return the rough seconds of a stack, at a rate that is roughly right on every machine."""
    return operations(stack) / ROUGH_RATE


def operations(stack: Stack) -> int:
    """Return the cost of a stack in multiplications, as a whole number that depends on its sizes alone and is therefore
    the same on every machine.

    A step of one run costs 6N multiplications per parameter for the forward and backward passes, 2M for the test inputs
    and about 60 for memory traffic. A probe adds about 150(NO)³ for the eigenvalues. In addition each step of a stack
    of any size costs some 6e7 and each probe 1.4e8.
    """
    net, data, training = network(stack.point), data_of(stack.point), stack.point.training
    probed = len(probed_steps(stack.point.probes, training.steps))
    step_cost = net.parameter_count * (6 * len(data.x) + 2 * len(data.x_test) + 60)
    probe_cost = 150 * (len(data.x) * data.outputs) ** 3
    trained = (training.steps + 1) * (len(stack.runs) * step_cost + 6 * 10**7)
    return trained + probed * (len(stack.runs) * probe_cost + 14 * 10**7)
