"""[J] figure 2: the functions that networks learn, and the Gaussian process of the infinite-width limit."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pandas as pd
from scipy import stats

from ntkrun.evidence.estimates.ensembles import inside
from ntkrun.evidence.estimates.intervals import WIDTH, level
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import band, canvas, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned

SHOWN = 10  # networks of a width in the figure, as in the paper
OUTER = float(stats.norm.ppf(0.9))  # standard deviations from the median to the 10th and to the 90th percentile


def _on_the_circle(evidence: Evidence) -> pd.DataFrame:
    """Return the output of each network on each test input at the last step, with the angle of that input."""
    table = with_runs(evidence.only.outputs, evidence.only.runs)
    table = table[table["part"] == "test"]
    angle = 2 * np.pi * (table["input"] + 0.5) / (table["input"].max() + 1)  # test points are shifted by half a step
    return table.assign(angle=angle - np.where(angle > np.pi, 2 * np.pi, 0.0)).sort_values("angle")


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table = _on_the_circle(evidence)
    figure, axes = canvas("L = 4, relu, β = 0.1; one line per network", across=len(sizes(table)), share=True)
    for ax, width in zip(axes[0], sizes(table), strict=True):
        of_width = table[table[WIDTH] == width]
        first_run = of_width[of_width["seed"] == of_width["seed"].min()]
        half = OUTER * first_run["limit_variance"] ** 0.5
        band(
            ax,
            first_run["angle"],
            first_run["limit_mean"] - half,
            first_run["limit_mean"] + half,
            "C1",
            "10th to 90th percentile",
        )
        ax.plot(first_run["angle"], first_run["limit_mean"], "--", color="C1", label="limit's median")
        for k, (_, run) in enumerate(islice(of_width.groupby("seed"), SHOWN)):
            ax.plot(run["angle"], run["value"], color="C0", linewidth=0.6, label="networks" if k == 0 else None)
        ax.set_title(f"width {width}")
        ax.set_xlabel("angle γ")
        ax.set_xticks([-np.pi, 0, np.pi], ["−π", "0", "π"])
    axes[0, 0].set_ylabel("$F_T(x(γ))$")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    yield (
        "learned_functions",
        figure,
        "The function of each network after training on four points of the unit circle, and the 10th, 50th and 90th "
        "percentiles of the Gaussian process of the infinite-width limit.",
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    table = _on_the_circle(evidence)
    for width in sizes(table):
        share = level(inside(table[table[WIDTH] == width], OUTER))
        quantity = f"share of the circle between the limit's 10th and 90th percentile, width {width}"
        yield Row(quantity, share.mean, share.interval, None, 0.8, "mean over seeds")


EXPERIMENT = Experiment(
    name="jacot-2",
    statement="Near convergence, networks trained on four points of the circle are samples of the Gaussian process of "
    "the infinite-width limit; wide networks follow its percentiles.",
    references="[J] Jacot, Gabriel and Hongler 2018, figure 2",
    sweeps=(
        Planned(
            "papers/jacot-2",
            smoke=("sweep={grid: {network.width: [32, 64]}, seeds: 4}", "training.steps=100"),
            paper=("sweep.seeds=10",),
        ),
    ),
    figures=_figures,
    rows=_rows,
    departures="widths, steps and the ten networks of the figure are the paper's, except in the smoke preset, which "
    "has fewer; the shares of the laptop preset are those of 24 networks. The paper does not give its points and "
    "targets: here the points are evenly spaced and the targets are ±0.4. The limit is evaluated at the time of the "
    "last step instead of at infinity.",
)
