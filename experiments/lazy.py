"""The wider the network, the less its kernel, weights and activations change during training."""

from collections.abc import Iterator

from ntkrun.evidence.estimates.summary import groups
from ntkrun.evidence.figures.against_width import kernel_drift, weight_drift
from ntkrun.experiments.drawing import shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment
from ntkrun.experiments.shared import WIDTH_SWEEP


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    (group,) = groups(evidence.only.runs, evidence.only.steps, evidence.only.layers)
    dots = " Dots: seeds; markers: means with 95 % intervals; lines: power laws; wedges: expected slopes."
    yield "kernel_drift", kernel_drift(group), "Largest relative change of the kernel against the width." + dots
    yield (
        "weight_drift",
        weight_drift(group),
        "Largest relative change of each layer's weights against the width." + dots,
    )
    yield from shown_verdicts(evidence)


EXPERIMENT = Experiment(
    name="lazy",
    statement="The wider the network, the less its kernel, its weights and its activations change during training.",
    references="[J] theorem 2; [L] figure 1; [HY]; [DG]",
    sweeps=(WIDTH_SWEEP,),
    figures=_figures,
    claims=("frozen-kernel", "lazy-weights", "frozen-activations"),
)
