"""Trained networks as a Gaussian process."""

from collections.abc import Iterator

from ntkrun.evidence.estimates.ensembles import over_seeds
from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.figures.pieces import width_colours
from ntkrun.experiments.drawing import MARKERS, canvas, shown_verdicts, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table = with_runs(evidence.only.outputs, evidence.only.runs)
    table = table[(table["part"] == "test") & (table["step"] == table["step"].max())]
    figure, (axes,) = canvas(f"{table['seed'].nunique()} networks per width", across=2)
    shades = width_colours(sizes(table))
    for k, width in enumerate(sizes(table)):
        at = over_seeds(table[table[WIDTH] == width])
        look = {"marker": MARKERS[k % 7], "linestyle": "", "color": shades[width]}
        axes[0].plot(at["input"], at["mean"], label=f"width {width}", **look)
        axes[1].plot(at["input"], at["std"], **look)
    points = table.groupby("input")[["limit_mean", "limit_variance", "nngp_mean", "nngp_variance"]].first()
    for law, line, name in (("limit", "k--", "infinite width"), ("nngp", "C3:", "NNGP posterior (a wrong theory)")):
        axes[0].plot(points.index, points[f"{law}_mean"], line, linewidth=0.9, label=name)
        axes[1].plot(points.index, points[f"{law}_variance"] ** 0.5, line, linewidth=0.9)
    for ax, title in zip(axes, ("mean over networks", "standard deviation over networks"), strict=True):
        ax.set_ylabel(title)
        ax.set_xlabel("test input, around the circle")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    yield (
        "ensemble",
        figure,
        "Mean and standard deviation over initialisations of the trained networks' outputs on each test input, and the "
        "infinite-width prediction at the same time; dotted what networks would be if only their last layer were "
        "trained.",
    )
    yield from shown_verdicts(evidence)


EXPERIMENT = Experiment(
    name="limit-ensemble",
    statement="As the width grows, the outputs of networks trained from many initialisations approach the Gaussian "
    "process of the infinite-width limit, in mean and covariance, at any time, and not the Bayesian posterior (NNGP).",
    references="[L] equations 13 to 16; [J] figure 2",
    sweeps=(
        Planned("ensemble", smoke=("sweep={grid: {network.width: [48, 96, 192]}, seeds: 20}", "training.steps=40")),
    ),
    figures=_figures,
)
