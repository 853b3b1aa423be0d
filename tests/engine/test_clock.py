"""Where the time went."""

import time

import pytest
import torch

from ntkrun.engine.clock import PHASES, Clock
from ntkrun.engine.stack import run_stack
from tests.engine.test_stack_memory import _task


class _Recording:
    """Remembers the laps, whatever the time."""

    def __init__(self) -> None:
        self.laps: list[str] = []

    def lap(self, phase: str) -> None:
        self.laps.append(phase)


def test_laps_add_up_to_the_time_that_passed() -> None:
    started = time.perf_counter()
    clock = Clock(torch.device("cpu"))
    run_stack(_task(16, 2, 4), torch.device("cpu"), clock=clock)
    # All of it but the little before the clock and after its last lap: never more.
    assert 0 < sum(clock.seconds.values()) <= time.perf_counter() - started
    assert set(clock.seconds) == set(PHASES)


def test_a_training_step_and_its_measurement_end_each_phase_in_turn() -> None:
    laps = _Recording()
    task = _task(16, 2, 4, steps=2, probed=frozenset({0, 2}), keep_outputs=frozenset())
    run_stack(task, torch.device("cpu"), read_every=1, clock=laps)
    recorded = ["probes", "reading back", "flows"]  # of the state before, whose kernel is read: eigenvalues
    unprobed, probed = ["forward", *recorded, "backward", "update"], ["forward", "backward", "kernel", "probes"]
    first = laps.laps.index("update")
    assert laps.laps[first + 1 : first + 11] == [*unprobed, *probed]
    assert set(laps.laps) == set(PHASES) - {"writing"}


def test_a_clock_changes_no_number() -> None:
    task = _task(16, 2, 4, detailed=frozenset({0, 3}))
    plain = run_stack(task, torch.device("cpu"))
    timed = run_stack(task, torch.device("cpu"), clock=Clock(torch.device("cpu")))
    assert str(plain.steps) == str(timed.steps)  # nan equals nan here


def test_a_device_is_waited_for_only_by_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    Clock(torch.device("cuda", 0)).lap("forward")
    assert waited == [torch.device("cuda", 0)]
    Clock(torch.device("cpu")).lap("forward")
    run_stack(_task(16, 2, 4), torch.device("cpu"))
    assert len(waited) == 1
