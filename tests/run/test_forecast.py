"""What is said of a sweep's cost before it starts."""

from pathlib import Path

import ntkrun
from ntkrun.config.reader import parse_config
from ntkrun.run.forecast import Forecast, dry_run_of, forecast, together

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
    small, wide, long = _of(tmp_path), _of(tmp_path, "network.width=2048"), _of(tmp_path, "training.steps=10000")
    parameters = 2048 * 2048 * 4 / 2**30  # GiB of one network
    assert 2 * parameters < wide.gib < 20 * parameters
    assert wide.seconds > small.seconds
    assert long.seconds > 10 * small.seconds


def test_what_is_done_takes_nothing(tmp_path: Path) -> None:
    ntkrun.run_sweep(parse_config(TEXT), tmp_path)
    assert _of(tmp_path) == together([]) == Forecast(0.0, 0.0)


def test_forecasts_follow_one_another() -> None:
    assert together([Forecast(1, 2), Forecast(3, 1)]) == Forecast(4, 2)


def test_it_is_told_in_words() -> None:
    assert str(Forecast(10, 0.123)) == "about 1 min, at most 0.12 GiB"
    assert str(Forecast(1800, 3)) == "about 30 min, at most 3 GiB"
    assert str(Forecast(36000, 3)) == "about 10 h, at most 3 GiB"
