"""Four dynamics on one time axis: the network, its linearisation, and gradient flow with K_0 and with K_inf."""

from collections.abc import Iterator

from ntkrun.evidence.figures.over_time import flows_over_time
from ntkrun.experiments.drawing import shown_verdicts, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment
from ntkrun.experiments.shared import WIDTH_SWEEP, of_activations


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    for sigma, group in of_activations(evidence):
        yield (
            f"flows-{sigma}",
            flows_over_time(group, with_runs(evidence.only.steps, group.runs)),
            f"With {sigma}: losses of the network and of three predictions with frozen kernels, against the same time: "
            "the linearised network under the same steps, gradient flow with the initial kernel, and gradient flow "
            "with the infinite-width kernel. Mean over seeds; the narrowest and the widest network.",
        )
    yield from shown_verdicts(evidence)


EXPERIMENT = Experiment(
    name="linear-dynamics",
    statement="The trained network, its linearisation and the gradient flows with K_0 and K_inf converge to one "
    "another as the width grows.",
    references="[L] theorem 2.1; [J] section 5",
    sweeps=(WIDTH_SWEEP,),
    figures=_figures,
    claims=("linear-dynamics", "deterministic-kernel"),
)
