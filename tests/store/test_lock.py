"""Who may write: one at a time, the dead recognised, the living never taken for dead, and who was cut off writes
nothing."""

import fcntl
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ntkrun.errors import StoreBusy
from ntkrun.store import lock
from ntkrun.store.lock import LOCK_TIMEOUT, write_lock, writers
from ntkrun.store.results_directory import Store
from tests.store.store_of import DESCRIPTION, frames_of, plan_of


def _hold(root: Path, said: Any) -> None:
    with write_lock(root):
        said.send("holding")
        time.sleep(600)


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


def _file_of(root: Path) -> Path:
    (file,) = (root / ".writers").glob("*.json")
    return file


def _rewrite(file: Path, **changes: Any) -> None:
    """The file says something else, and is still locked by whoever locks it."""
    said = json.loads(file.read_text()) | changes
    with file.open("r+") as opened:
        opened.truncate()
        opened.write(json.dumps(said))


def _aged(file: Path) -> None:
    os.utime(file, (0, time.time() - LOCK_TIMEOUT - 60))


def test_a_dead_owner_is_recognised_at_once(tmp_path: Path, other: Any) -> None:
    with pytest.raises(StoreBusy, match=rf"process {other.pid} on .* since 2"), write_lock(tmp_path):
        pass
    assert [writer.pid for writer in writers(tmp_path)] == [other.pid]
    other.kill()
    other.join()
    assert writers(tmp_path) == []
    with write_lock(tmp_path):
        assert [writer.pid for writer in writers(tmp_path)] == [os.getpid()]
    assert list((tmp_path / ".writers").iterdir()) == []


def test_a_living_one_is_never_taken_for_dead_however_long_it_says_nothing(tmp_path: Path, other: Any) -> None:
    os.kill(other.pid, signal.SIGSTOP)
    _aged(_file_of(tmp_path))
    with pytest.raises(StoreBusy), write_lock(tmp_path):
        pass
    assert len(writers(tmp_path)) == 1
    os.kill(other.pid, signal.SIGCONT)


def test_one_of_another_machine_is_dead_when_it_has_not_touched_its_file_for_long(tmp_path: Path, other: Any) -> None:
    file = _file_of(tmp_path)
    other.kill()
    other.join()
    for place in ({"host": "elsewhere"}, {"boot": "another run of this machine"}):
        _rewrite(file, **place)
        with pytest.raises(StoreBusy), write_lock(tmp_path):
            pass
    _aged(file)
    with write_lock(tmp_path):
        assert not file.exists()


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """The file of a writer of shard 2/3 on another machine."""
    file = tmp_path / ".writers" / "twin.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"pid": 7, "host": "node7", "boot": "b", "since": "noon", "shard": [2, 3]}))
    return file


def test_a_shard_waits_for_its_twin_of_another_machine_to_be_dead(
    tmp_path: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of a job array is queued again, and the node on which it was has failed."""
    slept, told = [], list[str]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            _aged(twin)  # LEASE has gone by

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with write_lock(tmp_path, (2, 3), lambda writer: told.append(str(writer))):
        assert not twin.exists()
    assert slept == [lock.POLL] * 3
    assert told == ["process 7 on node7 since noon, shard 2/3"]


def test_a_twin_that_lives_is_in_the_way_as_soon_as_it_shows(
    tmp_path: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + 1
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.utime(twin, (later, later)))
    with pytest.raises(StoreBusy, match="process 7 on node7 since noon, shard 2/3"), write_lock(tmp_path, (2, 3)):
        pass


def test_a_twin_that_holds_its_lock_and_does_nothing_is_not_waited_for_without_end(tmp_path: Path, twin: Path) -> None:
    _aged(twin)
    with twin.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreBusy, match="process 7 on node7"), write_lock(tmp_path, (2, 3)):
            pass


def test_nobody_else_is_waited_for(tmp_path: Path, twin: Path) -> None:
    told: list[object] = []
    for shard in ((1, 1), (1, 2)):
        with pytest.raises(StoreBusy), write_lock(tmp_path, shard, told.append):
            pass
    with write_lock(tmp_path, (1, 3), told.append):
        pass
    assert told == []


def test_a_file_of_nobody_is_in_the_way_of_nobody_for_long(tmp_path: Path) -> None:
    (tmp_path / ".writers").mkdir()
    for name, text in (("a", ""), ("b", "[1]"), ("c", '{"pid": 1, "host": "x"}')):
        file = tmp_path / ".writers" / f"{name}.json"
        file.write_text(text)
        with pytest.raises(StoreBusy, match="an unknown machine"), write_lock(tmp_path):
            pass
        _aged(file)
    with write_lock(tmp_path):
        pass


def test_who_was_taken_for_dead_publishes_nothing(tmp_path: Path) -> None:
    late = Store(tmp_path)
    with late.writing():
        late.begin(DESCRIPTION, plan_of("a", "b"))
        late.commit(frames_of("a"), {})
        next((tmp_path / ".writers").iterdir()).unlink()  # as another machine does after LEASE
        with Store(tmp_path).writing():
            with pytest.raises(StoreBusy, match="taken for dead, so it writes nothing more"):
                late.commit(frames_of("b"), {})
            with pytest.raises(StoreBusy):
                late.commit_failed(frames_of("b")["runs"], "why")
            with pytest.raises(StoreBusy):
                late.write_tables()
    assert late.finished() == {"a"}
    assert not list(tmp_path.rglob(".tmp-*"))


def test_shards_of_one_cut_write_side_by_side(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    with one.writing((1, 2)), two.writing((2, 2)):
        one.begin(DESCRIPTION, plan_of("a", "b"))
        one.commit(frames_of("a"), {})
        two.commit(frames_of("b"), {})
        for shard in ((1, 2), (1, 3), (2, 3), (1, 1)):
            with pytest.raises(StoreBusy), Store(tmp_path).writing(shard):
                pass
        assert len(one.writers()) == 2
    assert one.finished() == {"a", "b"}


def test_the_file_is_touched_as_long_as_the_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    with write_lock(tmp_path) as held:
        _aged(held.file)
        deadline = time.monotonic() + 60
        while held.file.stat().st_mtime < time.time() - LOCK_TIMEOUT:
            assert time.monotonic() < deadline
            time.sleep(0.01)
