"""[J] figure 1: the kernel on the circle, before and after training."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.intervals import WIDTH, level, pooled
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned
from ntkrun.experiments.shared import variance_without_biases

STARTS = Planned(
    "papers/jacot-1-start",
    smoke=("sweep=[{grid: {network.width: [64]}, seeds: 40}, {grid: {network.width: [256]}, seeds: 8}]",),
)
TRAINED = Planned(
    "papers/jacot-1",
    smoke=("sweep={grid: {network.width: [32, 64]}, seeds: 4}", "training.steps=20"),
    paper=("sweep={grid: {network.width: [500, 10000]}, seeds: 10}",),
)
CHECKED = {0: "0", 12: "π/4", 24: "π/2", 36: "3π/4", 48: "π"}  # points of the 96 and their angles: theory.md, section 4


def _on_the_circle(evidence: Evidence, sweep: Planned) -> pd.DataFrame:
    """Return the kernel's row on the circle in one of the sweeps, with the angle γ of each point in (-π, π]."""
    results = evidence.results[sweep.config]
    table = with_runs(results.outputs, results.runs)
    table = table[table["part"] == "test"]
    angle = 2 * np.pi * table["input"] / (table["input"].max() + 1)
    return table.assign(angle=np.where(angle > np.pi + 1e-9, angle - 2 * np.pi, angle)).sort_values("angle")


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table = _on_the_circle(evidence, TRAINED)
    figure, axes = canvas("L = 4, relu, β = 0.1; one line per network", across=len(sizes(table)), share=True)
    for ax, width in zip(axes[0], sizes(table), strict=True):
        of_width = table[table[WIDTH] == width]
        for step, colour in zip(sorted(of_width["step"].unique()), ("0.65", "C0"), strict=True):
            at = of_width[of_width["step"] == step]
            for k, (_, run) in enumerate(at.groupby("seed")):
                label = f"step {step}" if k == 0 else None
                ax.plot(run["angle"], run["kernel_row"], color=colour, linewidth=0.6, alpha=0.8, label=label)
        first_run = at[at["seed"] == at["seed"].min()]
        ax.plot(first_run["angle"], first_run["limit_kernel_row"], "k--", linewidth=1, label=r"$K_\infty$")
        ax.set_title(f"width {width}")
        ax.set_xlabel("angle γ")
        ax.set_xticks([-np.pi, 0, np.pi], ["−π", "0", "π"])
    axes[0, 0].set_ylabel(r"$K(x_0, x(\gamma))$")
    axes[0, 0].legend()
    yield (
        "kernel_on_the_circle",
        figure,
        "The kernel K(x_0, x(γ)) with x_0 = (1, 0) and x(γ) = (cos γ, sin γ), for each network before and after "
        "training, and the infinite-width kernel. The wider the networks, the less their kernels vary between networks "
        "and change during training.",
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    yield from _rows_of_starts(_on_the_circle(evidence, STARTS))
    table = _on_the_circle(evidence, TRAINED)
    start, end = table["step"].min(), table["step"].max()
    for width in sizes(table):
        change = level(_change(table[table[WIDTH] == width], start, end))
        quantity = f"relative change of K(x_0, ·) in {end} steps, width {width}"
        yield Row(quantity, change.mean, change.interval, note="root mean square over the circle")


def _rows_of_starts(table: pd.DataFrame) -> Iterator[Row]:
    for width in sizes(table):
        at = table[(table[WIDTH] == width) & (table["input"] == 0)]
        value, interval = pooled(at.set_index("seed"), _relative_spread)
        theory = variance_without_biases(2, 4, width) ** 0.5
        quantity = f"relative spread of K_0(x_0, x_0), width {width}"
        yield Row(quantity, value, interval, None, theory, f"{len(at)} networks; first order in 1/n, without biases")
    widest = table[table[WIDTH] == sizes(table)[-1]]
    for place, angle in CHECKED.items():
        at = widest[widest["input"] == place]
        mean = level(at["kernel_row"])
        theory = at["limit_kernel_row"].iloc[0]
        quantity = f"K_0(x_0, x(γ)), γ = {angle}, width {sizes(table)[-1]}"
        yield Row(quantity, mean.mean, mean.interval, None, theory, f"mean over {len(at)} networks")


def _relative_spread(sample: pd.DataFrame) -> float:
    return float(sample["kernel_row"].std() / sample["kernel_row"].mean())


def _change(table: pd.DataFrame, start: int, end: int) -> pd.Series:
    """Return ‖K_T(x_0, ·) - K_0(x_0, ·)‖/‖K_0(x_0, ·)‖ for each seed."""
    wide = table.pivot(index=["seed", "input"], columns="step", values="kernel_row")
    squares = pd.DataFrame({"moved": (wide[end] - wide[start]) ** 2, "size": wide[start] ** 2}).groupby("seed").sum()
    return (squares["moved"] / squares["size"]) ** 0.5


EXPERIMENT = Experiment(
    name="jacot-1",
    statement="The initial kernel of a wide network is close to its infinite-width limit; the wider the network, the "
    "closer. In 200 steps of training it changes little, and less in the wider network.",
    references="[J] Jacot, Gabriel and Hongler 2018, figure 1",
    sweeps=(TRAINED, STARTS),
    figures=_figures,
    rows=_rows,
    departures="the laptop preset trains widths 500 and 2000 (the paper preset: 500 and 10000). Before training it "
    "uses the paper's widths, with more networks than the paper's ten to measure the spread. The paper does not give "
    "the number of training inputs; here it is 32. The paper shows curves and prints no numbers.",
)
