"""Stacks that ended wait for each other a moment, are committed together, and count only then."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ntkrun.errors import UserError
from ntkrun.plan.runs import Run, Stack, plan, stacks
from ntkrun.plan.stacks import Shard
from ntkrun.run import commits
from ntkrun.run.commits import HOLD, Committer
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import Profile, ProgressListener
from ntkrun.run.sweep import RunOptions, run_shard, run_sweep
from ntkrun.run.task import Done
from ntkrun.store.results_directory import Store, read_results
from tests.run.test_sweep import _sweep
from tests.store.store_of import frames_of


class _Watching(ProgressListener):
    """Remembers the runs that were told as committed; each is on the disk by then."""

    def __init__(self, root: Path) -> None:
        self.root, self.committed_runs = root, list[str]()

    def committed(self, stack: Stack, done: Done) -> None:
        run_ids = [run.run_id for run in stack.runs]
        assert set(run_ids) <= Store(self.root).finished()
        self.committed_runs += run_ids


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock."""
    time = [0.0]
    monkeypatch.setattr(commits.time, "monotonic", lambda: time[0])
    monkeypatch.setattr(commits, "rough_seconds", lambda stack: stack.point)
    return lambda seconds: time.__setitem__(0, seconds)


def _stack(run_id: str, rough_seconds: float = 0.0) -> Stack:
    return Stack(rough_seconds, (Run(run_id, rough_seconds, 0),))  # type: ignore[arg-type]


def _done(run_id: str, seconds: float) -> Done:
    return Done(frames_of(run_id), {}, seconds, {})


def _committer(root: Path) -> tuple[Committer, _Watching]:
    watching = _Watching(root)
    return Committer(Store(root), watching, Interrupts()), watching


def test_small_stacks_wait_for_each_other_and_become_one_folder(tmp_path: Path, now: Callable[[float], None]) -> None:
    committer, watching = _committer(tmp_path)
    for k in range(4):
        now(0.1 * (k + 1))
        committer.add(_stack(f"r{k}"), _done(f"r{k}", 0.1), _stack("next", 0.1))
    assert watching.committed_runs == []
    assert Store(tmp_path).finished() == set()
    now(HOLD - 0.01)  # since the first of them began
    committer.tick()
    assert watching.committed_runs == []
    now(HOLD + 0.01)
    committer.tick()
    assert watching.committed_runs == ["r0", "r1", "r2", "r3"]
    assert [folder.name for folder in Store(tmp_path).stack_folders()] == ["00000001"]
    committer.flush()
    assert len(Store(tmp_path).stack_folders()) == 1


def test_a_stack_is_committed_at_once_if_it_or_the_next_is_long(tmp_path: Path, now: Callable[[float], None]) -> None:
    committer, watching = _committer(tmp_path)
    now(100.0)
    committer.add(_stack("long"), _done("long", HOLD), _stack("next"))
    assert watching.committed_runs == ["long"]
    committer.add(_stack("short"), _done("short", 0.1), _stack("next", HOLD))
    assert watching.committed_runs == ["long", "short"]
    committer.add(_stack("last"), _done("last", 0.1), None)
    assert watching.committed_runs == ["long", "short"]
    now(102.0)
    committer.tick()
    assert watching.committed_runs == ["long", "short", "last"]


def test_a_commit_that_fails_is_tried_again_with_the_next(
    tmp_path: Path, now: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    committer, watching = _committer(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    committer.add(_stack("a"), _done("a", 0.1), None)
    with monkeypatch.context() as patched:
        patched.setattr(commits.Store, "commit", full)
        with pytest.raises(OSError, match="No space"):
            committer.flush()
    assert watching.committed_runs == []
    committer.add(_stack("b"), _done("b", 0.1), None)
    committer.flush()
    assert watching.committed_runs == ["a", "b"]


def test_the_time_of_a_commit_is_shared_by_its_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile()
    narrow, wide = stacks(plan(_sweep()))
    committer = Committer(Store(tmp_path), ProgressListener(), Interrupts(), profile)
    for stack in (narrow, wide):
        ids = [run.run_id for run in stack.runs]
        committer.add(stack, Done(frames_of(*ids), {}, 0.1, {"forward": 1.0}), None)
    committer.flush()
    assert [profile.seconds[width]["forward"] for width in ("4", "8")] == [1.0, 1.0]
    assert profile.seconds["4"]["writing"] == profile.seconds["8"]["writing"] > 0


def test_a_sweep_of_small_stacks_is_one_folder_and_the_same_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run_sweep(_sweep(), tmp_path / "together", "cpu")
    monkeypatch.setattr(commits, "HOLD", 0.0)
    single = run_sweep(_sweep(), tmp_path / "single", "cpu")
    assert len(Store(single.path).stack_folders()) == 2
    monkeypatch.undo()
    for name in ("runs", "steps", "layers", "modes", "outputs"):
        one, other = (getattr(results, name).drop(columns="seconds", errors="ignore") for results in (together, single))
        assert one.equals(other)
        assert list(one.dtypes) == list(other.dtypes)


def test_whoever_sees_that_no_run_is_missing_writes_the_tables(tmp_path: Path) -> None:
    sweep = _sweep()
    first, last = (
        run_shard(Shard(number, 2), sweep, tmp_path, RunOptions("cpu"), ProgressListener()) for number in (2, 1)
    )
    assert first > 0
    assert last == 0
    assert (tmp_path / "tiny" / "runs.parquet").exists()
    assert read_results(tmp_path / "tiny").runs["status"].tolist() == ["done"] * 6


def test_a_sweep_that_cannot_commit_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(commits.Store, "commit", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); finished runs are kept"):
        run_sweep(_sweep(), tmp_path, "cpu")
    assert Store(tmp_path / "tiny").finished() == set()
