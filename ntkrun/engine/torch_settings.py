"""Settings of torch that affect the last digits: the number of threads, and full float32 precision."""

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

SHARED = 2**25  # multiply-adds of the smallest product run on several threads; timings in docs/performance.md


@contextmanager
def threads_for(largest_product: int) -> Iterator[int]:
    """Set torch's threads within the block and yield their number: one if the largest matrix product takes fewer than
    SHARED multiply-adds, else all allowed ones.

    Only the size of the work decides: one thread and two threads give different last digits, which must not depend on
    the load of the machine. With smaller products threads mostly wait for each other.
    """
    allowed = torch.get_num_threads()
    chosen = allowed if largest_product >= SHARED else 1
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(allowed)


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply `function` to the items with torch.get_num_threads() threads and return the results in order. It suits
    functions that release the interpreter lock: LAPACK, random numbers."""
    count = torch.get_num_threads()
    return list(map(function, items) if min(count, len(items)) <= 1 else _threads(count).map(function, items))


def on_cores(function: Callable[[Tensor], tuple[Tensor, ...]], matrices: Tensor) -> tuple[Tensor, ...]:
    """Apply `function` to a stack of small matrices on the cores of the host, also if they are on a GPU. For such
    functions a GPU has no parallel routine: it processes the matrices one by one, each slower than a host core."""
    if matrices.device.type == "cpu":
        return function(matrices)
    results = spread(function, torch.split(matrices.cpu(), -(-len(matrices) // torch.get_num_threads())))
    return tuple(torch.cat(parts).to(matrices.device) for parts in zip(*results, strict=True))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Return a pool of threads. It is cached, because starting a thread takes longer than many of its tasks."""
    pool, barrier = ThreadPoolExecutor(count), Barrier(count)

    def use_one_core(_: int) -> None:
        torch.get_num_threads()  # the first query initialises the thread and would override the setting below
        torch.set_num_threads(1)
        barrier.wait()

    list(pool.map(use_one_core, range(count)))
    torch.set_num_threads(count)  # else new threads would start with the pool's setting
    return pool


# ---------------------------------------------------------------- precision


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep the full 24 bits of float32 products and convolutions on every device (no tf32), as context manager or
    decorator. The caller's settings are restored afterwards.

    By default torch runs convolutions on CUDA in tf32, with 11 bits.
    """
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
