"""[L] figure 1: the change of kernel and weights during training, against the width."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.intervals import WIDTH, Exponent, fit_exponent
from ntkrun.evidence.estimates.per_run import done, per_run
from ntkrun.evidence.figures.pieces import width_axis
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned

# Column of per_run, its name, the paper's slope, the smallest width of the fit.
LINES = (
    ("kernel_drift", "kernel", -0.80, 2**7),
    ("weight_drift.0", "input weights", -0.52, 2**8),
    ("weight_drift.1", "hidden weights", -1.0, 2**8),
    ("weight_drift.3", "output weights", -0.55, 2**8),
)
# log2 of the relative change of the kernel at widths 2^4 to 2^12, after 2^17 steps on MNIST.
PAPER_KERNEL = (1.45, 0.42, -0.45, -0.88, -1.68, -2.43, -3.28, -4.0, -4.9)


def _statistics(evidence: Evidence) -> pd.DataFrame:
    return done(per_run(evidence.only.runs, evidence.only.steps, evidence.only.layers))


def _slopes(table: pd.DataFrame) -> Mapping[str, Exponent]:
    return {column: fit_exponent(table[WIDTH], table[column], smallest) for column, _, _, smallest in LINES}


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table = _statistics(evidence)
    slopes = _slopes(table)
    first = evidence.only.runs.iloc[0]
    figure, axes = canvas(f"L = 4, relu, N = {first['data.samples']}, {first['training.steps']} steps", height=3.4)
    ax = axes[0, 0]
    for k, (column, name, paper, _) in enumerate(LINES):
        fit, means = slopes[column], table.groupby(WIDTH)[column].mean()
        ours = f"{fit.slope:.2f} [{fit.interval[0]:.2f}, {fit.interval[1]:.2f}]" if fit else "no slope"
        label = f"{name}: {ours} (paper {paper:.2f})".replace("-", "−")
        ax.plot(table[WIDTH], table[column], ".", color=f"C{k}", alpha=0.4, markeredgewidth=0)
        ax.plot(means.index, means, "osD^"[k], color=f"C{k}", label=label)
        if fit:
            span = np.array(fit.fit_range)
            ax.plot(span, np.exp(fit.log_constant) * span**fit.slope, color=f"C{k}")
    shown = [(2.0**k, 2.0**y) for k, y in zip(range(4, 13), PAPER_KERNEL, strict=True) if 2**k <= table[WIDTH].max()]
    if shown:
        ax.plot(*zip(*shown, strict=True), "x", color="k", label="kernel in the paper (MNIST)")
    width_axis(ax, table[WIDTH])
    ax.set_yscale("log")
    ax.set_ylabel("largest relative change")
    figure.legend(loc="outside lower center", ncols=1)
    fitted = "; ".join(f"{name}, {_widths(slopes[column])}" for column, name, _, _ in LINES)
    yield (
        "changes_against_width",
        figure,
        "Largest relative change during training of the kernel and of the weights of the first, a hidden and the last "
        f"layer, against the width. Dots: seeds; markers: means; lines: power laws, fitted to: {fitted}; crosses: the "
        "values of the paper.",
    )


def _widths(fit: Exponent) -> str:
    """Return the widths of a fit; 'too few widths' where there is no slope."""
    if not fit.status.ok:
        return "too few widths"
    return f"widths {fit.fit_range[0]:g} to {fit.fit_range[1]:g}" + ("" if fit.asymptotic else ", curved")


def _rows(evidence: Evidence) -> Iterator[Row]:
    table = _statistics(evidence)
    for (_, name, paper, smallest), fit in zip(LINES, _slopes(table).values(), strict=True):
        quantity = f"slope of the change of the {name}, n >= {smallest}"
        yield Row(quantity, fit.slope, fit.interval, paper, None, _widths(fit))


EXPERIMENT = Experiment(
    name="lee-1",
    statement="The relative change of the kernel and of each layer's weights during training decreases with the "
    "width: like n^(-1/2) for input and output weights, like 1/n for hidden weights, and between the two for the "
    "kernel of a relu network.",
    references="[L] Lee et al. 2019, figure 1",
    sweeps=(
        Planned(
            "papers/lee-1",
            smoke=(
                "sweep={grid: {network.width: [16, 32, 64, 128]}, seeds: 3}",
                "data.samples=32",
                "training.steps=30",
            ),
            paper=(
                "sweep={grid: {network.width: [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]}, seeds: 5}",
                "training={step_size: 1.0, steps: 131072}",
                "data={name: openml, dataset: mnist_784, samples: 128, test_samples: 0}",
            ),
        ),
    ),
    figures=_figures,
    rows=_rows,
    departures="512 steps of size 1/λ_max instead of 2^17 of size 1, widths up to 2048 instead of 4096, and digits of "
    "8 x 8 pixels instead of MNIST (the paper preset uses the paper's values). Training time and data set determine "
    "the height of a curve, the width determines its slope.",
)
