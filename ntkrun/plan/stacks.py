"""Runs as stacks that are trained at once, within a memory budget, and shared out among shards and workers."""

import heapq
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from ntkrun.config.schema import Point
from ntkrun.engine.devices import GIB, free_bytes
from ntkrun.engine.footprint import Footprint
from ntkrun.engine.tiles import pieces
from ntkrun.errors import UserError
from ntkrun.plan.costs import operations
from ntkrun.plan.problem import network, task_of
from ntkrun.plan.runs import Run, Stack, stacks

SHARE = 0.75  # of what is free: what a stack may take when nothing is said
MOST_RUNS = 4096  # of a stack: more gain nothing, and rows should reach the disk now and then
# Of a stack on a CPU: stacks whose weights leave the cache take longer a run than single networks (docs/decisions.md).
CPU_PARAMETERS = 2**24


def bytes_for(memory: float | None, device: torch.device) -> int:
    """The bytes that a stack may take: `memory` GiB, whatever is free; None: SHARE of what is free. Raises UserError
    where `memory` is not a positive number."""
    if memory is None:
        return int(SHARE * free_bytes(device))
    if not 0 < memory < float("inf"):
        raise UserError(f"--memory {memory:g}: give the GiB that a stack may take, more than 0")
    return int(memory * GIB)


def stacks_within(runs: Iterable[Run], budget: int, device: torch.device) -> list[Stack]:
    """The runs of each grid point in the fewest stacks, as equal as can be, that fit `budget` bytes and are no larger
    than pays. A network that is larger than pays is a stack by itself. Raises UserError where one does not fit."""
    return [part for stack in stacks(runs) for part in split_stack(stack, largest_stack(stack.point, budget, device))]


def fits(stack: Stack, budget: int) -> bool:
    """Whether a stack as it is takes no more than `budget` bytes."""
    return Footprint(task_of(stack.point)).bytes(len(stack.runs)) <= budget


def split_stack(stack: Stack, most: int) -> list[Stack]:
    """A stack in the fewest parts of at most so many runs, in their order."""
    return [Stack(stack.point, stack.runs[part]) for part in pieces(len(stack.runs), most)]


def halved(stack: Stack, later: Sequence[Stack]) -> list[Stack]:
    """What is to be done where `stack` did not fit after all: it and those of its grid point that come later in stacks
    of half its size."""
    half = -(-len(stack.runs) // 2)
    return [
        part for each in (stack, *later) for part in (split_stack(each, half) if each.point == stack.point else [each])
    ]


def largest_stack(point: Point, budget: int, device: torch.device) -> int:
    """Runs of a grid point in a stack, at most. Raises UserError where not one fits."""
    footprint = Footprint(task_of(point))
    fitting = footprint.most(budget, largest_worthwhile(point) if device.type == "cpu" else MOST_RUNS)
    if not fitting:
        raise UserError(too_large(point, footprint.bytes(1), budget))
    return fitting


def largest_worthwhile(point: Point) -> int:
    """Runs of a grid point in a stack on a CPU, at most, whatever its memory."""
    return min(MOST_RUNS, max(1, CPU_PARAMETERS // network(point).parameter_count))


def too_large(point: Point, needed: int, budget: int) -> str:
    """Why not even one network of a grid point can run, and what to do."""
    widths = point.network.width
    said = widths if isinstance(widths, int) else list(widths)
    return (
        f"network.width {said}: one network of {network(point).parameter_count} parameters takes "
        f"{needed / GIB:.3g} GiB with what is measured of it, and a stack may take {budget / GIB:.3g} GiB; "
        "raise --memory, or take a smaller width, fewer data.samples, or probes.detail: none"
    )


# ---------------------------------------------------------------- shards


PARTS = 2  # a worker's share has at least so many parts, so that shares can be made equal


class Shard(NamedTuple):
    """Which of how many shards of a sweep, from 1 on."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE_SWEEP = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """`2/8` as a Shard. Raises UserError for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if found and 1 <= int(found[1]) <= int(found[2]):
        return Shard(int(found[1]), int(found[2]))
    raise UserError(f"--shard {text}: give I/K with I from 1 to K, as in 2/8")


def runs_in_shard(shard: Shard, runs: Sequence[Run]) -> tuple[Run, ...]:
    """A shard's runs, in the plan's order; those of all shards are the plan, each run once.

    A function of the plan and of whole-number costs alone, so that machines which differ in speed, memory and what they
    find finished agree about it.
    """
    if shard == WHOLE_SWEEP:
        return tuple(runs)
    mine = {run.run_id for part in deal(runs, shard.total)[shard.number - 1] for run in part.runs}
    return tuple(run for run in runs if run.run_id in mine)


def deal(runs: Iterable[Run], count: int) -> list[list[Stack]]:
    """All shards, each as its parts: the largest part first, each to the shard with the least to do so far."""
    hands: list[list[Stack]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for part in split_for_workers(
        [part for stack in stacks(runs) for part in split_stack(stack, largest_worthwhile(stack.point))], count
    ):
        load, index = loads[0]
        hands[index].append(part)
        heapq.heapreplace(loads, (load + operations(part), index))
    return hands


def split_for_workers(planned: Sequence[Stack], workers: int) -> list[Stack]:
    """Stacks of which none takes more than 1/PARTS of a worker's share, unless it is a single run: larger ones are cut.
    The largest come first, so that no worker is left with one while the others have ended."""
    costs = [operations(stack) for stack in planned]
    most = sum(costs) // (PARTS * workers)
    parts = [
        part
        for stack, cost in zip(planned, costs, strict=True)
        for part in split_stack(stack, max(1, min(len(stack.runs), len(stack.runs) * most // cost)))
    ]
    return sorted(parts, key=operations, reverse=True)
