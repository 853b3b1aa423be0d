"""Sweeps that are stopped in mid-run go on from their checkpoints."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ntkrun.columns import TABLES
from ntkrun.config.reader import Sweep, parse_config
from ntkrun.engine import stack as engine_stack
from ntkrun.engine.checkpoint import Checkpoint
from ntkrun.engine.devices import GIB
from ntkrun.engine.memory import stack_bytes
from ntkrun.engine.training import State
from ntkrun.errors import UserError
from ntkrun.files import disk
from ntkrun.plan.problem import task_of
from ntkrun.plan.runs import Stack, plan, stacks
from ntkrun.run import checkpoints
from ntkrun.run.checkpoints import Checkpoints, UnusableCheckpoint, read, run_ids_in, write
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Results

TEXT = """\
name: tiny
network: {depth: 3, activation: tanh}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {step_size: 0.3, steps: 30, momentum: 0.5, batch: 2}
probes: {every: 3, kernels: [first, last]}
sweep: {grid: {network.width: [8]}, seeds: 3}
"""
CPU = torch.device("cpu")


def _sweep(*overrides: str) -> Sweep:
    return parse_config(TEXT, overrides=overrides)


class _Watching(ProgressListener):
    """Remembers the states that passed and the notes; interrupts at the `last` step of networks of width 8."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.passed: list[tuple[object, int]] = []
        self.notes: list[str] = []

    def state(self, stack: Stack, state: State, measurement: object) -> None:
        self.passed.append((stack.point.network.width, state.step))
        if self.passed[-1] == (8, self.last):
            raise KeyboardInterrupt

    def note(self, stack: Stack, text: str) -> None:
        self.notes.append(text)


def _at_each_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checkpoints, "INTERVAL", 0.0)
    patch.setattr(checkpoints, "SHARE", np.inf)


def _stopped(root: Path, *overrides: str) -> Path:
    """A sweep that was stopped with a checkpoint at step 17: its file."""
    with pytest.MonkeyPatch.context() as patch:
        _at_each_step(patch)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(_sweep(*overrides), root, "cpu", _Watching(17))
    (path,) = (root / "tiny" / "checkpoints").glob("*")
    return path


def _resumed(root: Path, *overrides: str) -> tuple[Results, _Watching]:
    watching = _Watching()
    return run_sweep(_sweep(*overrides), root, "cpu", watching), watching


def _assert_equal(found: Results, expected: Results) -> None:
    for table in TABLES:
        mine, theirs = (
            getattr(results, table).drop(columns="seconds", errors="ignore") for results in (found, expected)
        )
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    for run_id in expected.runs["run_id"]:
        kept, wanted = found.kernels(run_id), expected.kernels(run_id)
        assert kept is not None
        assert wanted is not None
        assert all(np.array_equal(kept[name], wanted[name]) for name in wanted)


