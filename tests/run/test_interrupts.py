"""Ctrl-C and SIGTERM: once, a commit that is under way is completed; twice, everything stops."""

import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from ntkrun.engine import stack as engine_stack
from ntkrun.engine.training import State
from ntkrun.plan.runs import Stack
from ntkrun.run import commits
from ntkrun.run import interrupts as interrupting
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Store, read_results
from tests.run.test_sweep import _sweep


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> object:
    """Also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _steps_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """These stacks are so short that they would end before the next of them is."""
    monkeypatch.setitem(engine_stack.STEPS_UNREAD, "cpu", 1)


def _reached(*numbers: signal.Signals, then: Exception | None = None) -> list[str]:
    """What was reached, in something that must not be cut in two, in spite of these interrupts one after the other."""
    reached, interrupts = [], Interrupts()
    try:
        with interrupts.handled():
            with interrupts.deferred():
                for number in numbers:
                    signal.raise_signal(number)
                    reached.append(number.name)
                if then:
                    raise then
                reached.append("end")
            reached.append("afterwards")
            interrupts.raise_if_requested()
    except KeyboardInterrupt:
        reached.append("KeyboardInterrupt")
    return reached


def test_a_first_interrupt_waits_and_a_second_does_not() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    assert _reached(signal.SIGINT) == ["SIGINT", "end", "afterwards", "KeyboardInterrupt"]
    assert _reached(signal.SIGTERM, signal.SIGINT) == ["SIGTERM", "KeyboardInterrupt"]
    assert _reached(signal.SIGINT, signal.SIGALRM) == ["SIGINT", "SIGALRM", "end", "KeyboardInterrupt"]
    assert _reached() == ["end", "afterwards"]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_what_goes_wrong_within_is_not_hidden_and_what_is_ignored_stays_so() -> None:
    with pytest.raises(OSError, match="full"):
        _reached(signal.SIGINT, then=OSError("full"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert _reached(signal.SIGINT) == ["SIGINT", "end", "afterwards"]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_who_does_not_ask_is_stopped_when_grace_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupting, "GRACE", 0.05)
    interrupts = Interrupts()

    def busy() -> None:
        with interrupts.handled():
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        busy()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_threads_may_use_it() -> None:
    reached = []
    thread = threading.Thread(target=lambda: reached.extend(_reached()))
    thread.start()
    thread.join()
    assert reached == ["end", "afterwards"]


@pytest.mark.parametrize(("hold", "widths"), [(0.0, [4, 4, 4]), (60.0, [4, 4, 4, 8, 8, 8])])
def test_a_commit_that_is_under_way_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: float, widths: list[int]
) -> None:
    commit = Store.commit

    def interrupted(self: Store, *rows: object) -> None:
        signal.raise_signal(signal.SIGINT)
        commit(self, *rows)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "HOLD", hold)
    monkeypatch.setattr(Store, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(_sweep(), tmp_path, "cpu")
    assert pd.read_parquet(tmp_path / "tiny" / "runs.parquet")["network.width"].tolist() == widths
    assert not list(tmp_path.rglob(".tmp-*"))


class _Interrupting(ProgressListener):
    """Once, as the second stack is at its second step; remembers what it saw."""

    def __init__(self) -> None:
        self.steps: list[tuple[object, int]] = []

    def state(self, stack: Stack, state: State, measurement: object) -> None:
        self.steps.append((stack.point.network.width, state.step))
        if self.steps[-1] == (8, 2):
            signal.raise_signal(signal.SIGINT)


def test_once_starts_nothing_new_keeps_the_stack_in_hand_and_writes_the_tables(tmp_path: Path) -> None:
    watch = _Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(_sweep("sweep.grid.network.width=[4, 8, 16]"), tmp_path, "cpu", watch)
    assert watch.steps[-1][0] == 8
    assert pd.read_parquet(tmp_path / "tiny" / "runs.parquet")["network.width"].tolist() == [4, 4, 4]
    assert len(list((tmp_path / "tiny" / "checkpoints").iterdir())) == 1
    reached, again = watch.steps[-1][1], _Interrupting()
    run_sweep(_sweep("sweep.grid.network.width=[4, 8, 16]"), tmp_path, "cpu", again)
    assert again.steps[0] == (8, reached + 1)  # it goes on where it was


def test_twice_stops_at_once_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Store, "_assemble", again)  # as the tables are made
    with pytest.raises(KeyboardInterrupt):
        run_sweep(_sweep(), tmp_path, "cpu", _Interrupting())
    monkeypatch.undo()
    assert not (tmp_path / "tiny" / "runs.parquet").exists()
    assert read_results(tmp_path / "tiny").runs["network.width"].tolist() == [4, 4, 4]
    assert not Store(tmp_path / "tiny").writers()
