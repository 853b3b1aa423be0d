"""Runs as stacks: how many networks of a grid point are trained at once."""

from collections.abc import Iterable, Sequence

import torch

from ntkrun.engine.footprint import Footprint
from ntkrun.engine.memory import GIB, free_bytes
from ntkrun.engine.tiles import pieces
from ntkrun.errors import UserError
from ntkrun.lab.plan import Run, Stack, stacks
from ntkrun.lab.points import network
from ntkrun.lab.sections import Point
from ntkrun.lab.tasks import task_of

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
    return [part for stack in stacks(runs) for part in cut(stack, largest(stack.point, budget, device))]


def fits(stack: Stack, budget: int) -> bool:
    """Whether a stack as it is takes no more than `budget` bytes."""
    return Footprint(task_of(stack.point)).bytes(len(stack.runs)) <= budget


def cut(stack: Stack, most: int) -> list[Stack]:
    """A stack in the fewest parts of at most so many runs, in their order."""
    return [Stack(stack.point, stack.runs[part]) for part in pieces(len(stack.runs), most)]


def recut(stack: Stack, later: Sequence[Stack]) -> list[Stack]:
    """What is to be done where `stack` did not fit after all: it and those of its grid point that come later in stacks
    of half its size."""
    half = -(-len(stack.runs) // 2)
    return [part for each in (stack, *later) for part in (cut(each, half) if each.point == stack.point else [each])]


def largest(point: Point, budget: int, device: torch.device) -> int:
    """Runs of a grid point in a stack, at most. Raises UserError where not one fits."""
    footprint = Footprint(task_of(point))
    fitting = footprint.most(budget, pays(point) if device.type == "cpu" else MOST_RUNS)
    if not fitting:
        raise UserError(too_large(point, footprint.bytes(1), budget))
    return fitting


def pays(point: Point) -> int:
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
