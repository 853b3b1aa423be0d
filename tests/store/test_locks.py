"""Who may write: one process a shard, the dead recognised at once, and the living never taken for dead."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ntkrun.errors import StoreBusy
from ntkrun.store import locks
from ntkrun.store.locks import LOCKS, commit_lock, merge_lock, shard_lock, writers
from ntkrun.store.results_directory import Store
from tests.store.store_of import DESCRIPTION, frames_of, plan_of


def _hold(root: Path, said: Any) -> None:
    with shard_lock(root):
        said.send("holding")
        said.recv()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[multiprocessing.Process]:
    """Another process that writes here."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "holding"
    yield process  # type: ignore[misc]
    process.kill()
    process.join()


def test_a_dead_owner_is_recognised_at_once(tmp_path: Path, other: Any) -> None:
    with pytest.raises(StoreBusy, match=rf"process {other.pid} on .* since 2") as caught, shard_lock(tmp_path):
        pass
    assert caught.value.code == 4
    assert [writer.pid for writer in writers(tmp_path)] == [other.pid]
    other.kill()
    other.join()
    assert writers(tmp_path) == []
    with shard_lock(tmp_path):
        assert [writer.pid for writer in writers(tmp_path)] == [os.getpid()]
    assert writers(tmp_path) == []


def test_a_process_that_is_stopped_keeps_its_lock(tmp_path: Path, other: Any) -> None:
    os.kill(other.pid, signal.SIGSTOP)
    with pytest.raises(StoreBusy), shard_lock(tmp_path):
        pass
    assert len(writers(tmp_path)) == 1
    os.kill(other.pid, signal.SIGCONT)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_who_writes_is_seen_in_a_directory_that_one_may_only_read(tmp_path: Path, other: Any) -> None:
    (tmp_path / LOCKS / "1-of-1").chmod(0o400)
    (tmp_path / LOCKS).chmod(0o500)
    tmp_path.chmod(0o500)
    assert [writer.pid for writer in writers(tmp_path)] == [other.pid]
    tmp_path.chmod(0o700)
    (tmp_path / LOCKS).chmod(0o700)


def test_looking_at_a_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """A reader holds a shared lock for a moment; a writer that comes just then waits for it."""
    with shard_lock(tmp_path):
        pass
    with (tmp_path / LOCKS / "1-of-1").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert writers(tmp_path) == []
        flock, tries = fcntl.flock, list[int]()

        def read_until_now(file: Any, kind: int) -> None:
            if kind == fcntl.LOCK_EX | fcntl.LOCK_NB and file.name.endswith("1-of-1"):
                tries.append(kind)
                if len(tries) == 3:
                    flock(reader, fcntl.LOCK_UN)
            flock(file, kind)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(locks.fcntl, "flock", read_until_now)
            with shard_lock(tmp_path):
                assert len(tries) == 3


def test_shards_of_one_division_write_side_by_side_and_nobody_else(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    with one.writing((1, 2)), two.writing((2, 2)):
        one.begin(DESCRIPTION, plan_of("a", "b"))
        one.commit(frames_of("a"), {})
        two.commit(frames_of("b"), {})
        for shard in ((1, 2), (1, 3), (2, 3), (1, 1)):
            with pytest.raises(StoreBusy, match=r"shard [12]/2; wait for it"), Store(tmp_path).writing(shard):
                pass
        assert [writer.shard for writer in one.writers()] == [(1, 2), (2, 2)]
    assert one.finished() == {"a", "b"}
    with Store(tmp_path).writing(), pytest.raises(StoreBusy), Store(tmp_path).writing((1, 2)):
        pass


def test_commits_wait_for_each_other_and_merges_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "COMMIT_WAIT", 0.0)
    with commit_lock(tmp_path), pytest.raises(StoreBusy, match=r"holds the lock .*commit and does not release it"):  # noqa: SIM117
        with commit_lock(tmp_path):
            pass
    with merge_lock(tmp_path) as free, merge_lock(tmp_path) as free_again:
        assert (free, free_again) == (True, False)
    with merge_lock(tmp_path) as free:
        assert free


def test_a_lock_that_ntkrun_did_not_write_is_somebody_unknown(tmp_path: Path) -> None:
    (tmp_path / LOCKS).mkdir()
    for text in (
        "",
        "[1]",
        '{"pid": 1, "host": "x"}',
        json.dumps({"pid": 1, "host": "\x1b[2J", "since": "", "shard": "ab"}),
    ):
        (tmp_path / LOCKS / "1-of-1").write_text(text)
        with (tmp_path / LOCKS / "1-of-1").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(StoreBusy, match="process 0 on an unknown machine"), shard_lock(tmp_path):
                pass
    with shard_lock(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def unsupported(file: object, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    one, two = Store(tmp_path), Store(tmp_path)
    with one.writing(), two.writing():
        one.begin(DESCRIPTION, plan_of("a", "b"))
        one.commit(frames_of("a"), {})
        two.commit(frames_of("a", "b"), {})
        assert two.writers() == []
    assert read_ids(tmp_path) == ["a", "b"]


def read_ids(root: Path) -> list[str]:
    return list(Store(root).read().steps["run_id"].unique())
