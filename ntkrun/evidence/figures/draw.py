"""Figures of a sweep. They draw tables and estimates made elsewhere; none of them fits or judges.

Every function returns a matplotlib Figure of its own, without pyplot's hidden state.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.summary import Group, groups
from ntkrun.evidence.figures.against_width import kernel_drift, loss, weight_drift
from ntkrun.evidence.figures.matrices import Kernels, kernel_matrices, kernels_to_show
from ntkrun.evidence.figures.over_time import flows_over_time, layers_over_time, losses_over_time, over_time
from ntkrun.evidence.figures.pieces import KERNEL, settle, width_colours
from ntkrun.evidence.figures.saving import STYLE

Drawn = tuple[str, Figure, str]
LEVELS = "Faint dots: seeds; markers: mean and 95 % t interval."
DOTS = LEVELS[:-1] + "; lines: fitted power laws, slope with 95 % interval; wedges: the slopes that the theory expects."
MEANS = ", mean over seeds, a line a width, shaded from the least seed to the greatest (runs that are done)."


def draw_all(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels) -> Iterator[Drawn]:
    """Every figure that the tables give, as (file stem, figure, caption); one set for each group of runs that differ in
    width and seed alone."""
    colours = width_colours(runs[WIDTH]) if len(runs) else {}
    found = groups(runs, steps, layers)
    for number, group in enumerate(found):
        ending = "" if len(found) == 1 else f"_{number}"
        with mpl.rc_context(fname=STYLE):
            for stem, figure, caption in _of_group(group, steps, layers, kernels, colours):
                yield stem + ending, settle(figure), caption


def _of_group(
    group: Group, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels, colours: Mapping[Any, Any]
) -> Iterator[Drawn]:
    steps, layers = (table.merge(group.runs[["run_id", WIDTH, "seed"]], on="run_id") for table in (steps, layers))
    moved = len(steps) > 0 and bool((steps["weight_drift"] > 0).any())  # a drift of 0 has no logarithm
    if group.has_widths and moved and len(group.statistics):
        yield (
            "kernel_drift",
            kernel_drift(group),
            "Relative change of the kernel, its largest over the training, against width. " + DOTS,
        )
        yield (
            "weight_drift",
            weight_drift(group),
            "Relative change of each weight matrix, its largest over the training, against width. " + DOTS,
        )
    if group.has_widths and len(group.statistics):
        yield "loss", loss(group), "Loss at the end of the training against width. " + LEVELS
    if moved:
        yield (
            "kernel_drift_time",
            over_time(group, steps, "kernel_drift", KERNEL, colours),
            "Relative change of the kernel over time" + MEANS,
        )
        yield (
            "weight_drift_time",
            layers_over_time(group, layers, steps, colours),
            "Relative change of each weight matrix over time" + MEANS,
        )
        yield "loss_time", losses_over_time(group, steps, colours), "Training and test loss over time" + MEANS
    if moved and "linear_loss" in steps and steps["linear_loss"].notna().any():
        yield (
            "flows_time",
            flows_over_time(group, steps),
            "The network and what frozen kernels predict of it, on one clock: the linearised network under the same "
            "steps, gradient flow with the kernel of the start, and with that of infinite width from the same start. "
            "Mean over seeds (runs that are done); the narrowest and the widest network.",
        )
    chosen = kernels_to_show(group, kernels)
    if chosen:
        yield (
            "kernel",
            kernel_matrices(group, chosen),
            "The kernel on the training inputs, sorted as the data are, first, last, and the difference; seed "
            + str(chosen[0][1])
            + " of the narrowest and the widest network.",
        )
