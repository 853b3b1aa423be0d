"""A step of gradient descent on the weights is a step of kernel gradient descent."""

from collections.abc import Iterator

from ntkrun.evidence.estimates.cases import AXES, cases, settings_text
from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.figures.pieces import width_colours
from ntkrun.experiments.drawing import canvas, levels, mark, shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    all_cases = list(cases(evidence.only, AXES["step size"]))
    shades = width_colours(evidence.only.runs[WIDTH])
    figure, axes = canvas("", across=2, share=True)
    for ax, column, inputs in zip(
        axes[0], ("descent_residual_0", "test_descent_residual_0"), ("training inputs", "test inputs"), strict=True
    ):
        for k, case in enumerate(all_cases):
            levels(ax, case, column, {**mark(k), "color": shades[case.settings[WIDTH]]}, settings_text(case.settings))
        ax.set_title(inputs)
        ax.set_xlabel("step size η")
    axes[0, 0].set_ylabel("relative deviation from the kernel step")
    axes[0, 1].legend(fontsize=6)
    yield (
        "residual_against_step_size",
        figure,
        "The change of the network function in one step minus -(η/N) Σ_i K(x, x_i) ∂ℓ/∂F(x_i), relative to the change "
        "itself, against the step size. Dots: seeds; markers: means.",
    )
    yield from shown_verdicts(evidence)


EXPERIMENT = Experiment(
    name="kernel-gradient-descent",
    statement="Gradient descent on the weights is kernel gradient descent on the network function at any width, up to "
    "a relative error proportional to the step size (smooth σ; with relu, units that switch on or off add an error "
    "between √η and η).",
    references="[J] section 3.1",
    sweeps=(
        Planned(
            "descent",
            smoke=(
                "data={name: digits, samples: 16, test_samples: 8}",
                "sweep={grid: {network.activation: [erf], network.width: [32, 64], training.step_size: "
                "[{relative: 0.01}, {relative: 0.04}, {relative: 0.16}]}, seeds: 3}",
            ),
        ),
    ),
    figures=_figures,
)
