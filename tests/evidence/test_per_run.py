"""The statistics of a run that are made of several columns, by hand on a table of three steps."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ntkrun.evidence.estimates import mode_speeds
from ntkrun.evidence.estimates.cases import AXES, cases
from ntkrun.evidence.estimates.per_run import per_run
from tests.evidence.laws import Laws, sweep

STEP_SIZE = 0.5
RUNS = pd.DataFrame({"run_id": ["a"], "status": "done", "step_size": STEP_SIZE, "limit_lambda_min": 0.04})
STEPS = pd.DataFrame(
    {
        "run_id": "a",
        "step": [0, 1, 2],
        "time": [0.0, 0.5, 1.0],
        "loss": [2.0, 3.0, 0.5],
        "lambda_max": [4.0, 5.0, 3.0],
        "lambda_min": [0.02, 0.01, 0.03],
        "residual_rate": [0.05, 0.015, 0.09],
        "weight_drift": [0.0, 0.3, 0.6],
        "linear_weight_drift": [0.0, 0.2, 0.5],
        "flow_rms_gap": [0.0, 1.0, 6.0],
        "predicted_flow_rms_gap": [0.0, 1.0, 2.0],
    }
)
LAYERS = pd.DataFrame({"run_id": ["a"], "layer": 0, "step": 0, "weight_drift": 0.0})


def _statistics(steps: pd.DataFrame = STEPS, **of_runs: object) -> pd.Series:
    return per_run(RUNS.assign(**of_runs), steps, LAYERS).iloc[0]


def test_ratios_by_hand() -> None:
    found = _statistics()
    expected = {
        "loss_ratio": 0.5 / 2,
        "late_ratio": 0.5 / 3,
        "drift_ratio": 0.6 / 0.5,
        "eigenvalue_share": 0.02 / 4,
        "eigenvalue_ratio": 0.02 / 0.04,
        "noise_ratio": (6 / 2) ** 2,
        "rate_over_bound": 0.015 / 0.01,  # the smallest of 2.5, 1.5 and 3
        "rises": True,
        "sharpness": 4.0,  # when the loss first rises
        "recovered_sharpness": STEP_SIZE * 3.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_loss_that_falls_does_not_rise() -> None:
    found = _statistics(STEPS.assign(loss=[3.0, 2.0, 1.0]))
    assert not found["rises"]
    assert found["sharpness"] == 5.0  # the largest
    assert math.isnan(found["recovered_sharpness"])


def test_an_eigenvalue_of_the_limit_that_is_zero_to_rounding_tells_no_ratio() -> None:
    assert math.isnan(_statistics(limit_lambda_min=-1e-17)["eigenvalue_ratio"])


def test_the_slowest_mode_is_that_of_the_smallest_eigenvalue() -> None:
    """Its residual falls by (1 - ηλ)^2 a step, so that the ratio of rates is 2; those of the others are 1."""
    tables = sweep(Laws(seeds=3, values=(64, 128, 256)))
    eta = tables.modes["run_id"].map(tables.runs.set_index("run_id")["step_size"])
    slowest = tables.modes["mode"] == tables.modes["mode"].max()
    factor = (1 - eta * tables.modes["eigenvalue"]).abs()
    modes = tables.modes.assign(residual=factor ** (tables.modes["step"] * np.where(slowest, 2, 1)))
    (case,) = cases(replace(tables, modes=modes), AXES["width"])
    assert mode_speeds.slowest(case, 64).to_numpy() == pytest.approx(2, rel=1e-9)
