"""Other losses than the squared error: any bounded training direction."""

from ntkrun.experiments.drawing import one_law
from ntkrun.experiments.framework import Experiment, Planned

EXPERIMENT = Experiment(
    name="training-direction",
    statement="Kernel and weights stay as close to their initial values under cross-entropy and the Huber loss as "
    "under the squared error.",
    references="[J] theorem 2",
    sweeps=(
        Planned(
            "losses",
            smoke=(
                "data.samples=16",
                "data.test_samples=8",
                "training.steps=30",
                "sweep.0={grid: {training.loss: [huber], network.width: [64, 96, 128]}, seeds: 3}",
                "sweep.1={grid: {training.loss: [cross_entropy], data.targets: [one_hot], data.classes: [[3, 8]], "
                "network.width: [64, 96, 128]}, seeds: 3}",
            ),
        ),
    ),
    figures=one_law(
        "kernel_drift",
        "width",
        "kernel_drift",
        "largest kernel drift",
        "kernel",
        "Largest relative change of the kernel against the width, for each loss.",
    ),
)
