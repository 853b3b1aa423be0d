"""The kernel freezes for every activation function σ."""

from ntkrun.experiments.drawing import one_law
from ntkrun.experiments.framework import Experiment, Planned

EXPERIMENT = Experiment(
    name="every-activation",
    statement="The kernel freezes for every activation function: its change falls like 1/n for smooth ones, and "
    "between n^(-1/2) and 1/n for those with kinks.",
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
    figures=one_law(
        "kernel_drift",
        "width",
        "kernel_drift",
        "largest kernel drift",
        "exponent",
        "Largest relative change of the kernel against the width, for each activation function.",
    ),
)
