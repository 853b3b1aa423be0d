"""Settings of torch that have a say in the last digits: how many threads, and float32 that means float32."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARED = 2**25  # multiply-adds of the largest product from which on it is shared: docs/performance.md has the timings


@contextmanager
def threads_for(largest_product: int) -> Iterator[int]:
    """Within the block torch computes with one thread if the largest product of matrices takes fewer than SHARED
    multiply-adds, else with as many as it may use; yields their number.

    The size of the work alone decides: one thread or two make other last digits, which must not depend on what else the
    machine does. Threads that are handed less than that mostly wait for each other.
    """
    allowed = torch.get_num_threads()
    chosen = allowed if largest_product >= SHARED else 1
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(allowed)


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of each, in their order, by torch.get_num_threads() threads. For what lets go of the interpreter:
    LAPACK, random numbers."""
    count = torch.get_num_threads()
    return list(map(function, items) if min(count, len(items)) <= 1 else _threads(count).map(function, items))


def on_cores(function: Callable[[Tensor], tuple[Tensor, ...]], matrices: Tensor) -> tuple[Tensor, ...]:
    """`function` of a stack of small matrices for which a GPU has no parallel routine and takes them one after the
    other, each longer than a core of the host does: by these cores."""
    if matrices.device.type == "cpu":
        return function(matrices)
    found = spread(function, torch.split(matrices.cpu(), -(-len(matrices) // torch.get_num_threads())))
    return tuple(torch.cat(parts).to(matrices.device) for parts in zip(*found, strict=True))


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


# ---------------------------------------------------------------- precision


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products and convolutions keep their 24 bits on every device (no tf32), whatever the caller's settings,
    which are restored afterwards. Also a decorator.

    torch runs convolutions on CUDA in tf32, 11 bits, unless told otherwise.
    """
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
