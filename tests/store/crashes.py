"""Sweeps killed and disks that fail, again and again.

    python -m tests.store.crashes kills 200     kill -9 at random moments, each sweep started again until it is complete
    python -m tests.store.crashes faults        every write, flush, rename and new folder fails once in each of WAYS
    python -m tests.store.crashes faults EIO    or in one of them

Each sweep runs in a fork of this process, which has imported torch and started no thread: that costs milliseconds where
a start of Python costs seconds. Some sweeps commit each stack by itself, some merge their folders, and some leave a
checkpoint at each step (KINDS). After each accident every file is read, the sweep goes on, and its tables must be those
of a sweep that nothing happened to.
"""

import errno
import itertools
import json
import multiprocessing
import os
import random
import re
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
from safetensors.numpy import load_file

from ntkrun.columns import TABLES
from ntkrun.config.reader import parse_config
from ntkrun.engine import stack as engine_stack
from ntkrun.errors import UserError
from ntkrun.files import disk
from ntkrun.plan.runs import Stack
from ntkrun.run import checkpoints, commits
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store import stacks
from ntkrun.store.results_directory import read_results

FORK = multiprocessing.get_context("fork")
SWEEP = """\
name: small
network: {depth: 2, activation: erf}
data: {name: circle, samples: 4, test_samples: 2, targets: product}
training: {steps: 4}
probes: {outputs: [last]}
sweep: {grid: {network.width: [4, 8], network.beta: BETAS}, seeds: 2}
"""
# Seconds of work that are committed together, folders that stay unmerged, and whether each step has a checkpoint.
KINDS = {
    "together": (0.1, stacks.MOST, False),
    "one by one": (0.0, stacks.MOST, False),
    "merging": (0.0, 2, False),
    "checkpoints": (0.0, stacks.MOST, True),
    "all": (0.0, 1, True),
}
GONE = 77  # exit code of a process that the disk took along
HURRY = 0.5  # so that a sweep is killed several times before it is complete
WAYS = ("ENOSPC", "EIO", "full", "before", "after")


class _Telling(ProgressListener):
    """Says which stacks are committed, as lists, and what is noted of checkpoints, as text."""

    def __init__(self, told: Connection):
        self.told = told

    def committed(self, stack: Stack, done: object) -> None:
        self.told.send([run.run_id for run in stack.runs])

    def note(self, stack: Stack, text: str) -> None:
        self.told.send(text)


def swept(told: Connection, root: Path, betas: str, kind: str) -> str:
    """Run the sweep; what it says if it cannot."""
    commits.HOLD, stacks.MOST, kept = KINDS[kind]
    stacks.WORTHWHILE = 2
    if kept:
        checkpoints.INTERVAL, checkpoints.SHARE = 0.0, float("inf")
        engine_stack.STEPS_UNREAD["cpu"] = 1  # else so few steps are read together, and none is in between
    try:
        run_sweep(parse_config(SWEEP.replace("BETAS", betas)), root, "cpu", _Telling(told), memory=1.0)
    except UserError as error:
        return str(error)
    return ""


def check(told: Connection, root: Path, ended: bool) -> tuple[list[str], bool]:
    """Read every file that has its name. Returns the runs that are committed, and whether some lie twice: in a merged
    folder and in one that it was made of, until the next merge."""
    for path in root.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file():
            _read_whole(path)
    runs = [run for path in root.glob("small/stacks/[!.]*/runs.parquet") for run in pd.read_parquet(path)["run_id"]]
    assert not (ended and list(root.glob("small/checkpoints/[!.]*"))), "a checkpoint of what has ended"
    if (root / "small" / "plan.parquet").exists():
        results = read_results(root / "small")
        assert sorted(results.runs["run_id"]) == sorted(set(runs))
        assert set(results.steps["run_id"]) == set(runs)
        assert not results.steps.duplicated(["run_id", "step"]).any()
        assert all(results.kernels(run) is not None for run in runs)
    return sorted(set(runs)), len(set(runs)) < len(runs)


