"""What a power failure leaves: of all that was not flushed any part may be gone, and no committed run is.

A sweep's changes of the disk are recorded through files/disk.py. For each moment a directory is rebuilt as a disk may
have it after a failure then: a file that was not flushed since it was written is empty, half there or whole, and of the
changes of a folder's names those since its last flush are there up to any one of them.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ntkrun.files import disk
from ntkrun.store import stacks
from ntkrun.store.results_directory import Store, read_results
from tests.store.store_of import DESCRIPTION, frames_of, plan_of

IDS = [f"run{k}" for k in range(5)]


@dataclass
class File:
    """The content of a file, and the bytes of it that are on the disk for certain."""

    content: bytes
    flushed: bytes | None = None

    def after_failure(self, draw: random.Random) -> bytes:
        if self.flushed is not None:
            return self.flushed
        return draw.choice([b"", self.content[: len(self.content) // 2], self.content])


@dataclass
class Folder:
    """The changes of a folder's names, in their order, and how many of them are on the disk for certain."""

    changes: list[Callable[[dict[str, Any]], object]] = field(default_factory=list)
    flushed: int = 0

    def names(self, count: int | None = None) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for change in self.changes[:count]:
            change(names)
        return names


class Model:
    """A disk that knows what was flushed."""

    def __init__(self, root: Path):
        self.root, self.top = root, Folder()

    def at(self, path: Path) -> Any:
        found: Any = self.top
        for part in path.relative_to(self.root).parts:
            found = found.names()[part]
        return found

    def change(self, folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
        self.at(folder).changes.append(change)

    def note(self, operation: str, path: Path, *others: Any) -> None:
        """Note an operation that has been done."""
        name, parent = path.name, path.parent
        if operation == "make":
            if name not in self.at(parent).names():
                self.change(parent, lambda names, new=Folder(): names.__setitem__(name, new))  # noqa: B008
        elif operation == "write":
            new = File(path.read_bytes())
            self.change(parent, lambda names: names.__setitem__(name, new))
        elif operation == "flush":
            item = self.at(path)
            item.flushed = item.content if isinstance(item, File) else len(item.changes)
        elif operation == "rename":
            assert others[0].parent == parent
            self.change(parent, lambda names: names.__setitem__(others[0].name, names.pop(name)))
        elif operation == "link":
            linked = self.at(path)
            self.change(others[0].parent, lambda names: names.__setitem__(others[0].name, linked))
        else:
            self.change(parent, lambda names: names.pop(name, None))

    def after_failure(self, draw: random.Random, place: Path) -> None:
        """Write one of the states that a failure now may leave."""
        self._write(self.top, draw, place)

    def _write(self, folder: Folder, draw: random.Random, place: Path) -> None:
        place.mkdir()
        for name, item in folder.names(draw.randint(folder.flushed, len(folder.changes))).items():
            if isinstance(item, Folder):
                self._write(item, draw, place / name)
            else:
                (place / name).write_bytes(item.after_failure(draw))


@pytest.fixture(autouse=True)
def _more_than_three_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing waits for the disk: it is the order of flushes that matters here."""
    monkeypatch.setattr(disk, "flush", lambda path: None)
    monkeypatch.setattr(stacks, "MOST", 3)
    monkeypatch.setattr(stacks, "WORTHWHILE", 2)


def _failures(root: Path, monkeypatch: pytest.MonkeyPatch, without: str = "") -> Iterator[tuple[Path, set[str], int]]:
    """Yield what each of many failures leaves, the runs that were committed by then, and the number of the operation.

    The operations called `without` are not done: they are what the disk does not keep in order then.
    """
    draw, model, committed = random.Random(0), Model(root.parent), set[str]()
    left: list[tuple[Path, set[str], int]] = []
    with monkeypatch.context() as patched:
        for name in disk.OPERATIONS:
            patched.setattr(disk, name, _noted(name, getattr(disk, name), model, committed, left, draw, without))
        store = Store(root)
        with store.writing():
            store.begin(DESCRIPTION, plan_of(*IDS))
            for run_id in IDS:
                store.commit(frames_of(run_id), {run_id: {0: np.eye(2)[:, :, None, None]}})
                committed.add(run_id)
            store.write_tables()
    yield from left


def _noted(
    name: str,
    real: Callable[..., Any],
    model: Model,
    committed: set[str],
    left: list[tuple[Path, set[str], int]],
    draw: random.Random,
    without: str,
) -> Callable[..., Any]:
    def call(path: Path, *others: Any) -> Any:
        if name == "remove" and not os.path.lexists(path):
            return real(path, *others)
        result = real(path, *others)
        if name != without:
            model.note(name, path, *others)
        if draw.random() < 0.5:  # all of them would take twice as long
            place = model.root / f"left{len(left)}"
            model.after_failure(draw, place)
            left.append((place, set(committed), len(left)))
        return result

    return call


def _what_is_wrong(place: Path, committed: set[str], work: Path) -> str:
    """Return what is wrong with a directory after a failure, "" if nothing is."""
    root = place / work.name
    if not (root / "plan.parquet").exists():
        return "committed runs are gone" if committed else ""
    results = read_results(root)
    if not committed <= set(results.runs["run_id"]):
        return "committed runs are gone"
    if set(results.steps["run_id"]) != set(results.runs["run_id"]):
        return "rows are gone"
    if any(results.kernels(run_id) is None for run_id in results.runs["run_id"]):
        return "kernels are gone"
    return ""


def _carried_on(root: Path) -> pd.DataFrame:
    store = Store(root)
    with store.writing():
        store.begin(DESCRIPTION, plan_of(*IDS))
        for run_id in IDS:
            if run_id not in store.finished():
                store.commit(frames_of(run_id), {run_id: {0: np.eye(2)[:, :, None, None]}})
        store.write_tables()
    return read_results(root).steps


def test_no_power_failure_loses_a_committed_run_or_leaves_half_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "model" / "work"
    work.parent.mkdir()
    expected, count = None, 0
    for place, committed, _ in _failures(work, monkeypatch):
        expected = read_results(work).steps if expected is None else expected
        assert _what_is_wrong(place, committed, work) == ""
        if count % 10 == 0 and (place / "work").exists():
            pd.testing.assert_frame_equal(_carried_on(place / "work"), expected, check_exact=True)
        count += 1
        shutil.rmtree(place)
    assert count > 50


def test_without_its_flushes_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "model" / "work"
    work.parent.mkdir()

    def wrong(place: Path, committed: set[str]) -> bool:
        try:
            return bool(_what_is_wrong(place, committed, work))
        except Exception:  # noqa: BLE001 - a file that is half there, in whatever way it shows
            return True

    assert any(wrong(place, committed) for place, committed, _ in _failures(work, monkeypatch, without="flush"))


SWEEP = """
import sys
from pathlib import Path
from ntkrun.files import disk

root, inside, outside = Path(sys.argv[1]).resolve(), [0], []

def watch(event, arguments):
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    ):
        path = Path(str(arguments[0])).absolute()
        if path.is_relative_to(root) and ".locks" not in path.parts and not inside[0]:
            outside.append((event, str(path)))

