"""The kernel freezes for every σ."""

from collections.abc import Iterator

from experiments.drawing import DOTS, against_axis, shown_verdicts
from experiments.framework import Drawn, Experiment, Found, Planned


def _figures(found: Found) -> Iterator[Drawn]:
    caption = "The largest relative change of the kernel against the width, for each σ. " + DOTS
    yield "kernel_drift", against_axis(found, "width", "kernel_drift", "largest kernel drift", "exponent"), caption
    yield from shown_verdicts(found)


EXPERIMENT = Experiment(
    name="every-activation",
    statement="The kernel freezes whatever the nonlinearity: like 1/n for smooth ones, between n^(-1/2) and 1/n for "
    "ones with kinks.",
    references="[J] theorem 2; [HY]; [DG]",
    sweeps=(
        Planned(
            "around/activations",
            smoke=(
                "sweep={grid: {network.activation: [relu, erf, tanh, silu], network.width: [48, 96, 192]}, seeds: 3}",
                "data.samples=8",
                "training.steps=30",
            ),
        ),
    ),
    figures=_figures,
)
