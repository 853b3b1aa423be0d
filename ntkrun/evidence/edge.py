"""Where training stops being stable, in a sweep over step sizes."""

import math
from dataclasses import dataclass

import pandas as pd

from ntkrun.evidence.cases import Case
from ntkrun.evidence.estimates import Interval
from ntkrun.evidence.judging import BRACKET, Estimate
from ntkrun.evidence.parts import Measure


@dataclass(frozen=True)
class Edge:
    """ηλ_max(K̂_t) beyond which the loss rises: between the largest of runs whose loss never rose, over their whole
    training, and the smallest at which one first did. Where the two overlap, the interval is the overlap."""

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
    edges = trained["step_size"] * trained["sharpness"]
    rose = trained["rises"].astype(bool) | (trained["status"] == "diverged")
    calm, restless = edges[~rose].dropna(), edges[rose].dropna()
    if calm.empty or restless.empty:
        what = "the loss rises in no run" if restless.empty else "the loss rises in every run"
        side = "larger" if restless.empty else "smaller"
        return Estimate(trouble=f"{what} (ηλ_max from {edges.min():.3g} to {edges.max():.3g}): try {side} step sizes")
    low, high = sorted((float(calm.max()), float(restless.min())))
    span = (float(edges.min()), float(edges.max()))
    seeds = int(trained["seed"].nunique())
    return Estimate(
        math.sqrt(low * high),
        (low, high),
        span,
        seeds,
        trouble=f"{seeds} seeds; it takes at least 3" if seeds < 3 else "",
        remark=_fates(trained, rose),
        kind=BRACKET,
        cure="step sizes in between would tell",
    )


def _fates(trained: pd.DataFrame, rose: pd.Series) -> str:
    """What became of the runs whose loss rose: some come back to a small loss, with a flatter kernel (a catapult)."""
    diverged = int((trained["status"] == "diverged").sum())
    back = trained[rose & (trained["status"] == "done") & (trained["loss_ratio"] < 1)]
    ends = (back["step_size"] * back["lambda_max_end"]).max()
    catapults = f"{len(back)} of the runs whose loss rose ended below its start"
    return f"{catapults}{f', with ηλ_max at most {ends:.2f}' if len(back) else ''}; {diverged} diverged"
