"""Group runs into stacks within a memory budget, and divide them among shards and workers."""

import heapq
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from ntkrun.config.schema import Point
from ntkrun.engine.devices import GIB, free_bytes
from ntkrun.engine.memory import most_runs, stack_bytes
from ntkrun.engine.tiles import pieces
from ntkrun.errors import UserError
from ntkrun.plan.costs import operations
from ntkrun.plan.limits import network
from ntkrun.plan.problem import problem_of
from ntkrun.plan.runs import Run, Stack, stacks

SHARE = 0.75  # share of the free memory that a stack may take by default
MOST_RUNS = 4096  # most runs of a stack: more gain nothing, and rows should reach the disk now and then
# Parameters of a stack on a CPU: beyond this the weights do not fit into the cache, and a run takes longer than alone
# (docs/decisions.md).
CPU_PARAMETERS = 2**24


def bytes_for(memory: float | None, device: torch.device) -> int:
    """Return the bytes that a stack may take: `memory` GiB, however much is free, or SHARE of the free memory for None.
    Raises UserError where `memory` is not a positive number."""
    if memory is None:
        return int(SHARE * free_bytes(device))
    if not 0 < memory < float("inf"):
        raise UserError(f"--memory {memory:g}: give the GiB that a stack may take, more than 0")
    return int(memory * GIB)


def stacks_within(runs: Iterable[Run], budget: int, device: torch.device) -> list[Stack]:
    """Group the runs of each grid point into the fewest stacks, as equal as possible, that fit `budget` bytes and are
    no larger than is efficient. A network that is larger than this is a stack by itself. Raises UserError where a
    network does not fit."""
    return [part for stack in stacks(runs) for part in split_stack(stack, largest_stack(stack.point, budget, device))]


def fits(stack: Stack, budget: int) -> bool:
    """Return True if a stack takes no more than `budget` bytes."""
    return stack_bytes(problem_of(stack.point).task, len(stack.runs)) <= budget


def split_stack(stack: Stack, most: int) -> list[Stack]:
    """Split a stack into the fewest parts of at most `most` runs each, in their order."""
    return [Stack(stack.point, stack.runs[part]) for part in pieces(len(stack.runs), most)]


def halved(stack: Stack, later: Sequence[Stack]) -> list[Stack]:
    """Split a stack that did not fit, and the later stacks of its grid point, into stacks of half its size. Return all
    stacks to run."""
    half = -(-len(stack.runs) // 2)
    return [
        part
        for planned in (stack, *later)
        for part in (split_stack(planned, half) if planned.point == stack.point else [planned])
    ]


def largest_stack(point: Point, budget: int, device: torch.device) -> int:
    """Return the largest number of runs of a grid point in a stack. Raises UserError where not even one fits."""
    task = problem_of(point).task
    count = most_runs(task, budget, largest_worthwhile(point) if device.type == "cpu" else MOST_RUNS)
    if not count:
        raise UserError(too_large(point, stack_bytes(task, 1), budget))
    return count


def largest_worthwhile(point: Point) -> int:
    """Return the largest efficient number of runs of a grid point in a stack on a CPU, whatever its memory."""
    return min(MOST_RUNS, max(1, CPU_PARAMETERS // network(point).parameter_count))


def too_large(point: Point, needed: int, budget: int) -> str:
    """Return the message that not even one network of a grid point fits, and what to do."""
    widths = point.network.width
    shown = widths if isinstance(widths, int) else list(widths)
    return (
        f"network.width {shown}: one network of {network(point).parameter_count} parameters takes "
        f"{needed / GIB:.3g} GiB with its measurements, and a stack may take {budget / GIB:.3g} GiB; "
        "raise --memory, or take a smaller width, fewer data.samples, or probes.detail: none"
    )


# ---------------------------------------------------------------- shards


PARTS = 2  # least number of parts in a worker's share, so that the shares can be made equal


class Shard(NamedTuple):
    """A shard of a sweep: its number, from 1 on, and the total number of shards."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE_SWEEP = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """Parse text such as `2/8`. Raises UserError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if match and 1 <= int(match[1]) <= int(match[2]):
        return Shard(int(match[1]), int(match[2]))
    raise UserError(f"--shard {text}: give I/K with I from 1 to K, as in 2/8")


def runs_in_shard(shard: Shard, runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs of a shard, in the order of the plan. The shards together hold every run of the plan once.

    The result depends only on the plan and on whole-number costs, so that all machines agree on it even if they differ
    in speed, in memory and in the runs that they see as finished.
    """
    if shard == WHOLE_SWEEP:
        return tuple(runs)
    ids = {run.run_id for part in deal(runs, shard.total)[shard.number - 1] for run in part.runs}
    return tuple(run for run in runs if run.run_id in ids)


def deal(runs: Iterable[Run], count: int) -> list[list[Stack]]:
    """Divide the runs into `count` shards. Parts are assigned from the largest on, each to the least loaded shard."""
    shards: list[list[Stack]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for part in split_for_workers(
        [part for stack in stacks(runs) for part in split_stack(stack, largest_worthwhile(stack.point))], count
    ):
        load, index = loads[0]
        shards[index].append(part)
        heapq.heapreplace(loads, (load + operations(part), index))
    return shards


def split_for_workers(planned: Sequence[Stack], workers: int) -> list[Stack]:
    """Split stacks that take more than 1/PARTS of a worker's share; a single run stays whole. The largest parts come
    first, so that no worker still has a large one when the others have ended."""
    costs = [operations(stack) for stack in planned]
    most = sum(costs) // (PARTS * workers)
    parts = [
        part
        for stack, cost in zip(planned, costs, strict=True)
        for part in split_stack(stack, max(1, min(len(stack.runs), len(stack.runs) * most // cost)))
    ]
    return sorted(parts, key=operations, reverse=True)
