"""Where training stops being stable, in a sweep over step sizes."""

import math
from dataclasses import dataclass

import pandas as pd

from ntkrun.evidence.cases import Case
from ntkrun.evidence.estimates import Interval
from ntkrun.evidence.judging import Estimate
from ntkrun.evidence.parts import Measure

RISES = 1 + 1e-3  # times its smallest value so far: a loss that rises so has risen beyond rounding


@dataclass(frozen=True)
class Edge:
    """ηλ_max(K̂_0) of each network from which its loss rises: between the largest at which none rose (or, where the two
    overlap, the smallest at which one did) and the smallest at which one did (the largest at which none did)."""

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: edge(case.trained))]


def edge(trained: pd.DataFrame) -> Estimate:
    """The edge from per_run of all runs that were trained, diverged ones too."""
    if trained["step_size"].nunique() < 3:
        return Estimate(trouble="fewer than 3 step sizes were tried: sweep training.step_size")
    edges = sharpness(trained)
    rose = (trained["loss_rise"] > RISES) | (trained["status"] == "diverged")
    calm, restless = edges[~rose].dropna(), edges[rose].dropna()
    if calm.empty or restless.empty:
        what = "the loss rises in no run" if restless.empty else "the loss rises in every run"
        side = "larger" if restless.empty else "smaller"
        return Estimate(trouble=f"{what} (ηλ_max from {edges.min():.3g} to {edges.max():.3g}): try {side} step sizes")
    low, high = sorted((float(calm.max()), float(restless.min())))
    span = (float(edges.min()), float(edges.max()))
    return Estimate(math.sqrt(low * high), (low, high), span, len(trained), remark=_fates(trained, rose))


def _fates(trained: pd.DataFrame, rose: pd.Series) -> str:
    """What became of the runs whose loss rose: some come back to a small loss, with a flatter kernel (a catapult)."""
    diverged = int((trained["status"] == "diverged").sum())
    back = trained[rose & (trained["status"] == "done") & (trained["loss_ratio"] < 1)]
    ends = (back["step_size"] * back["lambda_max_end"]).max()
    catapults = f"{len(back)} of the runs whose loss rose ended below its start"
    return f"{catapults}{f', with ηλ_max at most {ends:.2f}' if len(back) else ''}; {diverged} diverged"


def sharpness(trained: pd.DataFrame) -> pd.Series:
    """η λ_max(K̂_0) of each run."""
    return trained["step_size"] * trained["lambda_max_0"]
