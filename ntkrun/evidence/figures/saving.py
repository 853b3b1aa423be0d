"""Figures as the bytes of their files; where there are many, by all cores."""

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
# By format: no dates, so that the same figure gives the same bytes; a PNG that is packed sooner, and a sixth larger.
OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"pil_kwargs": {"compress_level": 3}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
# Figures that one process saves by itself: as many as a sweep of one setting has. A worker takes about as long to start
# as two figures to be saved (docs/performance.md).
ALONE = 8

Saved = dict[str, bytes]  # by format


def saved(figure: Figure, formats: Sequence[str]) -> Saved:
    """The figure as a file of each of these formats: the same bytes each time."""
    files = {name: io.BytesIO() for name in formats}
    with mpl.rc_context(fname=STYLE):
        for name, file in files.items():
            figure.savefig(file, format=name, **OPTIONS[name])
    return {name: file.getvalue() for name, file in files.items()}


def all_saved(figures: Iterable[Figure], formats: Sequence[str]) -> Iterator[Saved]:
    """`saved` of each settled figure, in their order and the same to the byte: those beyond the first ALONE by workers,
    one for each core but this one, and by this process where no worker has begun with them."""
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
            except BrokenProcessPool:  # a worker was killed, for want of memory perhaps
                done = None
            yield done or saved(figure, formats)


@contextmanager
def _workers() -> Iterator[ProcessPoolExecutor | None]:
    """Processes of our own, which start when they are first asked for; None on a machine of one core."""
    count = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) - 1
    if not count:
        yield None
        return
    pool = ProcessPoolExecutor(count, get_context("spawn"), _as_worker)  # torch's threads do not survive a fork
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _as_worker() -> None:
    """An interrupt of the command is the command's to answer; a worker ends with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
