"""Sweeps killed and disks that fail, again and again.

    python -m tests.lab.crashes kills 200     kill -9 at random moments, each sweep started again until it is complete
    python -m tests.lab.crashes faults        every write, flush, rename and new folder fails once in each of WAYS
    python -m tests.lab.crashes faults EIO    or in one of them

Each sweep runs in a fork of this process, which has imported torch and started no thread: that costs milliseconds where
a start of Python costs seconds. After each accident every file is read, the sweep goes on, and its tables must be those
of a sweep that nothing happened to.
"""

import errno
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml

from ntkrun.errors import UserError
from ntkrun.lab.config import parse_config
from ntkrun.lab.execute import run_sweep
from ntkrun.lab.plan import Stack
from ntkrun.lab.store import read_results
from ntkrun.lab.tables import TABLES
from ntkrun.lab.watch import Watch

FORK = multiprocessing.get_context("fork")
SWEEP = """\
name: small
network: {depth: 2, activation: erf}
data: {name: circle, samples: 4, test_samples: 2, targets: product}
training: {steps: 4}
probes: {outputs: [last]}
sweep: {grid: {network.width: [4, 8], network.beta: BETAS}, seeds: 2}
"""
GONE = 77  # exit code of a process that the disk took along
HURRY = 0.5  # so that a sweep is killed several times before it is complete
WAYS = ("ENOSPC", "EIO", "full", "before", "after")


class _Telling(Watch):
    """Says which stacks are committed."""

    def __init__(self, told: Connection):
        self.told = told

    def committed(self, stack: Stack, done: object) -> None:
        self.told.send([run.run_id for run in stack.runs])


def swept(told: Connection, root: Path, betas: str) -> str:
    """Run the sweep; what it says if it cannot."""
    try:
        run_sweep(parse_config(SWEEP.replace("BETAS", betas)), root, "cpu", _Telling(told), memory=1.0)
    except UserError as error:
        return str(error)
    return ""


def check(told: Connection, root: Path) -> list[str]:
    """Read every file that has its name. Returns the runs that are committed; each must be there once."""
    for path in root.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file():
            _read_whole(path)
    runs = [run for path in root.glob("small/stacks/[!.]*/runs.parquet") for run in pd.read_parquet(path)["run_id"]]
    assert len(runs) == len(set(runs)), f"committed twice: {runs}"
    if (root / "small" / "plan.parquet").exists():
        results = read_results(root / "small")
        assert set(results.runs["run_id"]) == set(results.steps["run_id"]) == set(runs)
        assert all(results.kernels(run) is not None for run in runs)
    return runs


def _read_whole(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            assert {name: arrays[name].shape for name in arrays.files}
    else:
        assert path.name == "sweep.yaml", path
        assert yaml.safe_load(path.read_text())["config"]


def same(told: Connection, root: Path, reference: Path) -> None:
    """The tables on disk are bitwise those of the reference, times apart."""
    for table in TABLES:
        found, expected = (pd.read_parquet(each / "small" / f"{table}.parquet") for each in (root, reference))
        pd.testing.assert_frame_equal(
            found.drop(columns="seconds", errors="ignore"),
            expected.drop(columns="seconds", errors="ignore"),
            check_exact=True,
        )


class Child:
    """Some work in a fork, and what it says."""

    def __init__(self, work: Callable[..., Any], *arguments: Any):
        self.ours, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_work, args=(theirs, work, *arguments))
        self.process.start()
        theirs.close()

    def said(self) -> list[Any]:
        """What it told, and at last what it returned, if it came to that."""
        found = []
        try:
            while True:
                found.append(self.ours.recv())
        except EOFError:
            self.process.join()
        return found


def _work(theirs: Connection, work: Callable[..., Any], *arguments: Any) -> None:
    theirs.send(work(theirs, *arguments))


def done(work: Callable[..., Any], *arguments: Any) -> Any:
    """What some work in a fork returns. Raises AssertionError where it did not come to that."""
    child = Child(work, *arguments)
    said = child.said()
    assert child.process.exitcode == 0, f"{work.__name__} {arguments}"
    return said[-1]


# ---------------------------------------------------------------- kill -9


