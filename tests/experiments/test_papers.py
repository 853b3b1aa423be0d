"""The papers' figures in small: their numbers against plain computations from the networks themselves."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import empirical_ntk
from ntkrun.evidence.records import Row
from ntkrun.experiments import jacot_1, jacot_2, jacot_3, lee_1
from ntkrun.experiments.framework import Evidence, Experiment
from ntkrun.plan.limits import limit_kernel
from ntkrun.plan.problem import data_of, step_size
from ntkrun.run.sweep import run_sweep


def _found(experiment: Experiment, root: Path) -> Evidence:
    return Evidence({each.config: run_sweep(each.load("smoke"), root, "cpu") for each in experiment.sweeps})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("papers")


def _rows(experiment: Experiment, found: Evidence) -> dict[str, Row]:
    return {row.what: row for row in experiment.rows(found)}


@lru_cache
def _circle_kernels(width: int, seeds: int) -> np.ndarray:
    """K_0(x_0, x(γ)) of so many seeds on the 96 points: (seeds, 96)."""
    angles = torch.arange(96, dtype=torch.float64) * 2 * torch.pi / 96
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    net = DenseNetwork(2, 1, 4, width, "relu", 0.1)
    return empirical_ntk(net, net.init(range(seeds), torch.float64), x[:1], x)[:, 0, :, 0, 0].numpy()


def test_jacot_1_is_the_kernel_on_the_circle(root: Path) -> None:
    found = _found(jacot_1.EXPERIMENT, root)
    rows = _rows(jacot_1.EXPERIMENT, found)
    # float32 networks against float64 ones.
    for place, angle in ((0, "0"), (24, "π/2"), (48, "π")):
        row = rows[f"K_0(x_0, x(γ)), γ = {angle}, width 256"]
        assert row.ours == pytest.approx(_circle_kernels(256, 8)[:, place].mean(), rel=1e-5)
        # theory.md, section 4, to its digits
        assert row.theory == pytest.approx({0: 0.2825, 24: 0.0927, 48: 0.06435}[place], abs=6e-5)
    spread, at_start = rows["relative spread of K_0(x_0, x_0), width 64"], _circle_kernels(64, 40)[:, 0]
    assert spread.ours == pytest.approx(at_start.std(ddof=1) / at_start.mean(), rel=1e-4)
    assert spread.theory == pytest.approx((10 / 64) ** 0.5)
    ((_, figure, _),) = jacot_1.EXPERIMENT.figures(found)
    drawn = [line for line in figure.axes[1].lines if line.get_label() == "step 0"]
    np.testing.assert_allclose(np.roll(drawn[0].get_ydata(), -47), _circle_kernels(64, 4)[0], rtol=1e-4)


def test_jacot_2_counts_what_lies_between_the_percentiles(root: Path) -> None:
    found = _found(jacot_2.EXPERIMENT, root)
    table = found.only.outputs.merge(found.only.runs[["run_id", "network.width"]], on="run_id")
    table = table[(table["part"] == "test") & (table["network.width"] == 32)]
    off = (table["value"] - table["limit_mean"]).abs() / table["limit_variance"] ** 0.5
    row = _rows(jacot_2.EXPERIMENT, found)["share of the circle between the limit's 10th and 90th percentile, width 32"]
    assert row.ours == pytest.approx((off < 1.2815515655446).mean())


def test_jacot_3_splits_along_the_second_component(root: Path) -> None:
    found = _found(jacot_3.EXPERIMENT, root)
    point = jacot_3.EXPERIMENT.sweeps[0].load("smoke").points[0][0]
    f2 = data_of(point).y[:, 0] / 0.5
    table = jacot_3._split(found)
    for run_id, of_run in found.only.outputs.groupby("run_id"):
        for step, at in of_run.groupby("step"):
            values = at.sort_values("input")["value"].to_numpy()
            along = (values * f2).mean()
            orthogonal = np.sqrt(((values - along * f2) ** 2).mean())
            row = table[(table["run_id"] == run_id) & (table["step"] == step)].iloc[0]
            assert row["left"] == pytest.approx(0.5 - along, abs=1e-9)
            # a difference of squares, each of them 0.25 at most
            assert row["orthogonal"] == pytest.approx(orthogonal, abs=1e-7)
    kernel = limit_kernel(point)
    rate = float(torch.linalg.eigvalsh(kernel / len(kernel))[-2])
    eta = step_size(point)
    for step, theory in table.groupby("step")["theory"].first().items():
        assert theory == pytest.approx(0.5 * (1 - eta * rate) ** step, rel=1e-6)


def test_lee_1_finds_the_slopes_of_known_laws() -> None:
    widths, laws = 2 ** np.arange(4, 12), {0: -0.5, 1: -1.0, 2: -1.0, 3: -0.6}
    runs, steps, layers = [], [], []
    for width in widths:
        for seed in range(3):
            run_id, jitter = f"{width}-{seed}", 1 + 0.001 * seed
            runs.append({"run_id": run_id, "network.width": width, "seed": seed, "status": "done"})
            for step in (0, 10):
                of_step = {"run_id": run_id, "step": step, "time": step}
                steps.append(
                    {**of_step, "loss": 1.0, "kernel_drift": jitter * (step > 0) * float(width) ** -0.75}
                    | dict.fromkeys(
                        ("test_loss", "flow_gap", "lambda_max", "lambda_min", "distance_to_limit", "off_diagonal"), 0.5
                    )
                )
                layers += [
                    {**of_step, "layer": l, "weight_drift": jitter * (step > 0) * float(width) ** law}
                    for l, law in laws.items()
                ]
    results = pd.Series({"runs": pd.DataFrame(runs), "steps": pd.DataFrame(steps), "layers": pd.DataFrame(layers)})
    rows = list(lee_1.EXPERIMENT.rows(Evidence({"lee-1": results})))  # type: ignore[dict-item]
    assert [row.paper for row in rows] == [-0.80, -0.52, -1.0, -0.55]
    assert [row.ours for row in rows] == pytest.approx([-0.75, -0.5, -1.0, -0.6], abs=1e-9)
    assert rows[0].note == "widths 128 to 2048"
    assert rows[1].note == "widths 256 to 2048"


def test_lee_1_says_what_its_lines_were_fitted_to(root: Path) -> None:
    """Up to width 128 there is one for the kernel and none for the weights: no slope."""
    ((_, _, caption),) = lee_1.EXPERIMENT.figures(_found(lee_1.EXPERIMENT, root))
    assert "kernel, too few widths" in caption
    assert "hidden weights, too few widths" in caption
