"""The controls: sweeps that must not come out as the theory of wide networks says."""

from collections.abc import Iterator

import numpy as np

from experiments.drawing import canvas, log_axes, shown_verdicts
from experiments.framework import Drawn, Experiment, Found, Planned, Row
from ntkrun.evidence.cases import AXES
from ntkrun.evidence.estimates import level
from ntkrun.evidence.per_run import per_run
from ntkrun.lab.store import Results

CONTROLS = {  # name, what it varies, its smoke preset
    "mean-field": ("width", ("sweep={grid: {network.width: [48, 96, 192]}, seeds: 3}", "training.steps=200")),
    "standard": ("width", ("sweep={grid: {network.width: [64, 512]}, seeds: 2}", "training.steps=60")),
    "large-step": (
        "step size",
        (
            "network.width=256",
            "training.steps=60",
            "sweep={grid: {training.step_size: [{relative: 1.0}, {relative: 2.5}, {relative: 5.0}]}, seeds: 3}",
        ),
    ),
    "small-scale": (
        "output scale",
        ("sweep={grid: {training.output_scale: [{centred: 0.1}, {centred: 1}]}, seeds: 3}", "training.steps=100"),
    ),
    "large-targets": (
        "target scale",
        ("network.width=64", "sweep={grid: {data.target_scale: [1, 10]}, seeds: 3}", "training.steps=100"),
    ),
    "conflicting-labels": ("width", ("sweep={grid: {network.width: [64, 96, 128]}, seeds: 3}", "training.steps=100")),
}


def _at(results: Results, axis: str) -> "np.ndarray":
    runs = results.runs
    values = runs["data.target_scale"] if axis == "target scale" else AXES[axis].values(runs)
    return np.asarray(values, float)


def _figures(found: Found) -> Iterator[Drawn]:
    figure, axes = canvas("the largest relative change of the kernel", across=3, down=2, height=2.0)
    for ax in axes[:, 0]:
        ax.set_ylabel("kernel drift")
    for ax, (name, (axis, _)) in zip(axes.flat, CONTROLS.items(), strict=True):
        results = found.results[f"controls/{name}"]
        table = per_run(results.runs, results.steps, results.layers)
        at, diverged = _at(results, axis), (table["status"] == "diverged").to_numpy()
        drifts = table["kernel_drift"].to_numpy()
        ax.plot(at[~diverged], drifts[~diverged], "o", color="C0", alpha=0.6, markeredgewidth=0)
        ax.plot(at[diverged], drifts[diverged], "x", color="C1")
        ax.set_title(name)
        ax.set_xlabel(axis)
        log_axes(ax, at)
    yield (
        "controls",
        figure,
        "The largest relative change of the kernel of each run of each control, against what it varies; crosses are "
        "runs that diverged.",
    )
    yield from shown_verdicts(found)


def _rows(found: Found) -> Iterator[Row]:
    for name, (axis, _) in CONTROLS.items():
        results = found.results[f"controls/{name}"]
        table = per_run(results.runs, results.steps, results.layers).assign(at=_at(results, axis))
        for at, part in table.groupby("at"):
            drift, diverged = level(part["kernel_drift"]), int((part["status"] == "diverged").sum())
            note = f"{diverged} of {len(part)} diverged" if diverged else ""
            yield Row(f"{name}: largest kernel drift, {axis} {at:.3g}", drift.mean, drift.interval, note=note)


EXPERIMENT = Experiment(
    name="controls",
    statement="Where the theory does not apply, its claims fail: in the mean-field parametrisation, at one step size "
    "for all widths of the standard one, beyond the edge of stability (where the edge itself is measured), at a small "
    "output scale, for large targets, and for repeated inputs with conflicting labels.",
    references="[C]; [Lw]; docs/theory.md",
    sweeps=tuple(Planned(f"controls/{name}", smoke) for name, (_, smoke) in CONTROLS.items()),
    figures=_figures,
    rows=_rows,
)
