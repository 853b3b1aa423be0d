"""Ctrl-C and SIGTERM: once, a commit that is under way is completed; twice, everything stops."""

import signal
import threading
from pathlib import Path

import pandas as pd
import pytest

from ntkrun.lab.execute import run_sweep
from ntkrun.lab.interrupts import finished_first
from ntkrun.lab.plan import Stack
from ntkrun.lab.store import Store, read_results
from ntkrun.lab.watch import Nobody
from tests.lab.test_execute import _sweep


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> object:
    """Also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def _within(*numbers: signal.Signals, then: Exception | None = None) -> list[str]:
    """What was reached in spite of these interrupts, one after the other."""
    reached = []
    try:
        with finished_first():
            for number in numbers:
                signal.raise_signal(number)
                reached.append(number.name)
            if then:
                raise then
            reached.append("end")
    except KeyboardInterrupt:
        reached.append("KeyboardInterrupt")
    return reached


def test_a_first_interrupt_waits_and_a_second_does_not() -> None:
    assert _within(signal.SIGINT) == ["SIGINT", "end", "KeyboardInterrupt"]
    assert _within(signal.SIGINT, signal.SIGTERM) == ["SIGINT", "KeyboardInterrupt"]
    assert _within() == ["end"]


def test_what_goes_wrong_within_is_not_hidden_and_what_is_ignored_stays_so() -> None:
    with pytest.raises(OSError, match="full"):
        _within(signal.SIGINT, then=OSError("full"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert _within(signal.SIGINT) == ["SIGINT", "end"]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_threads_may_use_it() -> None:
    reached = []

    def work() -> None:
        with finished_first():
            reached.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached


def test_a_commit_that_is_under_way_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Store.commit

    def interrupted(self: Store, *rows: object) -> None:
        signal.raise_signal(signal.SIGINT)
        commit(self, *rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(_sweep(), tmp_path, "cpu")
    assert pd.read_parquet(tmp_path / "tiny" / "runs.parquet")["network.width"].tolist() == [4, 4, 4]
    assert not list(tmp_path.rglob(".tmp-*"))


class _Interrupting(Nobody):
    def state(self, stack: Stack, state: object, measurement: object) -> None:
        if stack.point.network.width == 8:
            signal.raise_signal(signal.SIGINT)


def test_twice_stops_at_once_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Store, "_assemble", again)  # as the tables are made
    with pytest.raises(KeyboardInterrupt):
        run_sweep(_sweep(), tmp_path, "cpu", _Interrupting())
    monkeypatch.undo()
    assert not (tmp_path / "tiny" / "runs.parquet").exists()
    assert read_results(tmp_path / "tiny").runs["network.width"].tolist() == [4, 4, 4]
    assert not Store(tmp_path / "tiny").busy()
