"""Other losses: any bounded training direction."""

from collections.abc import Iterator

from experiments.drawing import DOTS, against_axis, shown_verdicts
from experiments.framework import Drawn, Experiment, Found, Planned


def _figures(found: Found) -> Iterator[Drawn]:
    caption = "The largest relative change of the kernel against the width, for each loss. " + DOTS
    yield "kernel_drift", against_axis(found, "width", "kernel_drift", "largest kernel drift", "kernel"), caption
    yield from shown_verdicts(found)


EXPERIMENT = Experiment(
    name="training-direction",
    statement="The kernel and the weights are as lazy under cross-entropy and Huber's loss as under the squared error.",
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
    figures=_figures,
)
