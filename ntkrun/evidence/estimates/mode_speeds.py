"""Rates at which the residual of each mode of the kernel falls, compared with the prediction of the frozen kernel."""

import math

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case

MODE = ["run_id", "mode"]  # key columns of the modes table
FOLDS = 2.0  # a mode is followed until it should have fallen by e²: later the drift of the others feeds it
FASTEST = 0.1  # a mode that falls more than tenfold in one step vanishes before its slope can be measured
SLOW = 0.5  # the slowest mode is followed if it should fall by e^0.5 or more
FAINTEST = 0.3  # relative to the rms residual over modes: the others feed a smaller one at once


def speed(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the mean over modes of the measured rate of decay divided by |log|1 - ηλ_i(K̂_0)||. The
    ratio is negative for a mode that rises."""
    return slopes(case, at).groupby("run_id")["ratio"].mean()


def slowest(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the measured rate at which the slowest recorded mode, that of λ_min, falls over the whole
    training, divided by |log|1 - ηλ_min(K̂_0)||. Runs in which it starts too small to be followed, or should fall by
    less than SLOW in all, are left out."""
    modes, table = _followed(case, at)
    rank = table.index.to_series().str[1]
    last = rank == rank.groupby(level="run_id").transform("max")
    followed = ~(table["start"] < FAINTEST * table["typical"]) & (table["predicted"] * table["steps"] <= -SLOW)
    table = table[last & followed]
    chosen = modes.set_index(MODE).loc[table.index].reset_index()
    return (_slope(chosen[chosen["residual"] != 0]) / table["predicted"]).dropna().droplevel("mode")


def falling(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the share of its modes that fall."""
    modes = slopes(case, at)
    return (modes["ratio"] > 0).groupby(modes["run_id"]).mean()


def across_modes(case: Case, at: float, column: str = "") -> pd.Series:
    """Return, for each run, the exponent b of slope ~ predicted^b over the modes that fall.

    b is 1 if each mode falls at its own rate, in proportion to its eigenvalue, and 0 if all fall at the same rate. Runs
    with fewer than three such modes, or whose rates span less than a factor of 3, are left out.
    """
    modes = slopes(case, at)
    return modes[modes["ratio"] > 0].groupby("run_id").apply(_exponent, include_groups=False).dropna()


def _exponent(modes: pd.DataFrame) -> float:
    x = np.log(-modes["predicted"])
    if len(modes) < 3 or np.ptp(x) < math.log(3):
        return math.nan
    return float(np.polyfit(x, x + np.log(modes["ratio"]), 1)[0])


def slopes(case: Case, at: float) -> pd.DataFrame:
    """Return run_id, mode, `predicted` and `ratio` for every mode of every run whose residual can be followed.

    `predicted` is log|1 - ηλ_i|, per step. `ratio` is the measured slope of log |residual| divided by `predicted`.
    """
    modes, table = _followed(case, at)
    measurable = (table["predicted"] > math.log(FASTEST)) & (table["predicted"] < 0)
    measurable &= (table["predicted"] * table["steps"] <= -1) & ~(table["start"] < FAINTEST * table["typical"])
    early = modes[(modes["predicted"] * modes["step"] >= -FOLDS) & (modes["residual"] != 0)]
    table["ratio"] = _slope(early) / table["predicted"]
    return table[measurable].dropna(subset="ratio").reset_index()[[*MODE, "predicted", "ratio"]]


def _followed(case: Case, at: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of all modes, with `predicted` and the size of the residual, and a table with a row per mode: its
    prediction, its residual at the `start`, the `typical` one of its run, and the number of `steps`."""
    modes = case.modes[case.modes[AT] == at].merge(case.statistics[["run_id", "step_size"]], on="run_id")
    factor = (1 - modes["step_size"] * modes["eigenvalue"]).abs()
    modes = modes.assign(predicted=np.log(factor.clip(lower=1e-300)), residual=modes["residual"].abs())
    of_mode = modes.sort_values("step").groupby(MODE)
    table = of_mode[["predicted", "residual"]].first().rename(columns={"residual": "start"})
    typical = np.sqrt((table["start"] ** 2).groupby("run_id").transform("mean"))
    return modes, table.assign(typical=typical, steps=of_mode["step"].last())


def _slope(modes: pd.DataFrame) -> pd.Series:
    """Return the least-squares slope of log residual against the step for each mode of each run; nan for a single
    step."""
    points = modes[MODE].assign(x=modes["step"].astype(float), y=np.log(modes["residual"]))
    points[["x", "y"]] -= points.groupby(MODE)[["x", "y"]].transform("mean")
    sums = points.assign(xy=points["x"] * points["y"], xx=points["x"] ** 2).groupby(MODE)[["xy", "xx"]].sum()
    return sums["xy"] / sums["xx"].where(sums["xx"] > 0)
