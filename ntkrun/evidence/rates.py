"""How fast the residual of each mode of the kernel falls, against what the frozen kernel says."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ntkrun.evidence.cases import AT, Case
from ntkrun.evidence.estimates import Interval, level
from ntkrun.evidence.judging import Estimate
from ntkrun.evidence.parts import Measure

FOLDS = 2.0  # a mode is followed while it should fall e²-fold: later the others' drift feeds it
FASTEST = 0.1  # a mode that falls more than tenfold in one step is gone before its slope can be seen
FAINTEST = 0.3  # of the residual's root mean square over modes: what starts smaller is fed by the others at once


@dataclass(frozen=True)
class Rates:
    """Each mode's slope of log |residual| a step over log|1 - ηλ_i(K̂_0)|, at the largest value of the axis: the mean
    over modes and, as its interval, from the lowest end to the highest of the modes' own simultaneous t intervals."""

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda confidence: self._measure(case, confidence))]

    def _measure(self, case: Case, confidence: float) -> Estimate:
        found = slopes(case, case.widest)
        by_mode = {mode: part["ratio"] for mode, part in found.groupby("mode") if len(part) >= 3}
        if not by_mode:
            what = "no mode starts large enough and falls e-fold in at least 3 runs: squared loss, more steps"
            return Estimate(trouble=what)
        levels = [level(ratios, 1 - (1 - confidence) / len(by_mode)) for ratios in by_mode.values()]
        interval = min(each.interval[0] for each in levels), max(each.interval[1] for each in levels)
        seeds = min(each.count for each in levels)
        mean = float(np.mean([each.mean for each in levels]))
        return Estimate(mean, interval, (case.widest, case.widest), seeds, f"at {case.widest:g}")


def slopes(case: Case, at: float) -> pd.DataFrame:
    """run_id, mode and `ratio`: the measured slope of log |residual| a step over the predicted one, of every mode and
    run that can be judged."""
    modes = case.modes[case.modes[AT] == at]
    modes = modes.merge(case.statistics[["run_id", "step_size"]], on="run_id")
    factor = (1 - modes["step_size"] * modes["eigenvalue"]).abs()
    modes = modes.assign(predicted=np.log(factor.clip(lower=1e-300)))
    start = modes[modes["step"] == 0].set_index(["run_id", "mode"])["residual"].abs()
    typical = np.sqrt((start**2).groupby(level="run_id").mean())
    rows = []
    for (run_id, mode), part in modes.sort_values("step").groupby(["run_id", "mode"]):
        predicted = float(part["predicted"].iloc[0])
        falls = predicted * part["step"]
        seen = part[(falls >= -FOLDS) & (part["residual"] != 0)]
        if not math.log(FASTEST) < predicted < 0 or falls.iloc[-1] > -1 or len(seen) < 2:
            continue
        if start[(run_id, mode)] < FAINTEST * typical[run_id]:
            continue
        slope = np.polyfit(seen["step"], np.log(seen["residual"].abs()), 1)[0]
        rows.append({"run_id": run_id, "mode": mode, "ratio": slope / predicted})
    return pd.DataFrame(rows, columns=["run_id", "mode", "ratio"])
