"""[L] figure 3: the network compared with its linearisation."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes

from ntkrun.evidence.estimates.intervals import WIDTH, WIDTHS_PER_LAYER, fit_exponent, level
from ntkrun.evidence.estimates.per_run import last_steps
from ntkrun.evidence.figures.pieces import TIME, log_scale, width_axis, width_colours
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned


def _steps(evidence: Evidence) -> pd.DataFrame:
    return with_runs(evidence.only.steps, evidence.only.runs)


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table, first = _steps(evidence), evidence.only.runs.iloc[0]
    title = f"digits, L = {first['network.depth']}, {first['network.activation']}, N = {first['data.samples']}"
    figure, axes = canvas(title, across=2, down=2)
    (loss, weights), (gap, widths) = axes
    _side_by_side(loss, table, "loss", "linear_loss", "training loss")
    log_scale(loss)
    loss.legend(fontsize=6)
    _side_by_side(weights, table, "weight_drift", "linear_weight_drift", r"$\|W_t-W_0\|/\|W_0\|$")
    _gaps_over_time(gap, table)
    _gaps_against_width(widths, table)
    for ax in (loss, weights, gap):
        ax.set_xlabel(TIME)
    yield (
        "network_and_linearised",
        figure,
        "Top: training loss and change of the weights, for networks and their linearisations at initialisation under "
        "the same steps; mean over seeds, narrowest and widest network. Bottom: the root mean square distance between "
        "the outputs of network and linearisation over the training inputs, against time, and its largest value "
        "during training against the width.",
    )


def _side_by_side(ax: Axes, table: pd.DataFrame, network: str, linear: str, label: str) -> None:
    shades = width_colours(sizes(table))
    for width in (sizes(table)[0], sizes(table)[-1]):
        mean = table[table[WIDTH] == width].groupby("step")[["time", network, linear]].mean()
        ax.plot(mean["time"], mean[network], color=shades[width], label=f"network, width {width}")
        ax.plot(mean["time"], mean[linear], "--", color=shades[width], label="its linearisation")
    ax.set_ylabel(label)


def _gaps_over_time(ax: Axes, table: pd.DataFrame) -> None:
    shades = width_colours(sizes(table))
    for width in sizes(table):
        started = table[(table[WIDTH] == width) & (table["step"] > 0)]  # at the start the two agree up to rounding
        mean = started.groupby("step")[["time", "linear_rms_gap"]].mean()
        ax.plot(mean["time"], mean["linear_rms_gap"], color=shades[width], label=str(width))
    ax.set_ylabel(r"root mean square of $F_t-F_t^{\mathrm{lin}}$")
    log_scale(ax)
    ax.legend(title="width", title_fontsize=6, fontsize=6, ncols=2)


def _gaps_against_width(ax: Axes, table: pd.DataFrame) -> None:
    largest = _largest(table)
    for k, (column, name) in enumerate((("linear_rms_gap", "training inputs"), ("test_linear_rms_gap", "test inputs"))):
        mean = largest.groupby(WIDTH)[column].mean()
        ax.plot(largest[WIDTH], largest[column], ".", color=f"C{k}", alpha=0.4, markeredgewidth=0)
        ax.plot(mean.index, mean, "os"[k] + "-", color=f"C{k}", label=name)
    ax.set_ylabel("largest value during training")
    log_scale(ax)
    width_axis(ax, largest[WIDTH])
    ax.legend(fontsize=6)


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the largest gaps of each run during training."""
    return table.groupby([WIDTH, "seed"])[["linear_rms_gap", "test_linear_rms_gap"]].max().reset_index()


def _rows(evidence: Evidence) -> Iterator[Row]:
    table = _steps(evidence)
    largest, last = _largest(table), last_steps(table)
    smallest = WIDTHS_PER_LAYER * evidence.only.runs["network.depth"].iloc[0]
    for column, inputs in (("linear_rms_gap", "training"), ("test_linear_rms_gap", "test")):
        fit = fit_exponent(largest[WIDTH], largest[column], smallest)
        quantity = f"slope of the largest RMSE to the linearised network, {inputs} inputs"
        expected = "expected: -1 for smooth σ; between -1 and -1/2 for relu"
        yield Row(quantity, fit.slope, fit.interval, note=expected if fit.status.ok else str(fit.status))
    for width in sizes(table):
        gap, at_end = level(largest[largest[WIDTH] == width]["linear_rms_gap"]), last[last[WIDTH] == width]
        yield Row(f"largest RMSE to the linearised network, width {width}", gap.mean, gap.interval)
        for network, linear, name in (
            ("test_loss", "test_linear_loss", "test loss"),
            ("weight_drift", "linear_weight_drift", "‖W_t−W_0‖"),
        ):
            ratio = level(at_end[network] / at_end[linear])
            quantity = f"{name}: network / linearised network, width {width}"
            yield Row(quantity, ratio.mean, ratio.interval, theory=1.0, note="at the last step; 1 at infinite width")


EXPERIMENT = Experiment(
    name="lee-3",
    statement="The outputs and the loss of a network follow those of its linearisation under the same steps, more "
    "closely as the width grows.",
    references="[L] Lee et al. 2019, figure 3 and theorem 2.1",
    sweeps=(
        Planned(
            "papers/lee-3",
            smoke=(
                "data={name: digits, samples: 16, test_samples: 16}",
                "sweep={grid: {network.width: [64, 128, 256]}, seeds: 3}",
                "training.steps=60",
            ),
            paper=(
                "data.samples=256",
                "sweep={grid: {network.width: [256, 512, 1024, 2048]}, seeds: 5}",
                "training.steps=4096",
            ),
        ),
    ),
    figures=_figures,
    rows=_rows,
    departures="digits instead of images of objects; 64 inputs, 512 steps and widths up to 1024 (the paper preset: "
    "the paper's 256 inputs and width 2048 with narrower ones, and 4096 steps, because the paper does not give their "
    "number); the change of all weights instead of the paths of single weights. Everything else is as in the paper: "
    "five hidden relu layers, σ_w² = 2, σ_b² = 0.1, η = 0.01.",
)