def kills(count: int, root: Path) -> dict[str, Any]:
    """So many kills, after times spread evenly over HURRY of the time that the whole sweep takes."""
    betas, reference, chance, started = "[0.1, 0.2, 0.3, 0.4]", root / "reference", random.Random(0), time.monotonic()
    assert done(swept, reference, betas) == ""
    takes = time.monotonic() - started
    killed, sweeps, before, left = 0, 0, set[str](), Counter[int]()
    while killed < count or before:
        here = root / f"sweep{sweeps}"
        child = Child(swept, here, betas)
        child.process.join(chance.uniform(0, HURRY * takes) if killed < count else None)
        if child.process.exitcode is None:
            child.process.kill()
            child.process.join()
            killed += 1
            after = set(done(check, here))
            assert before <= after, "a finished run was lost"
            left[len(after)] += 1
            before = after
        else:
            assert child.said()[-1] == ""
            assert len(done(check, here)) == 16
            done(same, here, reference)
            shutil.rmtree(here)
            sweeps, before = sweeps + 1, set()
    return {"kills": killed, "sweeps completed": sweeps, "seconds a sweep": round(takes, 2),
            "kills by runs that were finished": dict(sorted(left.items()))}  # fmt: skip


# ---------------------------------------------------------------- faults


class Disk:
    """Counts what is asked of the disk, and lets the nth request fail in one of WAYS: `full` that and all later ones,
    `before` and `after` by the end of the process."""

    def __init__(self, nth: float, way: str):
        self.nth, self.way, self.count = nth, way, 0

    def install(self) -> None:
        for home, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir")):
            setattr(home, name, self.failing(getattr(home, name)))
        for home, name, place in ((pq, "write_table", 1), (np, "savez", 0), (Path, "write_text", 0)):
            setattr(home, name, self.failing(getattr(home, name), place))

    def failing(self, real: Callable[..., Any], place: int | None = None) -> Callable[..., Any]:
        """`place` of the argument that says where is written: what is there when writing fails is half of it."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count != self.nth and not (self.way == "full" and self.count > self.nth):
                return real(*arguments, **options)
            if self.way == "before":
                os._exit(GONE)
            if self.way == "after" or place is not None:
                real(*arguments, **options)
            if self.way == "after":
                os._exit(GONE)
            if place is not None:
                file = arguments[place]
                where = file.name if isinstance(file, io.IOBase) else file
                os.truncate(where, Path(where).stat().st_size // 2)
            code = errno.EIO if self.way == "EIO" else errno.ENOSPC
            raise OSError(code, os.strerror(code))

        return call


def swept_on(told: Connection, root: Path, betas: str, nth: float, way: str) -> tuple[str, int]:
    disk = Disk(nth, way)
    disk.install()
    return swept(told, root, betas), disk.count


def faults(root: Path, ways: Sequence[str] = WAYS) -> dict[str, Any]:
    """Every request, in each of these ways."""
    betas, reference = "[0.1]", root / "reference"
    said, requests = done(swept_on, reference, betas, float("inf"), "")
    assert said == ""
    sentences: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for way, nth in itertools.product(ways, range(1, requests + 1)):
        here = root / f"{way}{nth}"
        child = Child(swept_on, here, betas, nth, way)
        *committed, last = child.said() or [None]
        ended = isinstance(last, tuple)
        assert child.process.exitcode == (0 if ended else GONE), (way, nth)
        if ended:
            sentences[_plain(last[0], here)] += 1
        ends[f"{way}: {'the process was gone' if not ended else 'a sentence' if last[0] else 'nothing lost'}"] += 1
        told = {run for runs in (committed if ended else [*committed, last or []]) for run in runs}
        assert told <= set(done(check, here)), f"{way} {nth}: a finished run was lost"
        assert done(swept, here, betas) == ""
        done(same, here, reference)
        shutil.rmtree(here)
    return {"requests of the disk": requests, "faults": requests * len(ways), "ends": dict(ends),
            "sentences": dict(sentences)}  # fmt: skip


def _plain(sentence: str, here: Path) -> str:
    assert "\n" not in sentence
    words = sentence.replace(str(here), "RESULTS").split()
    return " ".join("..." if word.startswith("RESULTS") else word for word in words)


def main(what: str, *how: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return kills(int(how[0]), Path(folder)) if what == "kills" else faults(Path(folder), how or WAYS)


if __name__ == "__main__":
    started = time.monotonic()
    found = main(*sys.argv[1:])
    print(json.dumps({**found, "seconds": round(time.monotonic() - started)}, indent=1))
