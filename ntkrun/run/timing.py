"""The seconds of stacks, from timing a few states of some grid points on this machine.

A pilot is the real engine on a shortened task. Its states come in rounds of as many as the engine reads together:

    state 0 | plain | probed | probed again | with details

From it a stack of the same grid point takes

    first + (states by kind) x (seconds of a state of this kind) + rows x (seconds of a row)

The faster round of probed states counts: the first one may also prepare memory and threads, and other work of the
machine only adds. A pilot ends at its deadline, and then what it has not reached is taken from what it has. Grid points
that are not timed get theirs from those that are: `interpolated`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ntkrun.config.schema import Point
from ntkrun.engine.probes import Measurement
from ntkrun.engine.stack import run_stack, steps_unread
from ntkrun.engine.task import StackTask
from ntkrun.engine.torch_settings import SHARED, threads_for
from ntkrun.engine.training import State
from ntkrun.plan.costs import ROUGH_RATE, operations, rough_seconds
from ntkrun.plan.problem import inputs_of, problem_of
from ntkrun.plan.runs import Stack
from ntkrun.run.provenance import provenance
from ntkrun.run.rows import rows_of

BUDGET = 10.0  # seconds for timing the grid points of a sweep
LONG, SMALL = 60.0, 0.02  # rough seconds from which a sweep is timed before it begins, and the part of them for this
NEXT = 1 / 3  # part of the seconds that are left, for the next grid point
LEAST = 0.2  # seconds below which no further grid point is timed
WRITTEN = 9e-7  # seconds per number of the tables, of which most is the writing of whole tables at the end
FIRST = 10  # states that take as long as the first one, with weights drawn and all predictions begun
ROUND = 8  # most states in a round: enough for eigenvalues to be taken together
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """The seconds per run of each grid point, without `writing_seconds`; how many of the grid points were timed, and
    the seconds that this took."""

    per_run: Mapping[Point, float]
    timed: int
    seconds: float


def timed_ahead(planned: Sequence[Stack], device: torch.device, begin: Callable[[int], None]) -> dict[Point, float]:
    """Return the seconds per run of each grid point of a long sweep, timed in a small part of its time; {} for a short
    one. `begin` is called with the number of grid points before they are timed."""
    if sum(map(rough_seconds, planned)) < LONG:
        return {}
    begin(len({stack.point for stack in planned}))
    return dict(timings(planned, device, share=SMALL).per_run)


def timings(planned: Sequence[Stack], device: torch.device, budget: float = BUDGET, share: float = math.inf) -> Timing:
    """Time some grid points of these stacks, beginning with the cheapest and the most expensive one, within about
    `budget` seconds, and this `share` of the time of all stacks. Grid points that differ in nothing that takes time are
    timed once."""
    started = time.perf_counter()
    largest: dict[Point, Stack] = {}
    for stack in planned:
        if stack.point not in largest or len(stack.runs) > len(largest[stack.point].runs):
            largest[stack.point] = stack
    costs = {point: operations(stack) for point, stack in largest.items()}
    alike: dict[object, list[Point]] = {}
    for point, stack in largest.items():
        alike.setdefault((point.network.activation, _sizes(problem_of(point).task), len(stack.runs)), []).append(point)
    groups = sorted(alike.values(), key=lambda points: costs[points[0]])
    seconds: dict[Point, float] = {}
    expected = interpolated(seconds, costs)
    for points in (groups[k] for k in spread_order(len(groups))):
        total = sum(expected[stack.point] * len(stack.runs) / len(largest[stack.point].runs) for stack in planned)
        left = min(budget, share * total) - (time.perf_counter() - started)
        if left < LEAST:
            break
        stack = largest[points[0]]
        found = stack_seconds(stack, device, left * NEXT, expected[stack.point] / costs[stack.point])
        seconds |= dict.fromkeys(points, found) if found else {}
        expected = interpolated(seconds, costs)
    per_run = {point: expected[point] / len(stack.runs) for point, stack in largest.items()}
    return Timing(per_run, len(seconds), time.perf_counter() - started)


def spread_order(count: int) -> list[int]:
    """Return the numbers 0..`count`-1 in an order that spreads: the ends, the middle, the quarters, and so on."""
    order, parts = [0, count - 1], 2
    while parts < 2 * count:
        order += [round((count - 1) * k / parts) for k in range(1, parts, 2)]
        parts *= 2
    return [k for k in dict.fromkeys(order) if 0 <= k < count]


def interpolated(seconds: Mapping[Point, float], costs: Mapping[Point, float]) -> dict[Point, float]:
    """Return the seconds of every grid point of `costs`: those that are known, else its cost times the seconds per unit
    of cost, whose logarithm is interpolated in log(cost) between the known ones; a rough rate if none is known.

    Beyond the known ones it goes on with half the slope at the end, which is at least -1 and at most 0: seconds are an
    overhead plus a multiple of the cost, so the slope tends to 0 where the cost is large and to -1 where it is small.
    """
    known = sorted((costs[point], value / costs[point]) for point, value in seconds.items() if value > 0)
    if not known:
        return {point: cost / ROUGH_RATE for point, cost in costs.items()}
    at, rates = np.log([cost for cost, _ in known]), np.log([rate for _, rate in known])
    slopes = np.clip(np.diff(rates) / np.maximum(np.diff(at), 1e-9), -1, 0) if len(at) > 1 else np.zeros(1)

    def rate(cost: float) -> float:
        beyond = min(0.0, cost - at[0]) * slopes[0] + max(0.0, cost - at[-1]) * slopes[-1]
        return math.exp(np.interp(cost, at, rates) + beyond / 2)

    return {point: seconds.get(point) or cost * rate(math.log(cost)) for point, cost in costs.items()}


def _sizes(task: StackTask) -> object:
    """Return what the time of a task depends on, beside its activation."""
    layers = tuple((layer.weight, layer.biases, layer.outputs) for layer in task.network.layers)
    shapes = (type(task.network), layers, len(task.x), len(task.x_test), task.dtype, task.batch)
    kept = (task.probed, task.detailed, task.keep_outputs, task.keep_kernels, task.keep_last_kernel)
    return shapes, kept, task.steps, task.loss, task.momentum > 0, task.limit is None


# ---------------------------------------------------------------- pilot


class _Deadline(Exception):
    """The end of a pilot's time."""


