"""A global minimum near the start, reached at the rate of the smallest eigenvalue."""

from ntkrun.experiments.drawing import one_law
from ntkrun.experiments.framework import Experiment, Planned

EXPERIMENT = Experiment(
    name="nearby-minimum",
    statement="Parameters converge exponentially to a global minimum near their start: the loss falls to 0, the "
    "slowest mode at the rate λ_min, and the weights move the less, relative to their size, the wider the network.",
    references="[J] section 5 and theorem 2",
    sweeps=(
        Planned(
            "minimum",
            smoke=(
                "sweep={grid: {network.activation: [relu, erf], network.width: [64, 128, 256]}, seeds: 3}",
                "training.steps=100",
            ),
        ),
    ),
    figures=one_law(
        "weight_drift",
        "width",
        "weight_drift",
        "relative distance of the weights",
        "distance",
        "Largest distance of all weights from their start, relative to their size, against the width.",
    ),
)
