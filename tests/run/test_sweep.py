"""A sweep from its config to its tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import ntkrun
from ntkrun.columns import TABLES
from ntkrun.config.reader import Sweep, parse_config
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.devices import resolve_device
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.output_scale import OutputScale
from ntkrun.errors import UserError
from ntkrun.plan.runs import Stack
from ntkrun.run.forecast import dry_run_of
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Results
from tests.engine.small import problem, states

TEXT = """\
name: tiny
network: {depth: 3, activation: tanh}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {step_size: 0.3, steps: 6, dtype: float64}
probes: {every: 2, detail: none}
sweep: {grid: {network.width: [4, 8]}, seeds: 3}
"""


def _sweep(*overrides: str) -> Sweep:
    return parse_config(TEXT, overrides=overrides)


class _Counting(ProgressListener):
    """Remembers which stacks were run, as (width, seeds)."""

    def __init__(self) -> None:
        self.ran: list[tuple[object, list[int]]] = []

    def committed(self, stack: Stack, result: object) -> None:
        self.ran.append((stack.point.network.width, stack.seeds))


def _run(root: Path, *overrides: str) -> tuple[Results, list[tuple[object, list[int]]]]:
    watch = _Counting()
    return run_sweep(_sweep(*overrides), root, "cpu", watch), watch.ran


def test_tables_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    results, _ = _run(tmp_path)
    assert len(results.runs) == 6
    assert {"run_id", "network.width", "data.name", "training.steps", "seed", "status", "reason", "seconds"} <= set(
        results.runs
    )
    assert {"device", "torch", "commit", "step_size", "parameters"} <= set(results.runs)
    assert (results.runs["status"] == "done").all()
    assert results.steps.columns.tolist() == list(TABLES["steps"])
    assert results.layers.columns.tolist() == list(TABLES["layers"])
    assert results.modes.columns.tolist() == ["run_id", "step", "time", "mode", "eigenvalue", "residual"]
    assert len(results.modes) == 0  # without detail steps
    assert results.outputs.columns.tolist() == [
        *("run_id", "step", "part", "input", "output", "value", "variance", "covariance", "kernel", "kernel_row"),
        *("limit_kernel", "limit_kernel_row", "limit_mean", "limit_variance", "limit_covariance"),
        *("nngp_mean", "nngp_variance", "nngp_covariance"),
    ]
    assert len(results.outputs) == 6 * 2 * 7
    assert len(results.steps) == 6 * 4
    assert len(results.layers) == 6 * 4 * 3
    assert results.layers["name"].tolist() == ["input", "hidden 1", "output"] * (6 * 4)
    assert results.steps["step"].tolist() == [0, 2, 4, 6] * 6
    np.testing.assert_allclose(results.steps["time"], results.steps["step"] * 0.3, rtol=1e-15)


def test_kernel_on_disk_is_the_kernel_of_the_network(tmp_path: Path) -> None:
    results, _ = _run(tmp_path)
    run = results.runs.iloc[4]
    kept = results.kernels(run["run_id"])
    assert kept is not None
    assert kept["steps"].tolist() == [0, 6]
    net = DenseNetwork(3, 1, 3, int(run["network.width"]), "tanh")
    x = torch.tensor(_sweep().points[0][0].data.load().x)
    oracle = jacobian_ntk(net, net.init([int(run["seed"])], torch.float64), x)[0]
    np.testing.assert_allclose(kept["ntk"][0], oracle, rtol=1e-10)  # two exact routes in float64


def test_loss_batches_momentum_and_scale_reach_the_training(tmp_path: Path) -> None:
    changes = ("training.loss=huber", "training.batch=3", "training.momentum=0.5", "probes.every=1")
    changes = (*changes, "training.output_scale={centred: 3}")
    results, _ = _run(tmp_path, *changes)
    run = results.runs.iloc[1]
    data = _sweep().points[0][0].data.load()
    net, x, y = DenseNetwork(3, 1, 3, 4, "tanh"), torch.tensor(data.x), torch.tensor(data.y)
    alone = problem(net, [int(run["seed"])], x, y, 0.3, 6, "huber", 0.5, batch=3, scale=OutputScale(3.0, True))
    losses = results.steps.loc[results.steps["run_id"] == run["run_id"], "loss"]
    # Alone and in a stack of three, each product rounds differently by 1e-16.
    np.testing.assert_allclose(losses, [float(state.loss[0]) for state in states(alone, range(7))], rtol=1e-12)


def test_running_again_runs_nothing_and_changes_no_number(tmp_path: Path) -> None:
    first, ran = _run(tmp_path)
    assert ran == [(4, [0, 1, 2]), (8, [0, 1, 2])]
    again, ran = _run(tmp_path)
    assert ran == []
    for table in ("runs", "steps", "layers", "modes", "outputs"):
        pd.testing.assert_frame_equal(getattr(first, table), getattr(again, table))


def test_a_grown_sweep_runs_what_is_missing_alone(tmp_path: Path) -> None:
    _run(tmp_path)
    results, ran = _run(tmp_path, "sweep.grid.network.width=[8, 16]", "sweep.seeds=4")
    assert ran == [(8, [3]), (16, [0, 1, 2, 3])]
    assert results.runs[["network.width", "seed"]].to_numpy().tolist() == [[w, s] for w in (8, 16) for s in range(4)]
    ahead = dry_run_of(_sweep("sweep.seeds=5"), tmp_path)
    assert [(run.point.network.width, run.seed) for run in ahead.missing] == [(4, 3), (4, 4), (8, 4)]


def test_numbers_do_not_depend_on_what_ran_beside_them(tmp_path: Path) -> None:
    together, _ = _run(tmp_path / "together")
    alone, _ = _run(tmp_path / "alone", "sweep={grid: {network.width: [8]}, seeds: [2]}")
    (run_id,) = alone.runs["run_id"]
    same = together.steps[together.steps["run_id"] == run_id]
    # A stack of three and a stack of one may round differently, each product by 1e-16.
    np.testing.assert_allclose(alone.steps.drop(columns="run_id"), same.drop(columns="run_id"), rtol=1e-10, atol=1e-14)


def test_equal_sweeps_give_bitwise_equal_tables(tmp_path: Path) -> None:
    one, two = (_run(tmp_path / name)[0] for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.steps, two.steps, check_exact=True)
    pd.testing.assert_frame_equal(one.layers, two.layers, check_exact=True)
    pd.testing.assert_frame_equal(one.outputs, two.outputs, check_exact=True)


def test_an_interrupt_keeps_finished_stacks(tmp_path: Path) -> None:
    class Interrupting(ProgressListener):
        def state(self, stack: Stack, state: object, measurement: object) -> None:
            if stack.point.network.width == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(_sweep(), tmp_path, "cpu", Interrupting())
    kept = ntkrun.read_results(tmp_path / "tiny")
    assert kept.runs["network.width"].tolist() == [4, 4, 4]
    assert pd.read_parquet(tmp_path / "tiny" / "steps.parquet")["run_id"].nunique() == 3
    _, ran = _run(tmp_path)
    assert ran == [(8, [0, 1, 2])]


def test_a_diverged_run_is_recorded_and_not_run_again(tmp_path: Path) -> None:
    results, _ = _run(tmp_path, "training.step_size=1e5", "training.steps=50", "probes.every=1")
    assert (results.runs["status"] == "diverged").all()
    for _, run in results.runs.iterrows():
        assert f"step {run['last_step']}" in run["reason"]
        rows = results.steps[results.steps["run_id"] == run["run_id"]]
        assert rows["step"].tolist() == list(range(run["last_step"]))  # every row before it
        assert np.isfinite(rows["loss"]).all()
    _, ran = _run(tmp_path, "training.step_size=1e5", "training.steps=50", "probes.every=1")
    assert ran == []


def test_sweep_yaml_says_what_made_it(tmp_path: Path) -> None:
    results, _ = _run(tmp_path)
    text = (results.path / "sweep.yaml").read_text()
    described = yaml.safe_load(text)
    assert described["config_hash"] == _sweep().hash
    assert parse_config(yaml.safe_dump(described["config"])).points == _sweep().points
    made_by = described["made_by"]
    assert made_by["versions"]["torch"] == torch.__version__
    assert {"commit", "dirty", "cpu", "gpu", "threads", "device", "system"} <= set(made_by)


def test_repeated_inputs_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("x,y\n1,1\n1,-1\n2,1\n")
    sweep = _sweep(f"data={{name: file, path: '{path}', inputs: [x], targets: [y], samples: 3, test_samples: 0}}")
    run_sweep(sweep, tmp_path, "cpu")
    notes = yaml.safe_load((tmp_path / "tiny" / "sweep.yaml").read_text())["notes"]
    assert any("equal, with different targets" in note for note in notes)


def test_networks_too_large_for_memory_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"network\.width 100000000: one network of .* raise --memory, or take a smaller"
    ):
        _run(tmp_path, "sweep={grid: {network.width: [100000000]}, seeds: 1}")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:1", "cuda:99"])
def test_a_device_that_is_not_there_is_a_sentence(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}: "):
        resolve_device(name)


def test_auto_takes_cuda_when_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.get_float32_matmul_precision() == "highest"  # no tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu(tmp_path: Path) -> None:
    cpu, _ = _run(tmp_path / "cpu")
    cuda = run_sweep(_sweep(), tmp_path / "cuda", "cuda")
    # float64 on two kinds of hardware: rounding alone, over few steps.
    np.testing.assert_allclose(
        cuda.steps.drop(columns="run_id"), cpu.steps.drop(columns="run_id"), rtol=1e-10, atol=1e-13
    )


def test_a_limit_that_cannot_be_had_is_noted_and_its_columns_are_nan(tmp_path: Path) -> None:
    ntkrun.register_activation("kinks_untold", torch.nn.functional.hardtanh)
    results, _ = _run(tmp_path, "network.activation=kinks_untold")
    (note,) = yaml.safe_load((results.path / "sweep.yaml").read_text())["notes"]
    assert "register it with all of them" in note
    assert note.endswith("so distance_to_limit and the limit's flow are not measured")
    assert results.steps[["distance_to_limit", "limit_gap", "limit_loss"]].isna().all(axis=None)
    assert results.steps["linear_gap"].notna().any()


def test_relative_steps_and_limits_of_a_numerical_dual(tmp_path: Path) -> None:
    results, _ = _run(tmp_path, "training.step_size={relative: 0.5}")
    data = _sweep().points[0][0].data.load()
    kernel = ntkrun.limit_kernels(DenseNetwork(3, 1, 3, 1, "tanh"), data.x).ntk
    assert results.runs["step_size"].to_numpy() == pytest.approx(0.5 / float(torch.linalg.eigvalsh(kernel / 5)[-1]))
    run = results.runs.iloc[-1]
    net = DenseNetwork(3, 1, 3, int(run["network.width"]), "tanh")
    first = jacobian_ntk(net, net.init([run["seed"]], torch.float64), torch.tensor(data.x))[0, :, :, 0, 0]
    row = results.steps[(results.steps["run_id"] == run["run_id"]) & (results.steps["step"] == 0)].iloc[0]
    assert row["distance_to_limit"] == pytest.approx(float((first - kernel).norm() / kernel.norm()), rel=1e-10)
