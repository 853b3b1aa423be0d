"""Figures saved as the bytes of their files, on all cores if there are many."""

import io
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

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
# The number of figures that this process saves without workers: as many as a sweep of one setting has. Starting a
# worker takes about as long as saving two figures (docs/performance.md).
ALONE = 8

Saved = dict[str, bytes]  # by format


def saved(figure: Figure, formats: Sequence[str]) -> Saved:
    """Return the contents of a file of the figure in each of these formats. The bytes are the same each time."""
    files = {name: io.BytesIO() for name in formats}
    with mpl.rc_context(fname=STYLE):
        for name, file in files.items():
            figure.savefig(file, format=name, **OPTIONS[name])
    return {name: file.getvalue() for name, file in files.items()}


def all_saved(figures: Iterable[Figure], formats: Sequence[str]) -> Iterator[Saved]:
    """Yield `saved` of each settled figure, in their order and with the same bytes. Figures after the first ALONE are
    saved by workers, one for each core but this one, or by this process if no worker has started on them."""
    with _workers() as pool:
        waiting = []
        for number, figure in enumerate(figures):
            if number < ALONE or pool is None:
                yield saved(figure, formats)
            else:
                waiting.append((figure, pool.submit(saved, figure, formats)))
        for figure, future in waiting:
            try:
                done = None if future.cancel() else future.result()
            except BrokenProcessPool:  # a worker was killed, perhaps for lack of memory
                done = None
            yield done or saved(figure, formats)


@contextmanager
def _workers() -> Iterator[ProcessPoolExecutor | None]:
    """Yield a pool of worker processes, which start when first needed, or None on a machine with one core."""
    count = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) - 1
    if not count:
        yield None
        return
    pool = ProcessPoolExecutor(count, get_context("spawn"), _prepare_worker)  # torch's threads do not survive a fork
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


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
