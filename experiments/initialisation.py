"""Networks before training: Gaussian and independent outputs, a deterministic and diagonal kernel."""

from collections.abc import Iterator

import numpy as np

from experiments.drawing import canvas, levels, log_axes, mark, shown_verdicts
from experiments.framework import Drawn, Experiment, Found, Planned, Row
from experiments.shared import of_relu
from ntkrun.evidence import ensembles
from ntkrun.evidence.cases import AT, AXES, Case, cases
from ntkrun.evidence.figures.pieces import HIDDEN_WIDTH

POOLED = (
    ("excess kurtosis", ensembles.conditional_variances, ensembles.excess_kurtosis, "output_kurtosis"),
    ("correlation of squares", ensembles.squares, ensembles.square_correlation, "output_square_correlation"),
    ("variance of the kernel", ensembles.conditional_variances, ensembles.kernel_variance, "kernel_variance"),
)


def _case(found: Found) -> Case:
    (case,) = cases(found.only, AXES["width"])
    return case


def _figures(found: Found) -> Iterator[Drawn]:
    case = _case(found)
    widths = np.array(sorted(case.statistics[AT].unique()))
    seeds = case.runs.groupby(AT).size().max()
    figure, (axes,) = canvas(f"L = {case.depth}, relu, β = 0.1, {seeds} networks a width", across=2)
    for k, (name, sample, statistic, formula) in enumerate(POOLED):
        axes[0].plot(widths, [statistic(sample(case, at)) for at in widths], "osD"[k], color=f"C{k}", label=name)
        axes[0].plot(
            widths, [of_relu(formula, 64, case.depth, at) for at in widths], "--", color=f"C{k}", linewidth=0.8
        )
    for k, (column, name) in enumerate(
        (("distance_to_limit_0", "$K_0$ off $K_∞$"), ("off_diagonal_0", "between two outputs"))
    ):
        levels(axes[1], case, column, mark(k), name)
    for ax in axes:
        log_axes(ax, widths)
        ax.set_xlabel(HIDDEN_WIDTH)
        ax.legend(fontsize=6)
    axes[0].set_ylabel("over initialisations, dimensionless")
    axes[1].set_ylabel("share of the kernel's norm")
    yield (
        "initialisation",
        figure,
        "Left: excess kurtosis of an output, correlation of the squares of two, relative variance of the kernel, over "
        "initialisations, against the width; dashed: the finite-width formulas for relu without biases. Right: how far "
        "one network's kernel is off the limit, and the part of it between different outputs.",
    )
    yield from shown_verdicts(found)


def _rows(found: Found) -> Iterator[Row]:
    case = _case(found)
    for name, sample, statistic, formula in POOLED:
        for at in sorted(case.statistics[AT].unique()):
            value = statistic(sample(case, at))
            note = "theory: without biases"
            yield Row(f"{name}, width {at:g}", value, theory=of_relu(formula, 64, case.depth, at), note=note)


EXPERIMENT = Experiment(
    name="initialisation",
    statement="Before training, the outputs of wide networks are independent Gaussians with the covariance Σ^(L), and "
    "the kernel is deterministic and the same for every output.",
    references="[J] proposition 1 and theorem 1; [Y]; [HN]",
    sweeps=(
        Planned(
            "initialisation",
            smoke=("sweep={grid: {network.width: [48, 96, 192]}, seeds: 200}",),
        ),
    ),
    figures=_figures,
    rows=_rows,
)
