"""Runs shared out: among the tasks of a job array, which never meet, and among workers that are at it at once."""

import heapq
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ntkrun.errors import UserError
from ntkrun.lab.budget import cut, pays
from ntkrun.lab.costs import operations
from ntkrun.lab.plan import Run, Stack, stacks

PARTS = 2  # a worker's share has at least so many parts, so that shares can be made equal


class Shard(NamedTuple):
    """Which of how many shards of a sweep, from 1 on."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE_SWEEP = Shard(1, 1)


def shard_named(text: str) -> Shard:
    """`2/8` as a Shard. Raises UserError for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if found and 1 <= int(found[1]) <= int(found[2]):
        return Shard(int(found[1]), int(found[2]))
    raise UserError(f"--shard {text}: give I/K with I from 1 to K, as in 2/8")


def runs_of(shard: Shard, runs: Sequence[Run]) -> tuple[Run, ...]:
    """A shard's runs, in the plan's order; those of all shards are the plan, each run once.

    A function of the plan and of whole-number costs alone, so that machines which differ in speed, memory and what they
    find finished agree about it.
    """
    if shard == WHOLE_SWEEP:
        return tuple(runs)
    mine = {run.run_id for part in dealt(runs, shard.total)[shard.number - 1] for run in part.runs}
    return tuple(run for run in runs if run.run_id in mine)


def dealt(runs: Iterable[Run], count: int) -> list[list[Stack]]:
    """All shards, each as its parts: the largest part first, each to the shard with the least to do so far."""
    hands: list[list[Stack]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for part in finer([part for stack in stacks(runs) for part in cut(stack, pays(stack.point))], count):
        load, index = loads[0]
        hands[index].append(part)
        heapq.heapreplace(loads, (load + operations(part), index))
    return hands


def finer(planned: Sequence[Stack], workers: int) -> list[Stack]:
    """Stacks of which none takes more than 1/PARTS of a worker's share, unless it is a single run: larger ones are cut.
    The largest come first, so that no worker is left with one while the others have ended."""
    costs = [operations(stack) for stack in planned]
    most = sum(costs) // (PARTS * workers)
    parts = [
        part
        for stack, cost in zip(planned, costs, strict=True)
        for part in cut(stack, max(1, min(len(stack.runs), len(stack.runs) * most // cost)))
    ]
    return sorted(parts, key=operations, reverse=True)
