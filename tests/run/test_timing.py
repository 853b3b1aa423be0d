"""The seconds of stacks from pilots: which states a pilot has, what follows from their times, and what is done about
grid points that are not timed. Clocks are made up: no test depends on the speed of a machine."""

from itertools import count

import numpy as np
import pytest
import torch

from ntkrun.config.reader import parse_config
from ntkrun.config.schema import Point
from ntkrun.plan.costs import ROUGH_RATE, operations
from ntkrun.plan.problem import task_of
from ntkrun.plan.runs import Stack, plan, stacks
from ntkrun.run import timing
from ntkrun.run.timing import (
    interpolated,
    pilot,
    seconds_from,
    spread_order,
    stack_seconds,
    timed_ahead,
    timings,
    writing_seconds,
)

CPU = torch.device("cpu")
TEXT = """\
name: cost
network: {depth: 3, width: 8}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 100}
probes: {every: 4, detail: 20}
sweep: {seeds: 7}
"""
WIDTHS = "sweep={grid: {network.width: [8, 16, 32, 64]}, seeds: 3}"


def _stacks(*overrides: str) -> list[Stack]:
    return stacks(plan(parse_config(TEXT, overrides=overrides)))


# ---------------------------------------------------------------- pilots


def test_a_pilot_has_a_round_of_each_kind_of_state_that_its_task_has() -> None:
    task = task_of(_stacks()[0].point, (0, 1))
    short = pilot(task, 2)
    assert short.rounds == {"plain": (0, 4), "probed": (4, 6), "probed again": (6, 8), "with details": (8, 10)}
    assert short.task.steps == 10
    assert short.task.probed == {0, 5, 6, 7, 8, 9, 10}
    assert short.task.detailed == {0, 9}
    every = task_of(_stacks("probes={every: 1, detail: none}")[0].point, (0, 1))
    assert pilot(every, 2).rounds == {"probed": (0, 2), "probed again": (2, 4)}
    assert pilot(every, 2).task.detailed == frozenset()


def test_a_task_that_is_no_longer_than_its_pilot_is_timed_whole() -> None:
    task = task_of(_stacks("training.steps=10")[0].point, (0, 1))
    assert pilot(task, 2).task is task
    still = task_of(_stacks("training.steps=0", "probes={}")[0].point, (0, 1))
    assert pilot(still, 8).task is still


def test_the_seconds_of_a_task_follow_from_those_of_each_kind_of_state() -> None:
    """100 steps: 25 probed ones after state 0 and 75 plain ones; details at 5 of them, after state 0."""
    task = task_of(_stacks()[0].point, (0, 1))
    short = pilot(task, 2)
    lasted = [10.0, 99.0, 1.0, 1.0, 1.0, 50.0, 50.0, 2.0, 4.0, 8.0, 3.0]  # state 0, then the rounds
    found = seconds_from(short, task, np.cumsum(lasted), tail=0.0)
    # A probed state takes 3 s, in the faster round, a plain one 1 s, its median; details add (8 + 3) - 2 * 3.
    assert found == pytest.approx(10 + 25 * 3 + 75 * 1 + 5 * 5, rel=1e-12)
    rows = len(task.probed) / len(short.task.probed)
    assert seconds_from(short, task, np.cumsum(lasted), tail=7.0) > found + 7 * 0.9 * rows
    whole = task_of(_stacks("training.steps=3")[0].point, (0, 1))
    assert seconds_from(pilot(whole, 2), whole, [1.0, 2.0, 3.0, 4.0], tail=0.5) == 4.5


def test_runs_that_all_diverge_at_once_take_no_steps() -> None:
    task = task_of(_stacks()[0].point, (0, 1))
    assert seconds_from(pilot(task, 2), task, [3.0], tail=0.5) == 3.5


def test_what_a_pilot_does_not_reach_is_taken_from_what_it_has() -> None:
    task = task_of(_stacks()[0].point, (0, 1))
    short = pilot(task, 2)
    assert seconds_from(short, task, [3.0, 4.0, 9.0], 0.0) == 3 + 100 * 1
    plain = [3.0, 4.0, 5.0, 6.0, 7.0]
    assert seconds_from(short, task, plain, 0.0) == 3 + 100 * 1
    assert seconds_from(short, task, [*plain, 9.0, 11.0], 0.0) == 3 + 25 * 2 + 75 * 1


def test_a_stack_is_timed_with_the_real_engine_until_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUND", 2)
    (stack,) = _stacks()
    ticks = count()
    # Each state takes a second of this clock, so that 101 states take 101 s, and the rows 1 s, scaled.
    found = stack_seconds(stack, CPU, limit=50.0, now=lambda: float(next(ticks)))
    rows = timing._numbers(task_of(stack.point)) / timing._numbers(pilot(task_of(stack.point), 2).task)
    assert found == pytest.approx(101 + rows, rel=1e-12)
    assert next(ticks) == 13  # the beginning, 11 states, the end
    ticks = count()
    assert stack_seconds(stack, CPU, limit=4.5, now=lambda: float(next(ticks))) == 101
    assert next(ticks) == 6  # the beginning, and 5 states
    ticks = count()
    assert stack_seconds(stack, CPU, limit=0.5, now=lambda: float(next(ticks))) is None  # state 0 alone


