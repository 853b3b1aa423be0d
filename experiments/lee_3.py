"""[L] figure 3: the network against its linearisation."""

from collections.abc import Iterator

import pandas as pd

from experiments.drawing import canvas, sizes, with_runs
from experiments.framework import Drawn, Experiment, Found, Planned, Row
from experiments.shared import WIDTH_SWEEP
from ntkrun.evidence.estimates import WIDTH, level
from ntkrun.evidence.figures.pieces import TIME, log_scale, width_axis, width_colours

SWEEPS: tuple[Planned, ...] = (WIDTH_SWEEP,)


def _steps(found: Found) -> pd.DataFrame:
    return with_runs(found.only.steps, found.only.runs)


def _figures(found: Found) -> Iterator[Drawn]:
    table, first = _steps(found), found.only.runs.iloc[0]
    shades = width_colours(sizes(table))
    title = f"digits, L = {first['network.depth']}, {first['network.activation']}, N = {first['data.samples']}"
    figure, axes = canvas(title, across=3)
    loss, gap, widths = axes[0]
    for width in (sizes(table)[0], sizes(table)[-1]):
        mean = table[table[WIDTH] == width].groupby("step")[["time", "loss", "linear_loss"]].mean()
        loss.plot(mean["time"], mean["loss"], color=shades[width], label=f"network, width {width}")
        loss.plot(mean["time"], mean["linear_loss"], "--", color=shades[width], label="its linearisation")
    for width in sizes(table):
        started = table[(table[WIDTH] == width) & (table["step"] > 0)]  # at the start the two are one, to rounding
        mean = started.groupby("step")[["time", "linear_gap"]].mean()
        gap.plot(mean["time"], mean["linear_gap"], color=shades[width], label=str(width))
    largest = table.groupby([WIDTH, "seed"])[["linear_gap", "test_linear_gap"]].max().reset_index()
    for k, (column, name) in enumerate((("linear_gap", "training inputs"), ("test_linear_gap", "test inputs"))):
        mean = largest.groupby(WIDTH)[column].mean()
        widths.plot(largest[WIDTH], largest[column], ".", color=f"C{k}", alpha=0.4, markeredgewidth=0)
        widths.plot(mean.index, mean, "os"[k] + "-", color=f"C{k}", label=name)
    for ax, label in ((loss, "training loss"), (gap, r"$\max_x|F_t-F_t^{\mathrm{lin}}|$"), (widths, "largest gap")):
        ax.set_ylabel(label)
        log_scale(ax)
        ax.set_xlabel(TIME)
    width_axis(widths, sizes(table))
    gap.legend(title="width", title_fontsize=6, fontsize=6, ncols=2)
    loss.legend(fontsize=6)
    widths.legend(fontsize=6)
    yield (
        "network_and_linearised",
        figure,
        "Left: training loss of the networks and of their linearisations at the start, trained by the same steps, mean "
        "over seeds, narrowest and widest network. Middle: the largest distance between the two over the training "
        "inputs. Right: its largest over the training, against the width.",
    )


def _rows(found: Found) -> Iterator[Row]:
    table = _steps(found)
    last = table[table["step"] == table["step"].max()]
    for width in sizes(table):
        of_width = table[table[WIDTH] == width]
        gap = level(of_width.groupby("seed")["linear_gap"].max())
        yield Row(f"largest distance to the linearised network, width {width}", gap.mean, gap.interval)
        ratio = last[last[WIDTH] == width]["test_loss"] / last[last[WIDTH] == width]["test_linear_loss"]
        found_ratio = level(ratio)
        what = f"test loss over the linearised network's, width {width}"
        yield Row(what, found_ratio.mean, found_ratio.interval, theory=1.0, note="at the last step; 1 in the limit")


EXPERIMENT = Experiment(
    name="lee-3",
    statement="The outputs and the loss of a network follow those of its linearisation under the same steps, ever more "
    "closely as the width grows.",
    references="[L] Lee et al. 2019, figure 3 and theorem 2.1",
    sweeps=SWEEPS,
    figures=_figures,
    rows=_rows,
    claims=("linear-dynamics",),
    departures="the sweep over widths on digits that other experiments use, not one network on images of objects; the "
    "largest distance over inputs instead of the root mean square; no single weights.",
)
