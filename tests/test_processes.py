"""Work shared between processes: each piece once, in order, whatever becomes of the workers."""

import os
import time
from functools import partial

import pytest

from ntkrun.processes import in_processes, usable_cores


def _square_and_process(number: int) -> tuple[int, int]:
    time.sleep(0.1)  # the first ones are handed on meanwhile, and belong to the worker however late it starts
    return number**2, os.getpid()


def test_workers_take_their_share_and_the_results_stand_in_order() -> None:
    squares, processes = zip(*in_processes(_square_and_process, range(8), 1), strict=True)
    assert squares == tuple(k**2 for k in range(8))
    assert len(set(processes)) == 2
    assert {process for _, process in in_processes(_square_and_process, range(3), 0)} == {os.getpid()}


def test_what_a_killed_worker_took_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntkrun.processes._prepare_worker", partial(os._exit, 1))
    assert in_processes(abs, [-1, -2, -3], 1) == [1, 2, 3]


@pytest.mark.parametrize("numbers", [["0", "1", "1", "1"], ["1", "1", "1", "0"]])
def test_an_error_in_any_process_is_raised_here(numbers: list[str]) -> None:
    with pytest.raises(IndexError):  # not taken for the end of the work
        in_processes(_first, [number if number == "1" else "" for number in numbers], 1)


def _first(text: str) -> str:
    return text[0]


def test_there_is_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
