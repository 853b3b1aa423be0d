"""The tables that a sweep leaves: columns whatever is kept, and what each run is told of infinite width."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import ntkrun
from ntkrun.columns import TABLES
from ntkrun.config.reader import parse_config
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.evidence.estimates.per_run import per_run
from ntkrun.plan.problem import inputs_of, limit_outputs
from ntkrun.store.results_directory import Results, Store, read_results
from ntkrun.store.tables import empty
from ntkrun.theory.limit import limit_kernels
from tests.engine.small import problem, states

TEXT = """\
name: tiny
network: {depth: 3, width: 8, activation: erf, beta: 0.3}
data: {name: gaussian, dimension: 3, samples: 5, test_samples: 2}
training: {step_size: 0.3, steps: 6, dtype: float64}
probes: {every: 3, detail: 5}
sweep: {seeds: [3, 1]}
"""


def _run(root: Path, *overrides: str) -> Results:
    return ntkrun.run_sweep(parse_config(TEXT, overrides=overrides), root, "cpu")


def test_outputs_stand_at_their_inputs_beside_their_limits(tmp_path: Path) -> None:
    results = _run(tmp_path, "probes.outputs=[2, last]")
    table = results.outputs
    ids = results.runs["run_id"].tolist()
    assert table["run_id"].tolist() == [run_id for run_id in ids for _ in range(2 * 7)]
    assert table["step"].tolist() == ([2] * 7 + [6] * 7) * 2
    assert table["part"].tolist() == (["train"] * 5 + ["test"] * 2) * 4
    assert table["input"].tolist() == [0, 1, 2, 3, 4, 0, 1] * 4
    assert set(table["output"]) == {0}
    sweep = parse_config(TEXT)
    point, data = sweep.points[0][0], sweep.points[0][0].data.load()
    limits = limit_outputs(inputs_of(point), [2, 6])
    for at, step in enumerate((2, 6)):
        rows = table[(table["run_id"] == ids[1]) & (table["step"] == step)]
        for name, values in limits.items():
            np.testing.assert_array_equal(rows[name], values[at, :, 0], err_msg=name)
    net = DenseNetwork(3, 1, 3, 8, "erf", 0.3)
    points = torch.tensor(np.concatenate([data.x, data.x_test]))
    for state in states(problem(net, [1], points[:5], torch.tensor(data.y), 0.3, 2)):
        values, kernel = net.apply(state.params, points)[0, :, 0], jacobian_ntk(net, state.params, points)[0, ..., 0, 0]
    rows = table[(table["run_id"] == ids[1]) & (table["step"] == 2)]
    np.testing.assert_allclose(rows["value"], values, rtol=1e-10)
    np.testing.assert_allclose(rows["kernel"], kernel.diagonal(), rtol=1e-10)
    np.testing.assert_allclose(rows["kernel_row"], kernel[:, 5], rtol=1e-10)  # the first test input follows 5 others
    np.testing.assert_allclose(rows["limit_kernel_row"], limit_kernels(net, points).ntk[:, 5], rtol=1e-12)


def test_without_test_inputs_there_is_no_row_of_the_kernel(tmp_path: Path) -> None:
    table = _run(tmp_path, "data.test_samples=0").outputs
    assert table[["kernel_row", "limit_kernel_row"]].isna().all(axis=None)
    assert table[["kernel", "limit_kernel"]].notna().all(axis=None)


def test_detail_steps_are_rows_and_their_columns_nan_elsewhere(tmp_path: Path) -> None:
    results = _run(tmp_path)
    assert results.steps["step"].tolist() == [0, 3, 5, 6] * 2
    known = results.steps.set_index("step")["growth"].notna()
    assert known.groupby("step").all().to_dict() == {0: True, 3: False, 5: True, 6: True}
    assert results.steps.loc[results.steps["descent_residual"].notna(), "step"].tolist() == [0, 5] * 2
    assert results.layers.loc[results.layers["kernel_part"].notna(), "step"].unique().tolist() == [0, 5, 6]
    assert results.modes["step"].unique().tolist() == [0, 5, 6]
    assert results.modes["mode"].tolist() == list(range(5)) * 6


def test_what_is_not_kept_is_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    full, none = _run(tmp_path / "full"), _run(tmp_path / "none", "probes.detail=none", "probes.outputs=[]")
    for table in ("modes", "outputs"):
        with_rows, without = getattr(full, table), getattr(none, table)
        assert len(with_rows) > 0
        assert len(without) == 0
        assert without.columns.tolist() == with_rows.columns.tolist()
        assert pd.read_parquet(none.path / f"{table}.parquet").columns.tolist() == with_rows.columns.tolist()
    assert none.steps.columns.tolist() == full.steps.columns.tolist()
    assert none.layers.columns.tolist() == full.layers.columns.tolist()
    assert none.steps["growth"].isna().all()


def test_stacks_of_an_earlier_version_stay_readable(tmp_path: Path) -> None:
    """Without the tables and columns that it did not know: empty and nan, beside the stacks of today."""
    results = _run(tmp_path, "sweep.seeds=[3]")
    store = Store(results.path)
    (folder,) = (results.path / "stacks").iterdir()
    new = {"modes": None, "outputs": None, "layers": ["kernel_part", "name"], "steps": ["growth", "descent_residual"]}
    for table, columns in (new | {"runs": ["predicted_kurtosis"]}).items():
        path = folder / f"{table}.parquet"
        if columns is None:
            path.unlink()
        else:
            pd.read_parquet(path).drop(columns=columns).to_parquet(path)
    (results.path / "steps.parquet").unlink()
    old = read_results(results.path)
    for table in ("runs", "steps", "layers", "modes", "outputs"):
        assert set(getattr(old, table)) == set(getattr(results, table)), table
    assert len(old.modes) == len(old.outputs) == 0
    assert old.steps["growth"].isna().all()
    assert old.steps["loss"].tolist() == results.steps["loss"].tolist()
    assert old.layers[["kernel_part", "name"]].isna().all(axis=None)
    assert old.layers.columns[2:4].tolist() == ["layer", "name"]
    with store.writing():
        store.write_tables()
    assert len(pd.read_parquet(results.path / "modes.parquet")) == 0
    both = _run(tmp_path)
    assert len(both.modes) == 3 * 5
    assert both.steps["growth"].isna().sum() == 4 + 1
    assert both.layers["name"].dropna().tolist() == ["input", "hidden 1", "output"] * 4


@pytest.mark.parametrize("folder", [".", "stacks/00000001"])
def test_what_was_not_measured_yet_is_nan_in_older_results(tmp_path: Path, folder: str) -> None:
    """Without every column that results have only since some day, in the tables or in the stack below them."""
    results = _run(tmp_path, "probes.outputs=[first]")
    later = {table: [name for name, column in TABLES[table].items() if column.since] for table in TABLES}
    for table, names in later.items():
        path = results.path / folder / f"{table}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(names), path)  # keeps the metadata
    old = read_results(results.path)
    for table, names in later.items():
        found, expected = getattr(old, table), getattr(results, table)
        assert list(found) == list(expected)
        assert found[names].isna().all(axis=None)
        pd.testing.assert_frame_equal(found.drop(columns=names), expected.drop(columns=names))
    assert len(per_run(old.runs, old.steps, old.layers)) == 2


def test_runs_say_what_finite_width_predicts_where_it_is_known(tmp_path: Path) -> None:
    names = ["predicted_kernel_variance", "predicted_kurtosis", "predicted_square_correlation"]
    assert _run(tmp_path).runs[names].isna().all(axis=None)
    known = _run(tmp_path, "network.activation=relu", "network.beta=0")
    net = DenseNetwork(3, 1, 3, 8, "relu", 0.0)
    formulas = (ntkrun.kernel_variance, ntkrun.output_kurtosis, ntkrun.output_square_correlation)
    for name, formula in zip(names, formulas, strict=True):
        assert known.runs[name].tolist() == [formula(net)] * 2
    unequal = _run(tmp_path, "network.activation=relu", "network.beta=0", "network.width=[4, 9]").runs
    assert unequal["predicted_kernel_variance"].isna().all()
    assert unequal["predicted_kurtosis"].notna().all()


@pytest.mark.parametrize("outputs", ["[]", "[first]"])
def test_a_sweep_that_diverges_at_once_has_every_table(tmp_path: Path, outputs: str) -> None:
    results = _run(tmp_path, "training.step_size=1e9", f"probes.outputs={outputs}")
    assert (results.runs["status"] == "diverged").all()
    assert results.steps["descent_residual"].isna().all()  # no step came out
    assert set(results.outputs["step"]) == ({0} if outputs == "[first]" else set())


def test_a_sweep_whose_first_loss_overflows_has_every_table(tmp_path: Path) -> None:
    """No run has a row, not even of step 0."""
    results = _run(
        tmp_path, "network={depth: 12, width: 8, activation: relu, weight_scale: 1.0e+15}", "training.step_size=1.0"
    )
    assert results.runs["last_step"].tolist() == [0] * len(results.runs)
    for table in ("steps", "layers", "modes", "outputs"):
        assert getattr(results, table).empty
        assert set(getattr(results, table)) == set(empty(table)), table


def test_many_initialisations(tmp_path: Path) -> None:
    results = _run(tmp_path, "training.steps=0", "sweep.seeds=500", "probes.kernels=[]", "probes.detail=none")
    table = results.outputs
    assert len(table) == 500 * 7
    first = table[(table["part"] == "train") & (table["input"] == 0)]
    # Exact at any width for the first moments of L = 3; 500 seeds, five standard errors.
    error = 5 * first["variance"].std() / 500**0.5
    bias = 0.05 * first["limit_variance"].iloc[0]  # of order 1/n
    assert abs(first["variance"].mean() - first["limit_variance"].iloc[0]) < error + bias
    assert (first["variance"] == first["covariance"]).all()
