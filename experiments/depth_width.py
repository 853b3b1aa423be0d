"""The variance of the initial kernel, as a function of depth and width."""

from collections.abc import Iterator

import pandas as pd

from ntkrun.evidence.estimates.cases import AT, AXES, cases
from ntkrun.evidence.estimates.ensembles import conditional_variances, kernel_variance
from ntkrun.evidence.estimates.intervals import pooled
from ntkrun.evidence.figures.pieces import HIDDEN_WIDTH
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, log_axes, mark, shown_verdicts, with_bars
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned


def _variances(evidence: Evidence) -> pd.DataFrame:
    """Return a table of depth, width, Var K_0(x, x)/K_inf(x, x)² with its interval `low` to `high`, and its
    prediction."""
    rows = []
    for case in cases(evidence.results["around/depth"], AXES["width"]):
        for at, runs in case.runs.groupby(AT):
            measured, interval = pooled(conditional_variances(case, at), kernel_variance)
            rows.append(
                (case.depth, int(at), measured, *interval, runs["predicted_kernel_variance"].iloc[0], len(runs))
            )
    return pd.DataFrame(rows, columns=["depth", "width", "measured", "low", "high", "predicted", "seeds"])


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table = _variances(evidence)
    figure, axes = canvas(f"relu, no biases, {table['seeds'].max()} networks per point")
    ax = axes[0, 0]
    for k, (depth, part) in enumerate(table.groupby("depth")):
        with_bars(ax, part["width"], part["measured"], part["low"], part["high"], mark(k), f"L = {depth}")
        ax.plot(part["width"], part["predicted"], "--", color=f"C{k}", linewidth=0.9)
    log_axes(ax, table["width"])
    ax.set_xlabel(HIDDEN_WIDTH)
    ax.set_ylabel("Var $K_0(x,x)\\,/\\,K_∞(x,x)^2$")
    ax.legend()
    yield (
        "kernel_variance",
        figure,
        "Relative variance of the kernel over initialisations against the width, for each depth, with 95 % intervals. "
        "Dashed: the theory to first order in 1/n, (1/n)(5(L-1) - 4(L²-1)/(3L)).",
    )
    yield from shown_verdicts(evidence)


def _rows(evidence: Evidence) -> Iterator[Row]:
    for row in _variances(evidence).itertuples():
        quantity = f"Var K_0(x,x)/K_inf², L = {row.depth}, width {row.width}"
        yield Row(quantity, row.measured, (row.low, row.high), None, row.predicted, "theory to first order in 1/n")


EXPERIMENT = Experiment(
    name="depth-against-width",
    statement="The randomness of a relu network's initial kernel is determined by the ratio of depth to width: its "
    "relative variance is (1/n)(5(L-1) - 4(L²-1)/(3L)) to first order, and where the depth grows in proportion to the "
    "width it does not fall.",
    references="[HN] Hanin and Nica 2019; docs/theory.md (derived)",
    sweeps=(
        Planned(
            "around/depth",
            smoke=("sweep={grid: {network.depth: [2, 3], network.width: [48, 96, 192]}, seeds: 200}",),
        ),
        Planned(
            "around/proportional",
            smoke=("sweep={zip: {network.depth: [2, 4, 8], network.width: [16, 32, 64]}, seeds: 200}",),
        ),
    ),
    figures=_figures,
    rows=_rows,
)