@dataclass(frozen=True)
class Pilot:
    """A shortened task, the number of states that it reads together, and the states after which each of its rounds
    begins and ends (none if the task is whole)."""

    task: StackTask
    each: int
    rounds: Mapping[str, tuple[int, int]]


def pilot(task: StackTask, each: int) -> Pilot:
    """Return the pilot of a task that reads `each` states together; the task itself if that is no longer."""
    lengths = {}
    if task.steps + 1 > len(task.probed):
        lengths["plain"] = each * -(-3 // each)  # their median leaves out the reading of state 0
    lengths |= {"probed": each, "probed again": each}
    if task.detailed - {0}:
        lengths["with details"] = each
    steps = sum(lengths.values())
    if task.steps <= steps:
        return Pilot(task, each, {})
    ends = np.cumsum(list(lengths.values())).tolist()
    rounds = {name: (end - lengths[name], end) for name, end in zip(lengths, ends, strict=True)}
    plain = range(*rounds.get("plain", (0, 0)))
    shortened = replace(
        task,
        steps=steps,
        probed=frozenset(range(steps + 1)) - {step + 1 for step in plain},
        detailed=task.detailed and frozenset({0, *(rounds[name][0] + 1 for name in rounds if name == "with details")}),
        keep_kernels=task.keep_kernels & {0},
        keep_outputs=task.keep_outputs & {0},
    )
    return Pilot(shortened, each, rounds)


def stack_seconds(
    stack: Stack, device: torch.device, limit: float, rate: float = 1 / ROUGH_RATE, now: Clock = time.perf_counter
) -> float | None:
    """Return the seconds of a stack, from a pilot of about `limit` seconds at most. A stack that would take longer at a
    `rate` of seconds per operation is timed with fewer runs. Return None where the first state of one run takes
    longer, and where the stack fails."""
    fewer = stack
    while len(fewer.runs) > 1 and FIRST * rate * operations(fewer) / (stack.point.training.steps + 1) > limit:
        fewer = Stack(stack.point, fewer.runs[: len(fewer.runs) // 2])
    task = replace(problem_of(stack.point).task, seeds=tuple(fewer.seeds))
    per_state = rate * operations(fewer) / (task.steps + 1)
    if FIRST * per_state > limit:
        return None
    each = max(1, min(ROUND, steps_unread(task, device), int(limit / (5 * per_state))))
    largest_product = SHARED if device.type == "cuda" else replace(task, seeds=tuple(stack.seeds)).largest_product
    times: list[float] = []

    def watch(state: State, measurement: Measurement | None) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(now() - started)
        if times[-1] > limit and state.step < short.task.steps:
            raise _Deadline

    short, tail = pilot(task, each), 0.0
    try:
        inputs = inputs_of(stack.point)
        short = pilot(replace(inputs.task, seeds=task.seeds), each)
        started = now()
        with threads_for(largest_product) as threads:
            result = run_stack(short.task, device, watch, read_every=each)
        rows_of(fewer, replace(inputs, task=short.task), result, threads, provenance(device))
        tail = now() - started - times[-1]
    except _Deadline:
        if len(times) == 1:  # state 0 alone tells nothing of the others
            return None
    except Exception:  # noqa: BLE001 - an error of a stack is told when it runs, not when it is timed
        return None
    return seconds_from(short, task, times, tail) * operations(stack) / operations(fewer)


def seconds_from(short: Pilot, task: StackTask, times: Sequence[float], tail: float) -> float:
    """Return the seconds of a task from the `times` at which a pilot has reached its states and its `tail`, the seconds
    after the last one."""
    if len(times) in (1, task.steps + 1):  # whole, or all runs diverged at once
        return times[-1] + tail
    lasted = {
        name: np.diff(times[start : stop + 1]) for name, (start, stop) in short.rounds.items() if stop < len(times)
    }
    rounds = [float(np.mean(lasted[name])) for name in ("probed", "probed again") if name in lasted]
    probed = min(rounds) if rounds else float(np.min(np.diff(times)))  # a mean of few states may be that of one pause
    plain = float(np.median(lasted.get("plain", [probed])))
    details = float(np.sum(lasted["with details"])) - short.each * probed if "with details" in lasted else 0.0
    states = (len(task.probed) - 1) * probed + (task.steps + 1 - len(task.probed)) * plain
    rest = len(task.detailed - {0}) * max(details, 0.0) + tail * _numbers(task) / _numbers(short.task)
    return times[0] + states + rest


def writing_seconds(point: Point, runs: int) -> float:
    """Return the seconds for committing the rows of so many runs and for writing them into the tables at the end."""
    return runs * _numbers(problem_of(point).task) * WRITTEN


def _numbers(task: StackTask) -> int:
    """Return roughly how many numbers the tables hold for each run."""
    points = (len(task.x) + len(task.x_test)) * task.network.outputs
    return len(task.probed) * (36 + 12 * len(task.network.layers)) + 12 * points * len(task.keep_outputs)
