"""Unequal widths: the narrowest layer decides."""

from ntkrun.experiments.drawing import one_law
from ntkrun.experiments.framework import Experiment, Planned

EXPERIMENT = Experiment(
    name="unequal-widths",
    statement="The limit may be taken layer by layer: with unequal widths, the narrowest hidden layer decides how much "
    "the kernel changes.",
    references="[J] theorem 2 (limits in sequence)",
    sweeps=(
        Planned(
            "unequal",
            smoke=(
                "sweep={grid: {network.width: [[64, 128], [256, 128], [256, 512]]}, seeds: 3}",
                "training.steps=60",
            ),
        ),
    ),
    figures=one_law(
        "kernel_drift",
        "width",
        "kernel_drift",
        "largest kernel drift",
        "exponent",
        "Largest relative change of the kernel against the width of the narrowest hidden layer.",
    ),
)
