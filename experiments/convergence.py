"""Exponential convergence of each mode, and the global minimum."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.figures.pieces import TIME, log_scale, width_colours
from ntkrun.experiments.drawing import MARKERS, canvas, shown_verdicts, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment
from ntkrun.experiments.shared import WIDTH_SWEEP, of_activations

SHOWN = (0, 1, 3, 7)  # ranks of the modes that are drawn
FLOOR = 1e-6  # predictions below are not drawn: those of a frozen kernel have no rounding errors


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    for sigma, group in of_activations(evidence):
        yield (
            f"modes-{sigma}",
            _modes_and_losses(evidence, group.runs, sigma),
            f"With {sigma}. Left: the residual of one network along eigenvectors of its initial kernel (markers), and "
            "the prediction of that kernel, |1-ηλ_i|^k (dashed). Right: training loss, mean over seeds, one line per "
            "width.",
        )
    yield from shown_verdicts(evidence)


def _modes_and_losses(evidence: Evidence, runs: pd.DataFrame, sigma: str) -> Figure:
    modes = with_runs(evidence.only.modes, runs, "step_size")
    losses = with_runs(evidence.only.steps, runs)
    widest = sizes(modes)[-1]
    network = modes[(modes[WIDTH] == widest) & (modes["seed"] == modes["seed"].min())]
    figure, (axes,) = canvas(sigma, across=2)
    for k, mode in enumerate(SHOWN):
        of_mode = network[network["mode"] == mode].sort_values("step")
        if of_mode.empty:
            continue
        factor = (1 - of_mode["step_size"] * of_mode["eigenvalue"]).abs()
        predicted = of_mode["residual"].iloc[0] * factor ** of_mode["step"]
        axes[0].plot(of_mode["time"], of_mode["residual"].abs(), MARKERS[k], color=f"C{k}", label=f"mode {mode + 1}")
        axes[0].plot(of_mode["time"], predicted.where(predicted > FLOOR), "--", color=f"C{k}", linewidth=0.9)
    shades = width_colours(sizes(losses))
    for width, part in losses.groupby(WIDTH):
        mean = part.groupby("step")[["time", "loss"]].mean()
        axes[1].plot(mean["time"], mean["loss"], color=shades[width], label=str(width))
    log_scale(axes[1])
    axes[0].set_yscale("log")
    axes[0].set_ylim(bottom=max(FLOOR, float(np.nanmin(network["residual"].abs()))))
    axes[0].set_title(f"width {widest}")
    axes[1].set_title("all widths")
    axes[0].set_ylabel("residual along a mode of $K_0$")
    axes[1].set_ylabel("training loss")
    axes[0].legend(fontsize=6)
    axes[1].legend(title="width", title_fontsize=6, fontsize=6, ncols=2)
    for ax in axes:
        ax.set_xlabel(TIME)
    return figure


EXPERIMENT = Experiment(
    name="convergence",
    statement="Under squared error, the residual along each mode of the initial kernel decays exponentially at the "
    "rate of its eigenvalue, and training reaches the global minimum.",
    references="[J] section 5; [L] equation 8",
    sweeps=(WIDTH_SWEEP,),
    figures=_figures,
    claims=("exponential-convergence", "global-minimum", "positive-kernel"),
)
