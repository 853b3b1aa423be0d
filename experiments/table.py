"""All experiments, in the order in which they run: short and informative ones first."""

from collections.abc import Sequence

from ntkrun.errors import UserError
from ntkrun.experiments import (
    batches,
    catapult,
    controls,
    convergence,
    depth_width,
    descent,
    directions,
    ensemble,
    every_activation,
    flows,
    generalisation,
    initialisation,
    jacot_1,
    jacot_2,
    jacot_3,
    lazy,
    lee_1,
    lee_2,
    lee_3,
    minimum,
    proof,
    scale,
    widths,
)
from ntkrun.experiments.framework import Experiment

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        jacot_2.EXPERIMENT,
        jacot_3.EXPERIMENT,
        lee_2.EXPERIMENT,
        jacot_1.EXPERIMENT,
        descent.EXPERIMENT,
        lazy.EXPERIMENT,
        proof.EXPERIMENT,
        convergence.EXPERIMENT,
        minimum.EXPERIMENT,
        flows.EXPERIMENT,
        lee_3.EXPERIMENT,
        initialisation.EXPERIMENT,
        ensemble.EXPERIMENT,
        widths.EXPERIMENT,
        directions.EXPERIMENT,
        batches.EXPERIMENT,
        scale.EXPERIMENT,
        catapult.EXPERIMENT,
        controls.EXPERIMENT,
        depth_width.EXPERIMENT,
        every_activation.EXPERIMENT,
        generalisation.EXPERIMENT,
        lee_1.EXPERIMENT,
    )
}


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names, all of them without names. Raises UserError for an unknown name."""
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise UserError(f"{unknown[0]}: no such experiment; choose from {', '.join(EXPERIMENTS)}")
    return [EXPERIMENTS[name] for name in dict.fromkeys(names)] or list(EXPERIMENTS.values())
