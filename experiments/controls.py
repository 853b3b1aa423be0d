"""The controls: sweeps whose results must contradict the theory of wide networks."""

from collections.abc import Iterator

import pandas as pd

from ntkrun.evidence.estimates.cases import AXES
from ntkrun.evidence.estimates.intervals import level
from ntkrun.evidence.estimates.per_run import done, per_run
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, log_axes, lost, shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned
from ntkrun.experiments.shared import LARGE_STEP
from ntkrun.store.results_directory import Results

CONTROLS = {  # control: what it varies, and its sweep
    "mean-field": (
        "width",
        Planned(
            "controls/mean-field",
            smoke=("sweep={grid: {network.width: [48, 96, 192]}, seeds: 3}", "training.steps=200"),
        ),
    ),
    "standard": (
        "width",
        Planned("controls/standard", smoke=("sweep={grid: {network.width: [64, 512]}, seeds: 2}", "training.steps=60")),
    ),
    "large-step": ("step size", LARGE_STEP),
    "small-scale": (
        "output scale",
        Planned(
            "controls/small-scale",
            smoke=(
                "sweep={grid: {training.output_scale: [{centred: 0.1}, {centred: 1}]}, seeds: 3}",
                "training.steps=100",
            ),
        ),
    ),
    "large-targets": (
        "target scale",
        Planned(
            "controls/large-targets",
            smoke=("network.width=64", "sweep={grid: {data.target_scale: [1, 10]}, seeds: 3}", "training.steps=100"),
        ),
    ),
    "narrow-layer": (
        "width",
        Planned(
            "controls/narrow-layer",
            smoke=(
                "sweep={grid: {network.width: [[64, 16, 64], [128, 16, 128], [256, 16, 256]]}, seeds: 3}",
                "training.steps=100",
            ),
        ),
    ),
    "conflicting-labels": (
        "width",
        Planned(
            "controls/conflicting-labels",
            smoke=("sweep={grid: {network.width: [64, 128, 256]}, seeds: 4}", "training.steps=100"),
        ),
    ),
}


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    figure, axes = canvas("largest relative change of the kernel", across=4, down=2, height=2.0)
    for ax in axes[:, 0]:
        ax.set_ylabel("kernel drift")
    for ax, (name, (axis, sweep)) in zip(axes.flat, CONTROLS.items(), strict=False):
        table = _trained(evidence.results[sweep.config], axis)
        ended = done(table)
        ax.plot(ended["at"], ended["kernel_drift"], "o", color="C0", alpha=0.6, markeredgewidth=0)
        lost(ax, table[table["status"] == "diverged"]["at"])
        ax.set_title(name)
        ax.set_xlabel(axis)
        log_axes(ax, table["at"])
    for ax in axes.flat[len(CONTROLS) :]:
        ax.set_visible(False)
    yield (
        "controls",
        figure,
        "The largest relative change of the kernel in each run of each control, against the quantity that the control "
        "varies. Crosses at the top: runs that diverged.",
    )
    yield from shown_verdicts(evidence)


def _trained(results: Results, axis: str) -> pd.DataFrame:
    """Return per_run of a control, with the value that it varies as column `at`."""
    return per_run(results.runs, results.steps, results.layers).assign(at=lambda table: _at(table, axis))


def _at(runs: pd.DataFrame, axis: str) -> pd.Series:
    values = runs["data.target_scale"] if axis == "target scale" else AXES[axis].values(runs)
    return values.astype(float)


def _rows(evidence: Evidence) -> Iterator[Row]:
    for name, (axis, sweep) in CONTROLS.items():
        for at, part in _trained(evidence.results[sweep.config], axis).groupby("at"):
            finished = done(part)
            drift = level(finished["kernel_drift"])  # the drift of a diverged run is meaningless
            diverged = len(part) - len(finished)
            note = f"{diverged} of {len(part)} diverged" if diverged else ""
            yield Row(f"{name}: largest kernel drift, {axis} {at:.3g}", drift.mean, drift.interval, note=note)


EXPERIMENT = Experiment(
    name="controls",
    statement="Where the theory does not apply, its claims fail: in the mean-field parametrization, in the standard "
    "parametrization with one step size for all widths, beyond the edge of stability, at a small output scale, for "
    "large targets, with a single narrow layer, and for repeated inputs with conflicting labels.",
    references="[C]; [Lw]; docs/theory.md",
    sweeps=tuple(sweep for _, sweep in CONTROLS.values()),
    figures=_figures,
    rows=_rows,
    claims=("frozen-kernel", "lazy-regime", "global-minimum", "positive-kernel", "deterministic-kernel"),
)
