"""Work that is shared between processes, and the cores there are for it."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Return how many cores this process may use, which a batch system may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable[[T], Result], arguments: Sequence[T], workers: int) -> list[Result]:
    """Return function(argument) of each argument, computed by this process and so many worker processes.

    The workers take the arguments from the front and this process from the back, until none is left. What a killed
    worker had taken is computed here. The function and the arguments are pickled.
    """
    if not workers:
        return list(map(function, arguments))
    waiting, results = deque(enumerate(arguments)), dict[int, Result]()

    def compute() -> None:
        while (work := _taken(waiting.pop)) is not None:
            results[work[0]] = function(work[1])

    def feed_worker() -> None:
        while (work := _taken(waiting.popleft)) is not None:
            try:
                results[work[0]] = pool.submit(function, work[1]).result()
            except BrokenProcessPool:  # a worker was killed, perhaps for lack of memory
                waiting.append(work)
                return

    # Not forked, because torch's threads do not survive that. One argument at a time, because a future that is
    # cancelled as a worker dies stops the pool's own thread (CPython 3.11), and others would be waited for in vain.
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), _prepare_worker) as pool,
        ThreadPoolExecutor(workers) as feeders,
    ):
        feeding = [feeders.submit(feed_worker) for _ in range(workers)]
        try:
            compute()
            for worker in feeding:
                worker.result()
            compute()
        finally:
            waiting.clear()
    return [results[k] for k in range(len(arguments))]


def _taken(pop: Callable[[], tuple[int, T]]) -> tuple[int, T] | None:
    """Take a piece of work, or None if another thread has just taken the last one."""
    try:
        return pop()
    except IndexError:
        return None


def _prepare_worker() -> None:
    """Ignore interrupts, which the command itself handles, and end the worker when the command ends, however it
    ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
