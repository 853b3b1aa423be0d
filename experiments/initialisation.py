"""Networks before training: independent Gaussian outputs, and a kernel that is deterministic and diagonal."""

from collections.abc import Iterator

import pandas as pd

from ntkrun.evidence.estimates import ensembles
from ntkrun.evidence.estimates.cases import AT, AXES, Case, cases
from ntkrun.evidence.estimates.intervals import pooled
from ntkrun.evidence.figures.pieces import HIDDEN_WIDTH
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, levels, log_axes, mark, shown_verdicts, with_bars
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned
from ntkrun.experiments.shared import variance_without_biases

WIDTHS = Planned(
    "initialisation",
    smoke=("sweep={grid: {network.width: [48, 96, 192, 384]}, seeds: 300}",),
)
KURTOSIS, CORRELATION, VARIANCE = "excess kurtosis", "correlation of squares", "variance of the kernel"
# Name, sample, statistic, True where the statistic is positive by definition.
POOLED = (
    (KURTOSIS, ensembles.conditional_variances, ensembles.excess_kurtosis, True),
    (CORRELATION, ensembles.squares, ensembles.square_correlation, False),
    (VARIANCE, ensembles.conditional_variances, ensembles.kernel_variance, True),
)
EXACT = {KURTOSIS: "predicted_kurtosis", CORRELATION: "predicted_square_correlation"}  # columns of runs


def _case(evidence: Evidence) -> Case:
    (case,) = cases(evidence.results[WIDTHS.config], AXES["width"])
    return case


def _pooled(case: Case) -> pd.DataFrame:
    """Return each statistic at each width with its interval `low` to `high`, and the value of its formula."""
    rows = []
    for name, sample, statistic, positive in POOLED:
        for at in sorted(case.statistics[AT].unique()):
            value, interval = pooled(sample(case, at), statistic, positive)
            rows.append((name, at, value, *interval, _theory(case, name, at)))
    return pd.DataFrame(rows, columns=["name", "width", "value", "low", "high", "theory"])


def _theory(case: Case, name: str, at: float) -> float:
    """Return the exact value of a statistic with biases; of the kernel's variance the first order without them."""
    if name in EXACT:
        return float(case.at(at)[EXACT[name]].iloc[0])
    return variance_without_biases(64, case.depth, at)


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    case = _case(evidence)
    seeds = case.runs.groupby(AT).size().max()
    figure, (axes,) = canvas(f"L = {case.depth}, relu, β = 0.1, {seeds} networks per width", across=2)
    for k, (name, part) in enumerate(_pooled(case).groupby("name", sort=False)):
        with_bars(axes[0], part["width"], part["value"], part["low"], part["high"], mark(k), str(name))
        axes[0].plot(part["width"], part["theory"], "--", color=f"C{k}", linewidth=0.8)
    for k, (column, name) in enumerate(
        (("distance_to_limit_0", "distance of $K_0$ from $K_∞$"), ("off_diagonal_0", "between different outputs"))
    ):
        levels(axes[1], case, column, mark(k), name)
    for ax in axes:
        log_axes(ax, case.statistics[AT])
        ax.set_xlabel(HIDDEN_WIDTH)
        ax.legend(fontsize=6)
    axes[0].set_ylabel("statistic over initialisations")
    axes[1].set_ylabel("fraction of the kernel's norm")
    yield (
        "initialisation",
        figure,
        "Left: excess kurtosis of an output, correlation of the squares of two outputs, and relative variance of the "
        "kernel over initialisations, against the width, with 95 % intervals. Dashed: the exact values of the first "
        "two, and the third to first order without biases. Right: distance of a network's kernel from the limit, and "
        "its part between different outputs.",
    )
    yield from shown_verdicts(evidence)


def _rows(evidence: Evidence) -> Iterator[Row]:
    for row in _pooled(_case(evidence)).itertuples():
        interval = (row.low, row.high)
        note = "theory exact, with biases" if row.name in EXACT else "theory to first order, without biases"
        yield Row(f"{row.name}, width {row.width:g}", row.value, interval, None, row.theory, note)


EXPERIMENT = Experiment(
    name="initialisation",
    statement="Before training, the outputs of wide networks are independent Gaussian processes with covariance "
    "Σ^(L), and the kernel is deterministic and the same for every output, with the value K_inf. So it is for every "
    "layer, and exactly so for a single one.",
    references="[J] proposition 1 and theorem 1; [Y]; [HN]",
    sweeps=(
        WIDTHS,
        Planned("outputs", smoke=("sweep={grid: {network.width: [48, 96, 192]}, seeds: 200}",)),
        Planned("one-layer", smoke=("sweep={seeds: 400}",)),
    ),
    figures=_figures,
    rows=_rows,
)
