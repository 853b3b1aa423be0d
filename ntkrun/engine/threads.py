"""Work of the host that torch does on one core, on as many as torch may use."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of each, in their order, by torch.get_num_threads() threads. For what lets go of the interpreter:
    LAPACK, random numbers."""
    count = torch.get_num_threads()
    return list(map(function, items) if min(count, len(items)) <= 1 else _threads(count).map(function, items))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """They are kept: to start one takes longer than many of its tasks."""
    pool, all_there = ThreadPoolExecutor(count), Barrier(count)

    def keep_to_one_core(_: int) -> None:
        torch.get_num_threads()  # the first question sets a thread up, whatever was set before
        torch.set_num_threads(1)
        all_there.wait()

    list(pool.map(keep_to_one_core, range(count)))
    torch.set_num_threads(count)  # else further threads would begin with what those were set to
    return pool
