"""What is said of a sweep's cost before it starts."""

import pytest
import torch

from ntkrun.lab.config import parse_config
from ntkrun.lab.forecast import Forecast, forecast, together
from ntkrun.lab.plan import plan, stacks

TEXT = """\
name: tiny
network: {depth: 3, width: 64}
data: {name: gaussian, samples: 8, test_samples: 4}
training: {step_size: 0.1, steps: 1000}
sweep: {seeds: 2}
"""
CPU = torch.device("cpu")


def _of(*overrides: str, device: torch.device = CPU) -> Forecast:
    return forecast(stacks(plan(parse_config(TEXT, overrides=overrides))), device)


def test_twice_the_steps_take_twice_the_time_and_no_more_memory() -> None:
    once, twice = _of(), _of("training.steps=2001")
    assert twice.seconds == pytest.approx(2 * once.seconds, rel=1e-3)
    assert twice.gib == once.gib


def test_wide_networks_and_many_seeds_take_memory_and_gpus_less_time() -> None:
    wide = _of("network.width=4096")
    parameters = 4096 * 4096 * 4 / 2**30  # GiB of one network
    assert 2 * 2 * parameters < wide.gib < 20 * parameters
    assert _of("sweep.seeds=20").gib == pytest.approx(10 * _of().gib)
    assert _of(device=torch.device("cuda")).seconds < _of().seconds / 10


def test_forecasts_follow_one_another() -> None:
    assert together([Forecast(1, 2), Forecast(3, 1)]) == Forecast(4, 2)
    assert forecast([], CPU) == together([]) == Forecast(0, 0)


def test_it_is_told_in_words() -> None:
    assert str(Forecast(10, 0.123)) == "about 1 min, at most 0.12 GiB"
    assert str(Forecast(1800, 3)) == "about 30 min, at most 3 GiB"
    assert str(Forecast(36000, 3)) == "about 10 h, at most 3 GiB"