@pytest.fixture(autouse=True, scope="module")
def _steps_are_read_one_by_one() -> Iterator[None]:
    """So that a stop is heard at the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine_stack.STEPS_UNREAD, "cpu", 1)
        yield


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting each file on the disk takes longer here than all else."""
    monkeypatch.setattr(disk, "flush", lambda path: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_sweep(_sweep(), tmp_path_factory.mktemp("whole"), "cpu")


def test_a_stopped_sweep_goes_on_in_mid_run_and_has_the_same_tables(tmp_path: Path, whole: Results) -> None:
    path = _stopped(tmp_path)
    found, watching = _resumed(tmp_path)
    assert watching.passed == [(8, step) for step in range(17, 31)]
    assert watching.notes == ["continues from step 17 of 30"]
    _assert_equal(found, whole)
    assert list(path.parent.iterdir()) == []


def test_a_checkpoint_keeps_its_runs_together(tmp_path: Path, whole: Results) -> None:
    """Whatever else the sweep has come to hold."""
    _stopped(tmp_path)
    found, watching = _resumed(tmp_path, "sweep.seeds=[3, 0, 1, 2]")
    assert watching.passed == [(8, step) for step in (*range(17, 31), *range(31))]
    steps = found.steps[found.steps["run_id"].isin(whole.runs["run_id"])]
    pd.testing.assert_frame_equal(steps.reset_index(drop=True), whole.steps, check_exact=True)


def test_a_checkpoint_larger_than_the_memory_of_this_time_waits(tmp_path: Path) -> None:
    _stopped(tmp_path)
    (stack,) = stacks(plan(_sweep()))
    one = stack_bytes(task_of(stack.point), 1)
    watching = _Watching()
    run_sweep(_sweep(), tmp_path, "cpu", watching, memory=(one + 8) / GIB)
    assert watching.passed == [(8, step) for step in range(31)] * 3
    assert watching.notes == []
    assert list((tmp_path / "tiny" / "checkpoints").iterdir()) == []


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def _other_version(path: Path) -> None:
    runs = run_ids_in(path)
    header = {"step": 3, "diverged": [], "columns": {}, "seconds": 1.0}
    write(path, Checkpoint(header, {}), {"runs": runs, "format": 0})


def _nested(path: Path) -> None:
    head = json.dumps({"__metadata__": {"ntkrun": "[" * 100_000}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    outside = path.rename(path.parents[2] / "outside.safetensors")
    path.symlink_to(outside)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "cannot be read"),
    "empty": (lambda path: os.truncate(path, 0), "cannot be read"),
    "a bit": (_flip, "is damaged"),
    "text": (lambda path: path.write_text("no checkpoint"), "cannot be read"),
    "nested": (_nested, "cannot be read"),
    "pipe": (_pipe, "cannot be read (not a plain file)"),  # which would be waited for without end
    "link out": (_link_out, "cannot be read"),  # by which anything could be read that the user may read
    "link to nothing": (lambda path: _link_out(path) or (path.resolve().unlink()), "cannot be read"),
    "version": (_other_version, "was made with other format and device and versions"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_does_not_fit_is_not_used(damage: str, tmp_path: Path, whole: Results) -> None:
    path = _stopped(tmp_path)
    harm, said = DAMAGE[damage]
    harm(path)
    found, watching = _resumed(tmp_path)
    (note,) = watching.notes
    assert f"its checkpoint {said}" in note
    assert note.endswith(f"; the stack starts over ({path})")
    assert watching.passed == [(8, step) for step in range(31)]
    _assert_equal(found, whole)
    assert list(path.parent.iterdir()) == []


def test_a_folder_in_place_of_a_checkpoint_stays(tmp_path: Path, whole: Results) -> None:
    path = _stopped(tmp_path)
    path.unlink()
    (path / "mine").mkdir(parents=True)
    found, watching = _resumed(tmp_path)
    assert "its checkpoint cannot be read (not a plain file)" in watching.notes[0]
    _assert_equal(found, whole)
    assert list(path.parent.rglob("*")) == [path, path / "mine"]


def test_checkpoints_behind_a_link_out_of_the_directory_are_not_read(tmp_path: Path) -> None:
    folder = _stopped(tmp_path).parent
    outside = folder.rename(tmp_path / "outside")
    folder.symlink_to(outside)
    with pytest.raises(UserError, match="a link out of"):
        _resumed(tmp_path)
    assert len(list(outside.iterdir())) == 1


def test_a_file_of_another_device_or_of_other_runs_does_not_fit(tmp_path: Path) -> None:
    path = _stopped(tmp_path)
    (stack,) = stacks(plan(_sweep()))
    assert Checkpoints(path.parent, CPU).load(stack) is not None
    with pytest.raises(UnusableCheckpoint, match="other runs"):
        read(path, {"runs": ["another"]})
    assert Checkpoints(path.parent, torch.device("cuda")).load(stack) is None


def test_a_full_disk_costs_the_checkpoint_alone(
    tmp_path: Path, whole: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, save: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    _at_each_step(monkeypatch)
    monkeypatch.setattr(checkpoints, "replace_file", full)
    found, watching = _resumed(tmp_path)
    assert "no checkpoint at step 1: " in watching.notes[0]
    assert "No space left on device" in watching.notes[0]
    _assert_equal(found, whole)


def test_stale_files_go_and_those_of_runs_to_come_stay(tmp_path: Path, whole: Results) -> None:
    path = _stopped(tmp_path)
    stale, later = path.with_name("stale.safetensors"), path.with_name("later.safetensors")
    write(stale, Checkpoint({"step": 3}, {}), {"runs": [whole.runs["run_id"][0], "another"]})
    write(later, Checkpoint({"step": 3}, {}), {"runs": ["of another plan"]})
    _resumed(tmp_path)
    assert list(path.parent.iterdir()) == [later]


def test_short_stacks_write_none_and_dear_ones_come_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    (stack, *_) = stacks(plan(_sweep()))
    kept = Checkpoints(tmp_path / "checkpoints", CPU)
    keeper = kept.keeper(stack)
    now = 299.0
    assert not keeper.due()
    now = 301.0
    assert keeper.due()

    def slow(self: Checkpoints, stack: Stack, checkpoint: Checkpoint) -> None:
        nonlocal now
        now += 10.0

    monkeypatch.setattr(Checkpoints, "keep", slow)
    keeper.keep(Checkpoint({"step": 3}, {}))
    now += 999.0  # ten seconds are 1 % of a thousand
    assert not keeper.due()
    now += 2.0
    assert keeper.due()


@pytest.mark.parametrize(("most", "kept"), [(2**29, True), (-1, False)])
def test_a_sweep_that_is_to_end_keeps_what_is_written_in_seconds(
    most: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "AT_ONCE", most)
    (stack,) = stacks(plan(_sweep()))
    keeper = Checkpoints(tmp_path, CPU, stopping=lambda: True).keeper(stack)
    assert keeper.due()
    with pytest.raises(KeyboardInterrupt):
        keeper.keep(Checkpoint({"step": 3}, {"linear": torch.zeros(2)}))
    assert len(list(tmp_path.iterdir())) == kept
