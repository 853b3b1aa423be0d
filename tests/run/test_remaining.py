"""The time that a sweep still takes, and the file and the bar that tell of it, by made-up clocks."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from ntkrun.commands import progress_bar
from ntkrun.config.reader import parse_config
from ntkrun.plan.runs import Stack, plan, stacks
from ntkrun.plan.stacks import halved, split_stack
from ntkrun.run import progress as listeners
from ntkrun.run import remaining
from ntkrun.run.progress import Listeners, ProgressFile, ProgressListener
from ntkrun.run.remaining import Remaining
from ntkrun.run.sweep import run_sweep
from ntkrun.run.task import Done
from ntkrun.store.progress import Progress, is_progress, progress_name, read_progress, write_progress

TEXT = """\
name: cost
network: {depth: 3, width: 8}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 12}
probes: {every: 4, detail: none}
sweep: {seeds: 6}
"""
WIDTHS = "sweep={grid: {network.width: [8, 64]}, seeds: 7}"
PROBED = {0, 4, 8, 12}


@pytest.fixture(autouse=True)
def no_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the seconds for writing tables, which have a test of their own."""
    monkeypatch.setattr(remaining, "writing_seconds", lambda point, runs: 0.0)


def _stacks(*overrides: str) -> list[Stack]:
    return stacks(plan(parse_config(TEXT, overrides=overrides)))


def _run(left: Remaining, stack: Stack, now: float, last: int = 12) -> float:
    """Bring a stack to a step: 5 s for state 0, 3 s for a probed one, 1 s for a plain one: 5 + 3 * 3 + 9 in all."""
    for step in range(last + 1):
        now += 5 if step == 0 else 3 if step in PROBED else 1
        left.state(stack, step, now)
    return now


# ---------------------------------------------------------------- remaining


def test_a_stack_is_extrapolated_by_the_kinds_of_its_states() -> None:
    (stack,) = _stacks()
    left = Remaining([stack], 1, 0.0, {})
    now = _run(left, stack, 0.0, 4)
    assert now == 11
    assert left.seconds(now) == 2 * 3 + 6 * 1
    assert left.seconds(now + 0.5) == 11.5
    now = _run(left := Remaining([stack], 1, 0.0, {}), stack, 0.0, 1)  # no probed state yet: three times a plain one
    assert left.seconds(now) == 3 * 3 + 8 * 1
    now = _run(left := Remaining([stack], 1, 0.0, {}), stack, 0.0)
    assert left.seconds(now) == 0


def test_states_with_details_are_a_kind_of_their_own() -> None:
    (stack,) = _stacks("probes={every: 1, detail: {log_spaced: 4}}")  # details at 0, 1, 3 and 12
    left = Remaining([stack], 1, 0.0, {})
    for step, now in enumerate([5.0, 12.0, 14.0, 21.0]):  # 7 s with details and 2 s without
        left.state(stack, step, now)
    assert left.seconds(21.0) == 8 * 2 + 7
    left = Remaining([stack], 1, 0.0, {})
    left.state(stack, 0, 5.0)
    left.state(stack, 1, 15.0)  # no other kind has been seen: a probed state takes 3/10 of one with details
    assert left.seconds(15.0) == pytest.approx(9 * 3 + 2 * 10, rel=1e-12)


def test_stacks_of_a_grid_point_take_what_the_ended_ones_took_per_run() -> None:
    parts = split_stack(_stacks()[0], 2)
    left = Remaining(parts, 1, 100.0, {})
    now = _run(left, parts[0], 100.0, 4)
    assert left.seconds(now) == 12 + 2 * 23  # the one that runs tells of the others
    now = _run(left := Remaining(parts, 1, 100.0, {}), parts[0], 100.0)
    left.end(parts[0], 23.0, now + 1)
    assert left.seconds(now + 1) == 46
    now = _run(left, parts[1], now + 1, 4)
    assert left.seconds(now) == 12 + 23


def test_stacks_may_be_committed_late() -> None:
    parts = split_stack(_stacks()[0], 2)
    left = Remaining(parts, 1, 0.0, {})
    now = _run(left, parts[0], 0.0)
    now = _run(left, parts[1], now, 4)
    assert left.seconds(now) == 12 + 23
    left.end(parts[0], 23.0, now)
    assert left.seconds(now) == 12 + 23
    left = Remaining(parts, 1, 0.0, {})
    now = _run(left, parts[2], _run(left, parts[1], _run(left, parts[0], 0.0)))
    assert left.seconds(now) == 0
    for part in parts:
        left.end(part, 23.0, now)
    assert left.seconds(now) == 0


