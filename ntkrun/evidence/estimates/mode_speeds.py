"""How fast the residual of each mode of the kernel falls, against what the frozen kernel says."""

import math

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.cases import AT, Case

MODE = ["run_id", "mode"]  # of the table of modes
FOLDS = 2.0  # a mode is followed while it should fall e²-fold: later the others' drift feeds it
FASTEST = 0.1  # a mode that falls more than tenfold in one step is gone before its slope can be seen
FAINTEST = 0.3  # of the residual's root mean square over modes: what starts smaller is fed by the others at once


def speed(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, the mean over modes of the ratio of a mode's measured slope to |log|1 - ηλ_i(K̂_0)||; negative of
    one that rises."""
    return slopes(case, at).groupby("run_id")["ratio"].mean()


def falling(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, the share of the modes that fall at all."""
    modes = slopes(case, at)
    return (modes["ratio"] > 0).groupby(modes["run_id"]).mean()


def across_modes(case: Case, at: float, column: str = "") -> pd.Series:
    """Of each run, the exponent b of slope ~ predicted^b over its modes that fall: 1 where each falls at a rate of its
    own, in proportion to its eigenvalue; 0 where all fall alike. Needs modes whose rates span a factor 3."""
    modes = slopes(case, at)
    return modes[modes["ratio"] > 0].groupby("run_id").apply(_exponent, include_groups=False).dropna()


def _exponent(modes: pd.DataFrame) -> float:
    x = np.log(-modes["predicted"])
    if len(modes) < 3 or np.ptp(x) < math.log(3):
        return math.nan
    return float(np.polyfit(x, x + np.log(modes["ratio"]), 1)[0])


def slopes(case: Case, at: float) -> pd.DataFrame:
    """run_id, mode, `predicted` (log|1 - ηλ_i|, a step) and `ratio`, the measured slope of log |residual| over it, of
    every mode and run whose residual can be followed."""
    modes = case.modes[case.modes[AT] == at].merge(case.statistics[["run_id", "step_size"]], on="run_id")
    factor = (1 - modes["step_size"] * modes["eigenvalue"]).abs()
    modes = modes.assign(predicted=np.log(factor.clip(lower=1e-300)), residual=modes["residual"].abs())
    of_mode = modes.sort_values("step").groupby(MODE)
    found = of_mode[["predicted", "residual"]].first().rename(columns={"residual": "start"})
    typical = np.sqrt((found["start"] ** 2).groupby("run_id").transform("mean"))
    told = (found["predicted"] > math.log(FASTEST)) & (found["predicted"] < 0)
    told &= (found["predicted"] * of_mode["step"].last() <= -1) & ~(found["start"] < FAINTEST * typical)
    seen = modes[(modes["predicted"] * modes["step"] >= -FOLDS) & (modes["residual"] != 0)]
    found["ratio"] = _slope(seen) / found["predicted"]
    return found[told].dropna(subset="ratio").reset_index()[[*MODE, "predicted", "ratio"]]


def _slope(modes: pd.DataFrame) -> pd.Series:
    """The slope of log residual against the step, by least squares, of each mode of each run; nan of a single step."""
    points = modes[MODE].assign(x=modes["step"].astype(float), y=np.log(modes["residual"]))
    points[["x", "y"]] -= points.groupby(MODE)[["x", "y"]].transform("mean")
    sums = points.assign(xy=points["x"] * points["y"], xx=points["x"] ** 2).groupby(MODE)[["xy", "xx"]].sum()
    return sums["xy"] / sums["xx"].where(sums["xx"] > 0)
