"""What experiments make of tables whose numbers are known."""

import math
from collections.abc import Sequence

import pytest

from ntkrun.evidence.claims.judge import finding
from ntkrun.evidence.estimates.estimate import Estimate
from ntkrun.evidence.estimates.intervals import level
from ntkrun.evidence.records import Row
from ntkrun.experiments import catapult, controls, depth_width, generalisation, lee_2, lee_3
from ntkrun.experiments.drawing import weakest
from ntkrun.experiments.framework import Evidence, Experiment
from tests.experiments.known import results


def _rows(experiment: Experiment, found: Evidence) -> dict[str, Row]:
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
    rows = _rows(controls.EXPERIMENT, Evidence(tables))  # type: ignore[arg-type]
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
    found = Evidence({"controls/large-step": results(runs, steps)})
    rows = _rows(catapult.EXPERIMENT, found)
    after, highest = rows["ηλ_max(K̂) after training, r = 3.00"], rows["largest loss / initial loss, r = 3.00"]
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
    ((_, figure, _),) = catapult.EXPERIMENT.figures(Evidence({"controls/large-step": results(runs, steps)}))
    losses, eigenvalues = figure.axes
    assert sorted(eigenvalues.lines[0].get_ydata()) == [1.1, 1.8]
    for ax in (losses, eigenvalues):
        (crosses,) = (line for line in ax.lines if line.get_label() == "diverged")
        assert list(crosses.get_xdata()) == [6.0]
        assert [text.get_text() for text in ax.texts] == ["r < 2: lazy", "2 < r < 4: catapult", "r > 4"]
        edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
        assert [edge[0] for edge in edges] == [0, 2, 4]


def test_lee_2_compares_mean_and_deviation_with_the_limits() -> None:
    """Of four networks that say ±1 and ±2 where the limit says 0 ± 2: deviation √(10/3)/2; and a mean of 0, which
    scatter alone would put (1/4)(10/3)/4 off squared, is 5/24 below that."""
    values = (1.0, -1.0, 2.0, -2.0)
    outputs = [
        {"run_id": str(k), "step": step, "part": "test", "input": place, "output": 0, "value": value + (step > 0)}
        | {"limit_mean": 0.0, "limit_variance": 4.0}
        for k, value in enumerate(values)
        for step in (0, 8)
        for place in range(3)
    ]
    tables = results([{"run_id": str(k), "seed": k} for k in range(4)], outputs=outputs)
    rows = _rows(lee_2.EXPERIMENT, Evidence({"lee-2": tables}))
    for step, off in ((0, -5 / 24), (8, 1 / 4 - 5 / 24)):
        deviation = rows[f"standard deviation over networks / that of the limit, step {step}"]
        mean = rows[f"squared bias of the mean over networks / variance of the limit, step {step}"]
        assert (deviation.ours, mean.ours) == pytest.approx(((10 / 3) ** 0.5 / 2, off))
        assert (deviation.theory, mean.theory) == (1.0, 0.0)
        for row in (deviation, mean):
            assert row.interval is not None
            assert row.interval[0] < row.ours < row.interval[1]


def _trained(widths: Sequence[int], last: dict[str, float], law: float = 0.0) -> object:
    """Three networks a width and one that diverged, whose columns grow from 0 to `last` times width^law."""
    runs, steps = [], []
    for width in widths:
        for seed in range(4):
            run_id, lost = f"{width}-{seed}", seed == 3
            runs.append(
                {"run_id": run_id, "network.width": width, "seed": seed, "status": "diverged" if lost else "done"}
            )
            scale = width**law * (1e9 if lost else 1 + 0.01 * (seed - 1))
            steps += [
                {"run_id": run_id, "step": step, "time": float(step)}
                | {name: value * step / 5 * scale for name, value in last.items()}
                for step in (0, 3, 5)
            ]
    return results(runs, steps)


def test_lee_3_follows_the_gap_to_the_linearised_network_against_the_width() -> None:
    last = {"linear_rms_gap": 10.0, "test_linear_rms_gap": 20.0, "test_loss": 3.0, "test_linear_loss": 2.0}
    last |= {"weight_drift": 0.4, "linear_weight_drift": 0.5}
    rows = _rows(lee_3.EXPERIMENT, Evidence({"lee-3": _trained((32, 64, 128), last, -0.75)}))  # type: ignore[dict-item]
    for where in ("training", "test"):
        assert rows[f"slope of the largest RMSE to the linearised network, {where} inputs"].ours == pytest.approx(-0.75)
    assert rows["largest RMSE to the linearised network, width 64"].ours == pytest.approx(10 * 64**-0.75)
    assert rows["test loss: network / linearised network, width 64"].ours == pytest.approx(1.5)
    assert rows["‖W_t−W_0‖: network / linearised network, width 64"].ours == pytest.approx(0.8)


def test_generalisation_takes_ratios_of_test_losses_at_the_end() -> None:
    last = {"test_loss": 2.0, "test_linear_loss": 4.0, "test_flow_loss": 1.0, "test_limit_loss": 8.0}
    rows = _rows(generalisation.EXPERIMENT, Evidence({"x": _trained((32, 64), last)}))  # type: ignore[dict-item]
    found = {what: row.ours for what, row in rows.items() if what.endswith("width 64")}
    assert list(found.values()) == pytest.approx([0.5, 2.0, 0.25])
    assert all(row.interval is not None for row in rows.values())


def test_depth_against_width_takes_the_variance_over_networks() -> None:
    kernels = (2.0, 3.0, 4.0, 3.0)
    runs = [
        {"run_id": str(k), "seed": k, "network.depth": 3, "predicted_kernel_variance": 0.1} for k in range(len(kernels))
    ]
    outputs = [
        {"run_id": str(k), "step": 0, "part": "train", "input": 0, "output": 0, "variance": 1.0}
        | {"kernel": kernel, "limit_kernel": 2.0}
        for k, kernel in enumerate(kernels)
    ]
    steps = [
        {"run_id": str(k), "step": 0, "time": 0.0, "loss": 1.0, "kernel_drift": 0.0, "lambda_max": 1.0}
        for k in range(4)
    ]
    (row,) = depth_width.EXPERIMENT.rows(Evidence({"around/depth": results(runs, steps, outputs)}))
    assert row.ours == pytest.approx((2 / 3) / 4)
    assert row.theory == 0.1
    assert row.interval is not None
    assert row.interval[0] < row.ours < row.interval[1]


def test_of_a_part_that_is_judged_at_every_width_the_figure_has_the_weakest() -> None:
    found = [
        finding(part, Estimate(value, (value - 0.02, value + 0.02), seeds=9), (0.9, 1.1))
        for part, value in (("level", 1.0), ("second at 64", 1.0), ("second at 128", 1.07), ("fourth at 64", 1.2))
    ]
    assert [each.part for each in weakest(found)] == ["level", "second at 128", "fourth at 64"]
