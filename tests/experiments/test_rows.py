"""What experiments make of tables whose numbers are known."""

import math
from collections.abc import Sequence

import pytest

from experiments import catapult, controls
from experiments.framework import Experiment, Found, Row
from ntkrun.evidence.estimates import level
from tests.experiments.known import results


def _rows(experiment: Experiment, found: Found) -> dict[str, Row]:
    return {row.what: row for row in experiment.rows(found)}


def _control(drifts: Sequence[float], diverged: Sequence[float]) -> object:
    """Runs that end with these kernel drifts, and runs that diverged with those."""
    fates = [("done", drift) for drift in drifts] + [("diverged", drift) for drift in diverged]
    more = {"data.target_scale": 10.0, "training.output_scale": '{"centred": 0.1}'}
    runs = [{"run_id": str(k), "seed": k, "status": fate, **more} for k, (fate, _) in enumerate(fates)]
    steps = [
        {"run_id": str(k), "step": step, "time": step, "loss": 1.0, "lambda_max": 1.0, "kernel_drift": step * drift}
        for k, (_, drift) in enumerate(fates)
        for step in (0, 1)
    ]
    return results(runs, steps)


def test_controls_take_the_level_of_runs_that_reached_their_end() -> None:
    tables = {each.config: _control([1.0, 2.0, 3.0], [1e6]) for each in controls.EXPERIMENT.sweeps}
    tables["controls/standard"] = _control([], [5.0, 7.0])
    rows = _rows(controls.EXPERIMENT, Found(tables))  # type: ignore[arg-type]
    for name, at in (
        ("mean-field", "width 64"),
        ("large-targets", "target scale 10"),
        ("small-scale", "output scale 0.1"),
    ):
        row = rows[f"{name}: largest kernel drift, {at}"]
        assert (row.ours, row.interval, row.note) == (2.0, level([1.0, 2.0, 3.0]).interval, "1 of 4 diverged")
    none = rows["standard: largest kernel drift, width 64"]
    assert math.isnan(none.ours)
    assert none.note == "2 of 2 diverged"


def test_catapult_tells_the_eigenvalue_after_training_and_the_largest_loss() -> None:
    fates = {"a": ("done", 3.0, 1.5, 8.0), "b": ("done", 3.0, 1.9, 6.0), "c": ("diverged", 3.0, 50.0, 1e9)}
    runs = [
        {"run_id": k, "seed": seed, "status": fate[0], "step_size": 0.5} for seed, (k, fate) in enumerate(fates.items())
    ]
    steps = [
        {"run_id": k, "step": step, "time": 0.5 * step, "loss": loss, "lambda_max": r / 0.5, "kernel_drift": 0.0}
        for k, (_, start, end, highest) in fates.items()
        for step, (loss, r) in enumerate([(2.0, start), (2 * highest, start), (0.1, end)])
    ]
    found = Found({"controls/large-step": results(runs, steps)})
    rows = _rows(catapult.EXPERIMENT, found)
    after, highest = rows["ηλ_max(K̂) after training, r = 3.00"], rows["largest loss over the first, r = 3.00"]
    assert (after.ours, highest.ours) == pytest.approx((1.7, 7.0))
    assert after.note == highest.note == "1 of 3 diverged"


def test_catapult_draws_what_came_back_and_crosses_what_did_not() -> None:
    runs = [
        {"run_id": str(k), "status": status, "step_size": 1.0, "network.activation": "erf", "training.steps": 2}
        for k, status in enumerate(("done", "done", "diverged"))
    ]
    steps = [
        {"run_id": str(k), "step": step, "time": step, "loss": loss, "lambda_max": r, "kernel_drift": 0.0}
        for k, rs in enumerate(((1.0, 1.1), (3.0, 1.8), (6.0, 9.0)))
        for step, (loss, r) in enumerate(zip((1.0, 0.5), rs, strict=True))
    ]
    ((_, figure, _),) = catapult.EXPERIMENT.figures(Found({"controls/large-step": results(runs, steps)}))
    losses, eigenvalues = figure.axes
    assert sorted(eigenvalues.lines[0].get_ydata()) == [1.1, 1.8]
    for ax in (losses, eigenvalues):
        (crosses,) = (line for line in ax.lines if line.get_label() == "diverged")
        assert list(crosses.get_xdata()) == [6.0]
        assert [text.get_text() for text in ax.texts] == ["r < 2: lazy", "2 < r < 4: catapult", "r > 4"]
        edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
        assert [edge[0] for edge in edges] == [0, 2, 4]