def test_a_stack_that_is_split_is_begun_again_in_parts() -> None:
    (stack,) = _stacks()
    left = Remaining([stack], 1, 0.0, {})
    now = _run(left, stack, 0.0, 4)
    left.split(stack)
    half, other = halved(stack, ())
    now = _run(left, half, now)
    left.end(half, 23.0, now)
    assert left.seconds(now) == 23
    left.end(other, 0.0, now)  # it failed
    assert left.seconds(now) == 0


def test_other_grid_points_are_interpolated_and_known_times_count() -> None:
    narrow, wide = _stacks(WIDTHS)
    left = Remaining([narrow, wide], 1, 0.0, {})
    now = _run(left, narrow, 0.0)
    left.end(narrow, 23.0, now)
    assert left.seconds(now) == pytest.approx(23 * left.costs[wide.point] / left.costs[narrow.point], rel=1e-12)
    left = Remaining([narrow, wide], 1, 0.0, {narrow.point: 1.0, wide.point: 10.0})
    assert left.seconds(0.0) == 77
    left.state(narrow, 0, 3.0)
    assert left.seconds(3.0) == 74
    now = _run(left, narrow, 0.0)
    assert left.seconds(now) == pytest.approx(70, rel=1e-12)


def test_a_resumed_stack_has_only_its_later_states_before_it() -> None:
    (stack,) = _stacks()
    left = Remaining([stack], 1, 0.0, {})
    left.state(stack, 6, 2.0)
    left.state(stack, 7, 3.0)
    left.state(stack, 8, 6.0)
    assert left.seconds(6.0) == 3 * 1 + 3


def test_workers_share_the_work_and_tell_only_of_its_end() -> None:
    parts = split_stack(_stacks()[0], 1)
    left = Remaining(parts, 2, 0.0, {parts[0].point: 10.0})
    assert left.seconds(0.0) == 30
    assert left.seconds(5.0) == 25
    left.end(parts[0], 10.0, 10.0)
    left.end(parts[1], 10.0, 10.0)
    assert left.seconds(10.0) == 20
    assert left.seconds(1000.0) == 10  # half of what has not ended at most is taken as done


def test_writing_the_tables_comes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remaining, "writing_seconds", lambda point, runs: 2.0 * runs)
    (stack,) = _stacks()
    left = Remaining([stack], 1, 0.0, {})
    now = _run(left, stack, 0.0)
    assert left.seconds(now) == 12


# ---------------------------------------------------------------- the bar


def _done(stack: Stack, seconds: float) -> Done:
    ended = pd.DataFrame({"status": ["done"] * len(stack.runs), "reason": ""})
    return Done({"runs": ended, "steps": pd.DataFrame()}, {}, seconds, {})


