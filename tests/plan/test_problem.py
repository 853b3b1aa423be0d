"""Grid points as the engine takes them: expected kernels and step sizes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ntkrun
from ntkrun.config.reader import parse_config
from ntkrun.config.schema import Point
from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import ConfigError, UserError
from ntkrun.evidence.figures.draw import draw_all
from ntkrun.plan import problem as points
from ntkrun.plan.runs import plan
from ntkrun.run.forecast import dry_run_of
from ntkrun.run.kernels import limit_arrays
from ntkrun.run.sweep import notes_on, run_sweep
from ntkrun.theory.limit import expected_kernel, relative_step_size

TEXT = """\
name: test
network: {depth: 3, width: 8, activation: erf}
data: {name: gaussian, dimension: 3, samples: 6, test_samples: 2}
training: {step_size: {relative: 0.5}, steps: 4}
sweep: {seeds: 2}
"""


def _points(*overrides: str) -> list[Point]:
    return [point for point, _ in parse_config(TEXT, overrides=overrides).points]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            ("network.activation=exp", "network.weight_scale=100"),
            "training.step_size: the limit kernel of exp overflows float64 at layer 2",
        ),
        (
            ("data={name: circle, targets: {component: 2}}",),
            "data.targets: components 1 and 2 of the kernel have the same",
        ),
    ],
)
def test_what_only_a_kernel_can_tell_is_said_before_anything_is_written(
    tmp_path: Path, override: tuple[str, ...], problem: str
) -> None:
    """Reading a config computes no kernel, so that it stays quick; the sweep does, once, as it begins."""
    sweep = parse_config(TEXT, overrides=override)
    for begin in (run_sweep, dry_run_of):
        with pytest.raises(ConfigError) as caught:
            begin(sweep, tmp_path / "results")
        assert str(caught.value).startswith(problem)
        assert len(caught.value.problems) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["ntk", "standard", "mean_field"])
def test_kernel_and_step_are_those_expected_at_the_width(name: str) -> None:
    for point in _points("sweep.grid.network.width=[8, [4, 9]]", f"network.parametrization={name}"):
        net = DenseNetwork(3, 1, 3, point.network.width, "erf", parametrization=name)
        data = point.data.load()
        assert points.network(point) == net
        wanted = torch.cat([expected_kernel(net, data.x), expected_kernel(net, data.x_test, data.x)])
        assert torch.equal(points.limit_kernel(point), wanted)
        assert points.step_size(point) == pytest.approx(relative_step_size(net, data.x, 0.5), rel=1e-12)


def test_the_limit_that_is_written_says_which_it_is() -> None:
    for name, says in (("standard", "limit of K_n/n"), ("mean_field", "limits of n times")):
        sweep = parse_config(TEXT, overrides=["sweep.grid.network.width=[8, 16]", f"network.parametrization={name}"])
        assert says in limit_arrays(sweep, "cpu")[1]
    uneven = parse_config(TEXT, overrides=["network.width=[8, 9]", "network.parametrization=standard"])
    with pytest.raises(UserError, match=r"network\.width: K_n/n has a limit"):
        limit_arrays(uneven, "cpu")


# ---------------------------------------------------------------- targets that the kernel tells


def test_the_task_has_the_values_of_the_config() -> None:
    changes = {"loss": "huber", "huber_threshold": 0.3, "step_size": 0.25, "momentum": 0.5, "batch": 3}
    (point,) = _points(*(f"training.{key}={value}" for key, value in changes.items()), "training.output_scale=2.0")
    task = points.problem_of(point).task
    assert {key: getattr(task, key) for key in changes} == changes
    assert (task.scale.factor, task.scale.centred) == (2.0, False)


def test_component_targets_are_eigenfunctions_of_the_limit_kernel() -> None:
    """1e-10: an eigenvector of float64 whose eigenvalue is well apart."""
    (point,) = _points("data.targets={component: 2, size: 0.5}", "data.target_scale=3")
    data, kernel = points.data_of(point), points.limit_kernel(point)
    y, y_test = torch.tensor(data.y[:, 0]), torch.tensor(data.y_test[:, 0])
    values, vectors = torch.linalg.eigh(kernel[:6] / 6)
    assert abs(float(vectors[:, -2] @ y)) == pytest.approx(1.5 * 6**0.5, rel=1e-10)
    assert float(y.square().mean()) == pytest.approx(2.25, rel=1e-10)
    assert torch.allclose(kernel[6:] / 6 @ y, values[-2] * y_test, rtol=1e-10)
    assert not data.y.flags.writeable
    assert points.network(point).outputs == 1


def test_component_targets_know_the_network_but_not_its_width() -> None:
    ys = [points.data_of(p).y for p in _points("data.targets={component: 2}", "sweep.grid.network.width=[8, 32]")]
    assert ys[0] is ys[1]
    (other,) = _points("data.targets={component: 2}", "network.activation=relu")
    assert not np.allclose(points.data_of(other).y, ys[0])


@pytest.mark.parametrize("data", ["{name: digits, samples: 20, test_samples: 5, targets: {component: 3}}", "file"])
def test_any_data_set_may_have_component_targets(data: str, tmp_path: Path) -> None:
    if data == "file":
        pd.DataFrame({"u": [k % 5 for k in range(9)], "v": [k % 5 * 2 % 5 for k in range(9)]}).to_csv(
            tmp_path / "t.csv", index=False
        )
        table = f"name: file, path: {tmp_path}/t.csv, inputs: [u, v], samples: 6, test_samples: 3"
        data = f"{{{table}, targets: {{component: 3}}}}"
    (point,) = _points(f"data={data}")
    y = points.data_of(point).y
    assert float(np.square(y).mean()) == pytest.approx(1, rel=1e-12)
    assert np.isfinite(points.data_of(point).y_test).all()
    assert "different targets" not in " ".join(points.data_of(point).notes)  # equal inputs have equal ones


def test_a_residual_along_a_component_decays_at_its_rate(tmp_path: Path) -> None:
    """[J] figure 3: the target f_0 + f^(2) in centred terms, with the frozen limit kernel: loss ½ e^{-2 λ_2 t}."""
    changes = ("data.targets={component: 2}", "training.output_scale={centred: 1}", "training.dtype=float64")
    sweep = parse_config(TEXT, overrides=changes)
    steps = ntkrun.run_sweep(sweep, tmp_path, "cpu").steps
    rate = torch.linalg.eigvalsh(points.limit_kernel(sweep.points[0][0])[:6] / 6)[-2]
    assert np.allclose(steps["limit_loss"], np.exp(-2 * float(rate) * steps["time"]) / 2, rtol=1e-9)


def test_a_path_has_no_targets_and_its_losses_are_nan(tmp_path: Path) -> None:
    """Through training, tables and figures, with warnings as errors."""
    changes = ("data.between=[4, 1]", "data.test_samples=5", "sweep.grid.network.width=[8, 16]", "training.loss=huber")
    results = ntkrun.run_sweep(parse_config(TEXT, overrides=changes), tmp_path, "cpu")
    for name in ("test_loss", "test_linear_loss"):
        assert results.steps[name].isna().all()
    assert results.steps[["loss", "test_linear_gap"]].notna().all(axis=None)
    drawn = [stem for stem, _, _ in draw_all(results.runs, results.steps, results.layers, results.kernels)]
    assert {"loss", "loss_time", "flows_time"} <= set(drawn)


def test_conflicting_labels_leave_a_loss_and_a_note(tmp_path: Path) -> None:
    """A pair of equal inputs with targets ±1 cannot fall below ½ each: 2 of 3 pairs give 4/6 · ½."""
    changes = ("data.conflicts=2", "training.steps=400", "training.dtype=float64", "training.step_size={relative: 1}")
    sweep = parse_config(TEXT, overrides=(*changes, "network.width=64"))
    assert "with different targets: the loss cannot reach zero" in " ".join(notes_on(plan(sweep)))
    steps = ntkrun.run_sweep(sweep, tmp_path, "cpu").steps
    assert (steps["loss"] > 1 / 3 - 1e-12).all()  # reached to rounding
    assert (steps["loss"][steps["step"] == 400] < 0.34).all()
    assert (steps["lambda_min"].abs() < 1e-12).all()