def _read_whole(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            assert {name: arrays[name].shape for name in arrays.files}
    elif path.suffix == checkpoints.ENDING:
        assert load_file(path)
        assert checkpoints.run_ids_in(path)
    elif path.suffix == ".json":
        assert json.loads(path.read_text())["planned"]
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
    """So many kills of sweeps of the KINDS in turn, after times spread evenly over HURRY of the time that the whole
    sweep takes."""
    betas, chance = "[0.1, 0.2, 0.3, 0.4]", random.Random(0)
    takes = {kind: _undisturbed(root, betas, kind) for kind in KINDS}
    killed, sweeps, before, left, seen = 0, 0, set[str](), Counter[int](), Counter[str]()
    while killed < count or before:
        here, kind = root / f"sweep{sweeps}", list(KINDS)[sweeps % len(KINDS)]
        child = Child(swept, here, betas, kind)
        child.process.join(chance.uniform(0, HURRY * takes[kind]) if killed < count else None)
        ended = child.process.exitcode is not None
        if not ended:
            child.process.kill()
        said = child.said()
        seen["stacks that went on in mid-run"] += sum("continues from step" in str(each) for each in said)
        assert not any("unusable" in str(each) for each in said), said
        runs, twice = done(check, here, ended)
        assert before <= set(runs), "a finished run was lost"
        if not ended:
            killed, before = killed + 1, set(runs)
            left[len(runs)] += 1
            seen[f"kills, {kind}"] += 1
            seen["kills that left runs merged and still there"] += twice
            continue
        assert said[-1] == ""
        assert len(runs) == 16
        done(same, here, root / "together")
        shutil.rmtree(here)
        sweeps, before = sweeps + 1, set()
    return {"kills": killed, "sweeps completed": sweeps, "kills by runs that were finished": dict(sorted(left.items())),
            "seen": dict(seen), "seconds a sweep": {kind: round(each, 2) for kind, each in takes.items()}}  # fmt: skip


def _undisturbed(root: Path, betas: str, kind: str) -> float:
    """Seconds that a sweep of this kind takes when nothing happens; its tables are those of the first kind."""
    started = time.monotonic()
    assert done(swept, root / kind, betas, kind) == ""
    took = time.monotonic() - started
    done(check, root / kind, True)
    done(same, root / kind, root / "together")
    return took


# ---------------------------------------------------------------- faults


class Disk:
    """Counts what is asked of the disk, and lets the nth request fail in one of WAYS: `full` that and all later ones,
    `before` and `after` by the end of the process. `failed`: whether one did that a sweep has to tell of."""

    def __init__(self, nth: float, way: str):
        self.nth, self.way, self.count, self.failed = nth, way, 0, False

    def install(self) -> None:
        for name in disk.OPERATIONS:
            setattr(disk, name, self.failing(getattr(disk, name)))

    def failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """What is there when writing fails is half of it."""

        def call(path: Path, *arguments: Any) -> Any:
            self.count += 1
            if self.count != self.nth and not (self.way == "full" and self.count > self.nth):
                return real(path, *arguments)
            if self.way == "before" or (self.way == "full" and real.__name__.startswith("remove")):
                if self.way == "before":
                    os._exit(GONE)
                return real(path, *arguments)  # a full disk lets one remove files
            # What cannot be linked is copied, and no result depends on progress.json.
            self.failed |= real.__name__ != "link" and path.suffix != ".json"
            writes = real.__name__ == "write"
            if self.way == "after" or writes:
                real(path, *arguments)
            if self.way == "after":
                os._exit(GONE)
            if writes:
                os.truncate(path, path.stat().st_size // 2)
            code = errno.EIO if self.way == "EIO" else errno.ENOSPC
            raise OSError(code, os.strerror(code), str(path))

        return call


def swept_on(told: Connection, root: Path, betas: str, nth: float, way: str) -> tuple[str, int, bool]:
    faulty = Disk(nth, way)
    faulty.install()
    return swept(told, root, betas, "all"), faulty.count, faulty.failed


def faults(root: Path, ways: Sequence[str] = WAYS) -> dict[str, Any]:
    """Every request of a sweep that merges and keeps checkpoints, in each of these ways."""
    betas, reference = "[0.1]", root / "reference"
    said, requests, _ = done(swept_on, reference, betas, float("inf"), "")
    assert said == ""
    sentences, ends = Counter[str](), Counter[str]()
    for way, nth in itertools.product(ways, range(1, requests + 1)):
        here = root / f"{way}{nth}"
        committed, end, sentence = _fault(here, betas, way, nth)
        ends[f"{way}: {end}"] += 1
        sentences[sentence] += 1
        runs, twice = done(check, here, False)
        assert committed <= set(runs), f"{way} {nth}: a finished run was lost"
        ends[f"{way}: runs merged and still there"] += twice
        assert done(swept, here, betas, "all") == ""
        done(check, here, True)
        done(same, here, reference)
        shutil.rmtree(here)
    return {"requests of the disk": requests, "faults": requests * len(ways), "ends": dict(ends),
            "sentences": dict(sentences)}  # fmt: skip


def _fault(here: Path, betas: str, way: str, nth: int) -> tuple[set[str], str, str]:
    """What is committed, how it ended, and what it said. A request that failed is told of: by a sentence that ends the
    sweep, or, of a checkpoint, by a note; and nothing else is."""
    child = Child(swept_on, here, betas, nth, way)
    said = child.said()
    committed = {run for each in said if isinstance(each, list) for run in each}
    if not (said and isinstance(said[-1], tuple)):
        assert child.process.exitcode == GONE, (way, nth)
        return committed, "the process was gone", ""
    sentence, _, failed = said[-1]
    noted = any(str(each).startswith("no checkpoint at step ") for each in said)
    assert child.process.exitcode == 0, (way, nth)
    assert failed == bool(sentence or noted), (way, nth, said)
    assert not failed or (way in ("ENOSPC", "EIO") or (way == "full" and sentence)), (way, nth, said)
    assert not sentence or re.search(r"cannot (be written|write results here) \(", sentence), sentence
    return (
        committed,
        "a sentence" if sentence else "a checkpoint less" if noted else "nothing lost",
        _plain(sentence, here),
    )


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