def test_the_bar_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], list[str]()
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress_bar.TerminalProgress, "_say", lambda self, line: said.append(line))
    progress = progress_bar.TerminalProgress(Console())
    narrow, wide = _stacks(WIDTHS)
    progress.timing(2)
    progress.timed({narrow.point: 1.0, wide.point: 10.0})
    progress.begin([narrow, wide], 0, 0)
    assert said == ["timing a few steps of 2 grid points", "14 runs to do, 0 of 14 already done, about 77 s left"]
    now[0] = 14.0
    progress.committed(narrow, _done(narrow, 14.0))
    assert said[-1].endswith("7/14 runs, 70 s left")
    progress.split(wide, "do not fit into memory")
    assert said[-1] == "width 64: 7 runs at once do not fit into memory; continuing with 4"
    progress.committed(wide, _done(wide, 70.0))
    assert said[-1].endswith("14/14 runs")


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("shard", [(1, 1), (2, 3)])
def test_the_file_tells_what_runs_and_the_time_left(
    shard: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(listeners.time, "monotonic", lambda: now[0])
    narrow, wide = _stacks(WIDTHS)
    file = ProgressFile(tmp_path, shard)
    file.timed({narrow.point: 1.0, wide.point: 10.0})
    file.begin([narrow, wide], 4, 1, 1)
    (begun,) = read_progress(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [progress_name(shard)]
    assert (begun.planned, begun.finished, begun.failed, begun.seconds_left) == (19, 4, 1, 77.0)
    assert (begun.shard, begun.workers, begun.now) == (shard, 1, None)
    now[0] = 14.0
    file.committed(narrow, _done(narrow, 14.0))
    file.failed(wide, "it is broken", 0, tmp_path)
    (ended,) = read_progress(tmp_path)
    assert (ended.finished, ended.failed, ended.seconds_left) == (11, 8, 0.0)


def test_a_sweep_leaves_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "WRITE_EVERY", 0.0)
    seen: list[Progress] = []

    class Reading(ProgressListener):
        def state(self, *_: object) -> None:
            seen.extend(read_progress(tmp_path / "cost"))

    run_sweep(parse_config(TEXT), tmp_path, "cpu", Reading())
    (told,) = read_progress(tmp_path / "cost")
    assert (told.planned, told.finished, told.seconds_left, told.now) == (6, 6, 0.0, None)
    label = {"label": "width 8", "step": 4, "steps": 12}
    (at_four,) = [progress.now for progress in seen if progress.now and progress.now["step"] == 4]
    assert at_four.items() >= label.items()
    assert at_four["loss"] > 0
    assert at_four["kernel_drift"] > 0
    assert {p.now["loss"] for p in seen if p.now and p.now["step"] not in PROBED} == {None}


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()
    write_progress(tmp_path, TOLD)
    assert read_progress(tmp_path) == []


NOW = {"label": "width 8", "step": 3, "steps": 9, "loss": 0.5, "kernel_drift": None}
TOLD = Progress("2026-01-02T03:04:05+00:00", 7, (1, 1), 9, 3, 1, 1, 60.0, NOW)
DAMAGE = {
    "written": [None, 3, "yesterday", "2026-01-02T03:04:05"],
    "pid": [-1, True, "7", 2**60],
    "shard": [None, [1], [1, "1"], [1, 1, 1], {"1": 1}],
    "planned": [1.5, None],
    "seconds_left": [None, -1, True, float("nan"), float("inf"), 10**400, "60"],
    "now": [3, [], {}, NOW | {"label": 3}, NOW | {"step": -1}, NOW | {"loss": "0"}, NOW | {"more": 1}],
}


def test_a_damaged_file_is_ignored(tmp_path: Path) -> None:
    write_progress(tmp_path, TOLD)
    assert read_progress(tmp_path) == [TOLD]
    path = tmp_path / "progress.json"
    whole = json.loads(path.read_text())
    for name, values in DAMAGE.items():
        for value in values:
            path.write_text(json.dumps(whole | {name: value}))
            assert read_progress(tmp_path) == [], (name, value)
    for text in ("", "{", "[]", "null", json.dumps(whole | {"more": 1}), "[" * 100000, json.dumps(whole) + " " * 2**15):
        path.write_text(text)
        assert read_progress(tmp_path) == []
    path.unlink()
    (tmp_path / "elsewhere.json").write_text(json.dumps(whole))
    path.symlink_to("/etc/hostname")
    assert read_progress(tmp_path) == []


def test_names_of_files_of_progress() -> None:
    assert [is_progress(progress_name(shard)) for shard in ((1, 1), (3, 12))] == [True, True]
    assert not any(map(is_progress, ("progress.txt", "progress-1.json", "progress-1-of-2-of-3.json", "xprogress.json")))


def test_time_passes_since_a_file_was_written() -> None:
    moment = datetime.fromisoformat(TOLD.written)
    assert TOLD.left_at(moment + timedelta(seconds=20)) == 40
    assert TOLD.left_at(moment + timedelta(hours=2)) == 0
    assert TOLD.left_at(moment - timedelta(seconds=20)) == 60  # clocks of machines differ


# ---------------------------------------------------------------- several listeners


def test_several_listeners_receive_every_event() -> None:
    events = [name for name, value in vars(ProgressListener).items() if callable(value)]
    heard: list[tuple[int, str, tuple[object, ...]]] = []

    class Hearing(ProgressListener):
        def __init__(self, number: int) -> None:
            for name in events:
                setattr(self, name, lambda *what, name=name: heard.append((number, name, what)))

    both = Listeners(Hearing(1), Hearing(2))
    for name in events:
        arguments = tuple(range(getattr(ProgressListener, name).__code__.co_argcount - 1))
        getattr(both, name)(*arguments)
        assert heard[-2:] == [(1, name, arguments), (2, name, arguments)]
