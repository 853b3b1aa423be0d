"""Stochastic gradient descent compared with gradient flow."""

from ntkrun.experiments.drawing import one_law
from ntkrun.experiments.framework import Experiment, Planned

EXPERIMENT = Experiment(
    name="stochastic-gradient",
    statement="Gradient descent on batches follows gradient flow: at a fixed time, their outputs differ by O(√η).",
    references="theory of stochastic approximation; docs/theory.md",
    sweeps=(
        Planned(
            "sgd",
            smoke=(
                "network.width=64",
                "sweep={zip: {training.step_size: [{relative: 0.32}, {relative: 0.16}, {relative: 0.08}], "
                "training.steps: [25, 50, 100]}, seeds: 4}",
            ),
        ),
    ),
    figures=one_law(
        "gap_to_the_flow",
        "step size",
        "flow_gap",
        r"$\max_x|F_{SGD}-F_{flow}|$",
        "exponent",
        "Largest distance between the outputs of gradient descent on batches and of gradient flow at a fixed time, "
        "against the step size.",
    ),
)
