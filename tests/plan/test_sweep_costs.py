"""Estimates of a sweep: which grid points, how many stacks, and when it is worth measuring."""

import pandas as pd
import pytest
import torch
from rich.console import Console

from ntkrun.commands import progress_bar
from ntkrun.config.reader import parse_config
from ntkrun.engine.costs import Rates
from ntkrun.plan import costs
from ntkrun.plan.costs import estimates, rough_seconds, seconds_of
from ntkrun.plan.runs import Stack, plan, stacks
from ntkrun.plan.stacks import split_stack
from ntkrun.run.task import Done

CPU = torch.device("cpu")
RATES = Rates((4e-11, 3e-11, 3e-11), (8e-11, 7e-11, 7e-11), 1e-11, 4e-11, (1e-4, 4e-3), 1.5e-6, 1.5e-6, 1e-8, 2e-5)
TEXT = """\
name: cost
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 6}
sweep: {grid: {network.width: [8, 64]}, seeds: 7}
"""


def _stacks(*overrides: str) -> list[Stack]:
    return stacks(plan(parse_config(TEXT, overrides=overrides)))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The precisions whose rates were measured: here at once, and the same at every call."""
    asked: list[torch.dtype] = []

    def measure(device: torch.device, dtype: torch.dtype) -> Rates:
        asked.append(dtype)
        return RATES

    monkeypatch.setattr(costs, "measure", measure)
    return asked


def test_each_grid_point_is_estimated_once_whatever_its_stacks(measured: list[torch.dtype]) -> None:
    narrow, wide = _stacks()
    found = estimates([*split_stack(narrow, 3), wide], CPU)
    assert [(each.point.network.width, len(each.runs), each.stacks) for each in found] == [(8, 7, 3), (64, 7, 1)]
    (whole,) = estimates([narrow], CPU)
    assert whole.seconds < found[0].seconds < 3.1 * whole.seconds  # three stacks do some things three times
    assert whole.bytes > found[0].bytes
    assert measured == [torch.float32] * 2  # once a call


def test_short_sweeps_are_not_measured_and_long_ones_are(measured: list[torch.dtype]) -> None:
    short, _ = seconds_of(_stacks(), CPU)
    assert short is rough_seconds
    assert measured == []
    many = _stacks("training.steps=100000")
    seconds, from_rates = seconds_of(many, CPU)
    assert from_rates
    assert [seconds(stack) for stack in many] == [each.seconds for each in estimates(many, CPU)]


def test_the_bar_begins_with_the_estimate_and_goes_over_to_what_is_seen(
    measured: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "seconds_of", lambda missing, device: (lambda stack: 40.0, True))
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    said: list[str] = []
    monkeypatch.setattr(progress_bar.TerminalProgress, "_say", lambda self, line: said.append(line))
    progress = progress_bar.TerminalProgress(Console(), CPU)
    narrow, wide = _stacks()
    progress.begin([narrow, wide], 0, 0)
    assert said == ["14 runs to do, 0 of 14 already done, about 80 s left"]
    now[0] = 10.0  # a quarter of the estimate: 40 s are left at a pace of (10 + 20)/(40 + 20)
    ended = pd.DataFrame({"status": ["done"] * 7, "reason": ""})
    progress.committed(narrow, Done({"runs": ended, "steps": pd.DataFrame()}, {}, 10.0, {}))
    assert said[-1].endswith("7/14 runs, 20 s left")
    progress.split(wide, "do not fit into memory")
    assert said[-1] == "width 64: 7 runs at once do not fit into memory; continuing with 4"
