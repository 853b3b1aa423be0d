"""The quantities that the proof of lazy weights bounds."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from ntkrun.evidence.estimates.cases import AXES, Case, cases
from ntkrun.evidence.figures.pieces import HIDDEN_WIDTH
from ntkrun.experiments.drawing import canvas, levels, mark, shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment
from ntkrun.experiments.shared import WIDTH_SWEEP

STARTS = (
    ("weight_operator_0.1", r"$\Vert w\Vert_{op}/\sqrt{n}$, hidden"),
    ("activation_norm_0.1", r"$\Vert a\Vert/\sqrt{n}$"),
    ("backprop_norm_0.1", r"$\Vert\partial F/\partial z\Vert$"),
)
MOVES = (
    ("growth", "$|A(t)-A(0)|$"),
    ("activation_drift.1", r"$\Vert a_t-a_0\Vert/\sqrt{n}$"),
    ("subnetwork_kernel_drift.1", "kernel of the sub-network"),
)


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    for case in cases(evidence.only, AXES["width"]):
        sigma = case.first["network.activation"]
        yield (
            f"proof-{sigma}",
            _against_width(case),
            f"With {sigma}: the quantities in the proof, for the second layer where there are several. Left: initial "
            "norms, which must not grow with the width. Right: changes during training, which must fall at least like "
            "n^(-1/2). Dots: seeds; markers: means.",
        )
    yield from shown_verdicts(evidence)


def _against_width(case: Case) -> Figure:
    figure, (axes,) = canvas(case.first["network.activation"], across=2)
    for ax, columns, title in zip(axes, (STARTS, MOVES), ("initial norm", "largest change"), strict=True):
        for k, (column, name) in enumerate(columns):
            levels(ax, case, column, mark(k), name)
        ax.set_ylabel(title)
        ax.set_xlabel(HIDDEN_WIDTH)
        ax.legend(fontsize=6)
    return figure


EXPERIMENT = Experiment(
    name="proof",
    statement="The proof of lazy weights rests on four facts: norms at the start are bounded, the kernels of "
    "sub-networks hardly change during training, weights move at a speed of O(√m/√n), and a sum of norms changes by "
    "O(1/√n).",
    references="[J] theorem 2, proof",
    sweeps=(WIDTH_SWEEP,),
    figures=_figures,
    claims=("bounded-initialisation", "bounded-backpropagation", "subnetwork-kernels", "weight-speed", "growth-bound"),
)
