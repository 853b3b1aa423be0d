"""Lazy training by scale: a narrow network is lazy if its output is scaled up."""

from ntkrun.experiments.drawing import one_law
from ntkrun.experiments.framework import Experiment, Planned

EXPERIMENT = Experiment(
    name="lazy-by-scale",
    statement="At a fixed width the kernel changes less as the output scale α grows: its change falls like 1/α.",
    references="[C] Chizat et al. 2019, theorem 2.2",
    sweeps=(
        Planned(
            "scale",
            smoke=(
                "network.width=32",
                "training.steps=40",
                "sweep={grid: {training.output_scale: [{centred: 8}, {centred: 32}, {centred: 128}]}, seeds: 3}",
            ),
        ),
    ),
    figures=one_law(
        "kernel_drift",
        "output scale",
        "kernel_drift",
        "largest kernel drift",
        "exponent",
        "Largest relative change of the kernel against the output scale α, for networks of one width, trained as "
        "α(F - F_0) on loss/α².",
    ),
)