def through(real):
    def call(*arguments):
        inside[0] += 1
        try:
            return real(*arguments)
        finally:
            inside[0] -= 1
    return call

for name in disk.OPERATIONS:
    setattr(disk, name, through(getattr(disk, name)))

from ntkrun.config.reader import parse_config
from ntkrun.doctor.results_directory import examine, repair
from ntkrun.evidence.report.conclusion import draw_figures
from ntkrun.run import checkpoints
from ntkrun.run.sweep import run_sweep
from ntkrun.store import stacks

stacks.MOST, stacks.WORTHWHILE = 1, 2
checkpoints.INTERVAL, checkpoints.SHARE = 0.0, float("inf")
text = Path(sys.argv[2]).read_text()
sys.addaudithook(watch)
for width in (4, 8, 16):
    results = run_sweep(parse_config(text, overrides=[f"sweep.grid.network.width=[{width}]"]), root, "cpu")
results.write_claims("{}")
results.write_captions({})
(table,) = results.path.glob("steps.parquet")
inside[0] += 1
table.write_bytes(b"torn")
inside[0] -= 1
assert repair(results.path, examine(results.path)) == [] and len(list(results.path.glob("stacks/*-*"))) == 1
print(outside)
"""


def test_all_changes_of_a_results_directory_go_through_one_module(tmp_path: Path) -> None:
    """Else the test above would not see them. The locks do not: nothing of them has to last."""
    (tmp_path / "config.yaml").write_text(
        "name: small\nnetwork: {depth: 2, activation: erf}\ndata: {name: circle, samples: 4, test_samples: 2}\n"
        "training: {steps: 40}\nsweep: {grid: {network.width: [4]}, seeds: 2}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(tmp_path / "results"), str(tmp_path / "config.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr
