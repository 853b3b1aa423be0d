"""How long stacks will take: roughly from their sizes, or from rates measured on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ntkrun.config.schema import Point
from ntkrun.engine.costs import Cost, Rates, measure
from ntkrun.engine.devices import GIB
from ntkrun.engine.footprint import Footprint
from ntkrun.plan.problem import data_of, network, task_of
from ntkrun.plan.runs import Run, Stack, probed_steps, stacks

ROUGH_RATE = 3e10  # multiplications a second, for want of a measurement
WORTH_MEASURING = 20.0  # seconds of a sweep below which a measurement of half a second is not worth it


@dataclass(frozen=True)
class Estimate:
    """What a grid point will take: so many of its runs in so many stacks, seconds, and bytes at a time."""

    point: Point
    runs: tuple[Run, ...]
    stacks: int
    seconds: float
    bytes: int

    def as_json(self) -> dict[str, Any]:
        shown = {"network.width": self.point.network.width, "first_run_id": self.runs[0].run_id}
        return shown | {
            "runs": len(self.runs),
            "stacks": self.stacks,
            "seconds": self.seconds,
            "gib": self.bytes / GIB,
        }


def estimates(planned: Sequence[Stack], device: torch.device) -> list[Estimate]:
    """Of each grid point of these stacks, by rates measured now."""
    seconds, found = measured_seconds(device), []
    for whole in stacks(run for stack in planned for run in stack.runs):
        parts = [stack for stack in planned if stack.point == whole.point]
        most = max(len(stack.runs) for stack in parts)
        held = Footprint(task_of(whole.point)).bytes(most)
        found.append(Estimate(whole.point, whole.runs, len(parts), sum(map(seconds, parts)), held))
    return found


def seconds_of(planned: Sequence[Stack], device: torch.device) -> tuple[Callable[[Stack], float], bool]:
    """How long each stack will take; and whether that is from measured rates, or roughly, for sweeps so short that
    measuring is not worth it."""
    if sum(map(rough_seconds, planned)) < WORTH_MEASURING:
        return rough_seconds, False
    return measured_seconds(device), True


def measured_seconds(device: torch.device) -> Callable[[Stack], float]:
    """Seconds of a stack by rates that are measured when the first stack of a precision asks for them."""
    rates: dict[torch.dtype, Rates] = {}
    known: dict[tuple[Point, int], float] = {}

    def seconds(stack: Stack) -> float:
        key = stack.point, len(stack.runs)
        if key not in known:
            task = task_of(stack.point)
            if task.dtype not in rates:
                rates[task.dtype] = measure(device, task.dtype)
            known[key] = Cost(task, rates[task.dtype]).seconds(len(stack.runs))
        return known[key]

    return seconds


def rough_seconds(stack: Stack) -> float:
    """Seconds of a stack, roughly, at a rate that no machine is far from."""
    return operations(stack) / ROUGH_RATE


def operations(stack: Stack) -> int:
    """What a stack takes in multiplications or their worth: whole numbers from its sizes alone, the same everywhere.

    A step of one run passes its P parameters forward and back (6N), over the test inputs (2M) and through memory (about
    60 multiplications' worth each); where it is probed eigenvalues take about 150(NO)³. Whatever the stack, a step
    costs some 6e7 and a probe 1.4e8.
    """
    net, data, training = network(stack.point), data_of(stack.point), stack.point.training
    probed = len(probed_steps(stack.point.probes, training.steps))
    a_step = net.parameter_count * (6 * len(data.x) + 2 * len(data.x_test) + 60)
    a_probe = 150 * (len(data.x) * data.outputs) ** 3
    trained = (training.steps + 1) * (len(stack.runs) * a_step + 6 * 10**7)
    return trained + probed * (len(stack.runs) * a_probe + 14 * 10**7)