def test_a_stack_that_takes_too_long_is_timed_with_fewer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = timing.run_stack
    monkeypatch.setattr(timing, "run_stack", lambda task, *a, **k: asked.append(len(task.seeds)) or real(task, *a, **k))
    (stack,) = _stacks("sweep.seeds=16", "training.steps=1")
    ticks = count()
    alone = Stack(stack.point, stack.runs[:1])
    limit = timing.FIRST * operations(alone) / 2  # its first state takes as long as FIRST of its two
    found = stack_seconds(stack, CPU, limit, rate=1.0, now=lambda: float(next(ticks)))
    assert asked == [1]
    assert found == pytest.approx(3 * operations(stack) / operations(alone), rel=1e-12)


def test_a_stack_whose_first_state_takes_too_long_is_not_timed() -> None:
    (stack,) = _stacks("sweep.seeds=1")
    assert stack_seconds(stack, CPU, limit=0.9 * timing.FIRST * operations(stack) / 101, rate=1.0) is None


def test_a_stack_that_fails_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the engine is broken")

    monkeypatch.setattr(timing, "run_stack", fail)
    assert stack_seconds(_stacks()[0], CPU, 1.0) is None
    found = timings(_stacks(), CPU)
    assert found.timed == 0
    assert all(seconds > 0 for seconds in found.per_run.values())


# ---------------------------------------------------------------- grid points


@pytest.mark.parametrize("number", [1, 2, 3, 7, 12, 100])
def test_grid_points_are_timed_in_an_order_that_spreads(number: int) -> None:
    order = spread_order(number)
    assert sorted(order) == list(range(number))
    assert order[:2] == [0, number - 1][:number]
    assert spread_order(9) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert spread_order(0) == []


def test_seconds_per_operation_are_interpolated_between_timed_grid_points() -> None:
    a, b, c, d = (stack.point for stack in _stacks(WIDTHS))
    costs = {a: 1.0, b: 100.0, c: 10000.0, d: 1e6}
    found = interpolated({a: 1.0, c: 100.0}, costs)
    # The rate falls like cost^(-1/2) between the two, and like cost^(-1/4) beyond.
    assert [found[point] for point in (a, b, c, d)] == pytest.approx([1, 10, 100, 10**3.5], rel=1e-12)
    assert interpolated({b: 1.0, c: 10000.0}, costs)[d] == pytest.approx(1e6, rel=1e-12)  # a rate that rises stays
    assert interpolated({b: 1.0}, costs)[a] == pytest.approx(0.01, rel=1e-12)
    assert interpolated({}, costs)[c] == 10000 / ROUGH_RATE


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The width and the limit of each grid point that was timed: here at once, a second for each run."""
    asked: list[tuple[int, float]] = []

    def seconds(stack: Stack, device: torch.device, limit: float, rate: float) -> float:
        asked.append((stack.point.network.width, limit))
        return float(len(stack.runs))

    monkeypatch.setattr(timing, "stack_seconds", seconds)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 0.0)
    return asked


def test_the_cheapest_and_the_most_expensive_grid_point_are_timed_first(timed: list[tuple[int, float]]) -> None:
    found = timings(_stacks(WIDTHS), CPU, budget=6.0)
    assert timed == [(8, 2.0), (64, 2.0), (32, 2.0), (16, 2.0)]
    assert found.timed == 4
    assert set(found.per_run.values()) == {1.0}


def test_grid_points_that_take_the_same_time_are_timed_once(timed: list[tuple[int, float]]) -> None:
    found = timings(_stacks("sweep={grid: {training.step_size: [0.1, 0.2, 0.3]}, seeds: 3}"), CPU)
    assert len(timed) == 1
    assert found.timed == len(found.per_run) == 3


def test_timing_ends_with_its_budget(timed: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(step=2)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    found = timings(_stacks(WIDTHS), CPU, budget=5.0)  # each look at the clock takes 2 s
    assert [width for width, _ in timed] == [8, 64]
    assert found.timed == 2
    assert len(found.per_run) == 4


def test_long_sweeps_alone_are_timed_before_they_begin(timed: list[tuple[int, float]]) -> None:
    said: list[int] = []
    assert timed_ahead(_stacks(WIDTHS), CPU, said.append) == {}
    assert said == []
    many = _stacks(WIDTHS, "training.steps=1000000")
    assert set(timed_ahead(many, CPU, said.append).values()) == {1.0}
    assert said == [4]
    rough = sum(operations(stack) for stack in many) / ROUGH_RATE
    assert timed[0][1] == pytest.approx(min(10.0, 0.02 * rough) / 3, rel=1e-12)


def test_writing_takes_as_long_as_there_are_numbers() -> None:
    def seconds(*overrides: str) -> float:
        point: Point = _stacks(*overrides)[0].point
        return writing_seconds(point, 10)

    assert writing_seconds(_stacks()[0].point, 20) == 2 * seconds()
    assert seconds("probes.every=1") > seconds()
    assert seconds("probes.outputs=[first, 4, last]") > seconds("probes.outputs=[]")
