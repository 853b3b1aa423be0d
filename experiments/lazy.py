"""Kernel, weights and activations stand still during training, the more the wider the network."""

from collections.abc import Iterator

from ntkrun.evidence.estimates.summary import groups
from ntkrun.evidence.figures.against_width import kernel_drift, weight_drift
from ntkrun.experiments.drawing import shown_verdicts
from ntkrun.experiments.framework import Drawn, Experiment, Found
from ntkrun.experiments.shared import WIDTH_SWEEP


def _figures(found: Found) -> Iterator[Drawn]:
    (group,) = groups(found.only.runs, found.only.steps, found.only.layers)
    dots = " Dots: seeds; markers: means with 95 % interval; lines: power laws; wedges: the slopes that theory expects."
    yield "kernel_drift", kernel_drift(group), "The largest relative change of the kernel against the width." + dots
    yield "weight_drift", weight_drift(group), "The same of each layer's weights." + dots
    yield from shown_verdicts(found)


EXPERIMENT = Experiment(
    name="lazy",
    statement="The kernel, the weights and the activations of a network stand still during training as it widens.",
    references="[J] theorem 2; [L] figure 1; [HY]; [DG]",
    sweeps=(WIDTH_SWEEP,),
    figures=_figures,
    claims=("frozen-kernel", "lazy-weights", "frozen-activations"),
)
