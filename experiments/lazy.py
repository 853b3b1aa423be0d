"""The wider the network, the less its kernel, weights and activations change during training."""

from collections.abc import Iterator

from ntkrun.evidence.figures.against_width import kernel_drift, weight_drift
from ntkrun.experiments.drawing import shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment
from ntkrun.experiments.shared import WIDTH_SWEEP, of_activations


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    dots = " Dots: seeds; markers: means with 95 % intervals; lines: power laws; wedges: expected slopes."
    for sigma, group in of_activations(evidence):
        about = f"With {sigma}: largest relative change"
        yield f"kernel_drift-{sigma}", kernel_drift(group), f"{about} of the kernel against the width.{dots}"
        yield (
            f"weight_drift-{sigma}",
            weight_drift(group),
            f"{about} of each layer's weights against the width.{dots}",
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
