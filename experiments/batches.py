"""Stochastic gradient descent against the gradient flow."""

from collections.abc import Iterator

from experiments.drawing import DOTS, against_axis, shown_verdicts
from experiments.framework import Drawn, Experiment, Found, Planned


def _figures(found: Found) -> Iterator[Drawn]:
    caption = "Largest distance between the outputs of descent on batches and of the gradient flow at one fixed time, "
    yield (
        "gap_to_the_flow",
        against_axis(found, "step size", "flow_gap", r"$\max_x|F_{SGD}-F_{flow}|$", "exponent"),
        caption + "against the step size. " + DOTS,
    )
    yield from shown_verdicts(found)


EXPERIMENT = Experiment(
    name="stochastic-gradient",
    statement="Gradient descent on batches follows the gradient flow: at a fixed time the two part by O(√η).",
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
    figures=_figures,
)
