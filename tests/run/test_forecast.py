"""What is said of a sweep's cost before it starts."""

from pathlib import Path

import pytest
import torch

import ntkrun
from ntkrun.commands.progress_bar import plan_lines
from ntkrun.config.reader import parse_config
from ntkrun.plan.runs import plan, stacks
from ntkrun.plan.stacks import split_stack
from ntkrun.run import forecast as forecasts
from ntkrun.run.forecast import Forecast, dry_run_of, estimates, forecast, together
from ntkrun.run.timing import Timing

TEXT = """\
name: tiny
network: {depth: 3, width: 64}
data: {name: gaussian, samples: 8, test_samples: 4}
training: {step_size: 0.1, steps: 10}
sweep: {seeds: 2}
"""


def _of(where: Path, *overrides: str) -> Forecast:
    return forecast(dry_run_of(parse_config(TEXT, overrides=overrides), where))


def test_wide_networks_and_many_steps_take_more(tmp_path: Path) -> None:
    """The real pilots. A hundred times the steps take more than ten times the time on any machine."""
    wide, short, long = (_of(tmp_path, *o) for o in (["network.width=2048"], [], ["training.steps=10000"]))
    parameters = 2048 * 2048 * 4 / 2**30  # GiB of one network
    assert 2 * parameters < wide.gib < 24 * parameters  # with K_0 computed twice, in float64
    assert long.seconds > 10 * short.seconds


def test_each_grid_point_is_estimated_once_whatever_its_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "writing_seconds", lambda point, runs: 0.5 * runs)
    narrow, wide = stacks(plan(parse_config(TEXT, overrides=["sweep={grid: {network.width: [8, 64]}, seeds: 7}"])))
    timing = Timing({narrow.point: 1.0, wide.point: 2.0}, 2, 0.1)
    found = estimates([*split_stack(narrow, 3), wide], timing)
    assert [(each.point.network.width, len(each.runs), each.stacks) for each in found] == [(8, 7, 3), (64, 7, 1)]
    assert [each.seconds for each in found] == [10.5, 17.5]
    (whole,) = estimates([narrow], timing)
    assert whole.bytes > found[0].bytes


def test_a_dry_run_says_how_much_was_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timings(planned: list[object], device: torch.device, budget: float) -> Timing:
        return Timing({stack.point: 1.0 for stack in planned}, 1, budget / 4)  # type: ignore[attr-defined]

    monkeypatch.setattr(forecasts, "timings", timings)
    many = parse_config(TEXT, overrides=["sweep={grid: {network.width: [8, 64]}, seeds: 2}"])
    ahead = dry_run_of(many, tmp_path, budget=6.0)
    assert plan_lines(ahead)[-2] == "timed a few steps of 1 of 2 grid points in 1.5 s"
    assert ahead.as_json()["timed"] == 1
    assert ahead.as_json()["timing_seconds"] == 1.5


def test_what_is_done_takes_nothing(tmp_path: Path) -> None:
    ntkrun.run_sweep(parse_config(TEXT), tmp_path)
    assert _of(tmp_path) == together([]) == Forecast(0.0, 0.0)


def test_forecasts_follow_one_another() -> None:
    assert together([Forecast(1, 2), Forecast(3, 1)]) == Forecast(4, 2)


def test_it_is_told_in_words() -> None:
    assert str(Forecast(10, 0.123)) == "about 1 min, at most 0.12 GiB"
    assert str(Forecast(1800, 3)) == "about 30 min, at most 3 GiB"
    assert str(Forecast(36000, 3)) == "about 10 h, at most 3 GiB"
