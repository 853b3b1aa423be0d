"""Figures as the bytes of their files, and work that is shared between processes."""

import io
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("ntkrun.mplstyle")
ALWAYS, ON_REQUEST = ("png", "svg"), ("pdf",)  # formats; PDF is for papers, and takes as long as the other two
# Options of each format. There are no dates, so that the same figure gives the same bytes. PNG is compressed less,
# which is faster and makes the files a sixth larger.
OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"pil_kwargs": {"compress_level": 3}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
Saved = dict[str, bytes]  # by format
T = TypeVar("T")
Result = TypeVar("Result")


def saved(figure: Figure, formats: Sequence[str]) -> Saved:
    """Return the contents of a file of the figure in each of these formats. The bytes are the same each time."""
    files = {name: io.BytesIO() for name in formats}
    with mpl.rc_context(fname=STYLE):
        for name, file in files.items():
            figure.savefig(file, format=name, **OPTIONS[name])
    return {name: file.getvalue() for name, file in files.items()}


def in_processes(function: Callable[[T], Result], arguments: Sequence[T], workers: int) -> list[Result]:
    """Return function(argument) of each argument, computed by this process and so many worker processes.

    The workers take the arguments from the front and this process from the back, until none is left. The function and
    the arguments are pickled.
    """
    if not workers:
        return list(map(function, arguments))
    # Not forked: torch's threads do not survive that.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _prepare_worker)
    try:
        futures = [pool.submit(function, argument) for argument in arguments]
        own = {k: function(arguments[k]) for k in reversed(range(len(arguments))) if futures[k].cancel()}
        return [own[k] if k in own else _result(future, function, arguments[k]) for k, future in enumerate(futures)]
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Result], function: Callable[[T], Result], argument: T) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:  # a worker was killed, perhaps for lack of memory
        return function(argument)


def idle_cores() -> int:
    """Return how many cores this process may use beside its own."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) - 1


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
