"""Sweeps and functions that several experiments use."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ntkrun.experiments.framework import Evidence, Planned

if TYPE_CHECKING:
    from ntkrun.evidence.estimates.summary import Group

WIDTH_SWEEP = Planned(
    "width",
    smoke=(
        "sweep=[{grid: {network.activation: [relu, erf], network.width: [32, 64, 128, 256]}, seeds: 3}]",
        "training.steps=100",
        "training.dtype=float64",  # for the regression check: float32 rounds differently on other machines
    ),
)
LARGE_STEP = Planned(
    "controls/large-step",
    smoke=(
        "network.width=256",
        "training.steps=60",
        "sweep={grid: {training.step_size: [{relative: 1.0}, {relative: 2.5}, {relative: 5.0}]}, seeds: 3}",
    ),
)


def of_activations(evidence: Evidence) -> "Iterator[tuple[str, Group]]":
    """Yield the groups of an experiment's single sweep, each with the name of its σ."""
    from ntkrun.evidence.estimates.summary import groups  # imports pandas, which listing the experiments does not need

    for group in groups(evidence.only.runs, evidence.only.steps, evidence.only.layers):
        yield str(group.runs["network.activation"].iloc[0]), group


def variance_without_biases(inputs: int, depth: int, width: float) -> float:
    """Return the variance of the kernel of relu networks without biases, relative, to first order in 1/n."""
    from ntkrun.engine.dense import DenseNetwork  # imports torch, which listing the experiments does not need
    from ntkrun.theory.corrections import kernel_variance

    return kernel_variance(DenseNetwork(inputs, 1, depth, int(width), "relu", 0.0))
