"""Architectures in configs: their keys, the ids of their runs, and what results say of them."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ntkrun.config.architectures import ARCHITECTURES, Network, Residual
from ntkrun.config.reader import load_config, parse_config
from ntkrun.config.schema import Config, completed
from ntkrun.errors import ConfigError
from ntkrun.evidence.estimates.cases import EVERY_NETWORK, architecture_text, settings_text, split
from ntkrun.evidence.figures.pieces import _unusual
from ntkrun.evidence.regression.check import check, update
from ntkrun.evidence.report.conclusion import draw_figures, judge_claims
from ntkrun.evidence.report.page import in_short
from ntkrun.plan.limits import network
from ntkrun.plan.runs import plan, run_row
from ntkrun.run.sweep import run_sweep
from ntkrun.store.export import run_names
from ntkrun.store.results_directory import read_results

GOOD = """\
name: test
network: {depth: 3, width: 8, activation: erf}
data: {name: gaussian, dimension: 3}
training: {step_size: 0.5, steps: 4}
sweep: {seeds: 2}
"""
RESIDUAL = "network={architecture: residual, depth: 4, width: 8, activation: erf}"
# What earlier versions with this IDENTITY_VERSION give for these configs: finished runs stay finished.
IDS = ["6108189e6b1e6fb1", "23e54c7b9ce7d78c"]
HASH = "4b4f0d8a1cbc71d5"


def _ids(*overrides: str) -> list[str]:
    return [run.run_id for run in plan(parse_config(GOOD, overrides=overrides))]


def _networks(*overrides: str) -> list[tuple[str, float | None]]:
    points = parse_config(GOOD, overrides=overrides).points
    return [(point.network.architecture, getattr(point.network, "skip", None)) for point, _ in points]


def _problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(GOOD, "f.yaml", overrides)
    return [str(problem) for problem in caught.value.problems]


# ---------------------------------------------------------------- what is read


def test_a_config_names_sweeps_and_overrides_architectures() -> None:
    residual = "network.architecture=residual"
    assert _networks() == _networks("network.architecture=dense") == [("dense", None)]
    assert _networks(residual) == [("residual", 1.0)]
    assert _networks(residual, "network.skip=0.5") == [("residual", 0.5)]
    swept = [("residual", 0.0), ("residual", 0.5), ("residual", 1.0)]
    assert _networks(residual, "sweep.grid={network.skip: [0, 0.5, 1]}") == swept
    assert _networks("sweep.grid={network.architecture: [dense, residual]}") == [("dense", None), ("residual", 1.0)]
    blocks = "{grid: {network.width: [4]}}, {grid: {network.architecture: [residual], network.skip: [0.5]}}"
    assert _networks(f"sweep=[{blocks}]") == [("dense", None), ("residual", 0.5)]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["network.skip=0.5"], "network.skip: belongs to `architecture: residual`, not to `architecture: dense`"),
        (["sweep.grid={network.skip: [1]}"], "network.skip: belongs to `architecture: residual`, not to `arch"),
        (["network.architecture=residul"], "'residul' is not one of dense, residual; did you mean 'residual'?"),
        (["network.architecture=3"], "network.architecture: '3' is not one of dense, residual"),
        (["network.architecture=[residual]"], "network.architecture: "),
        (["sweep.grid={network.architecture: [dense, ring]}"], "network.architecture: 'ring' is not one of dense"),
        (["sweep.grid={network.skpi: [1]}"], "sweep.grid.network.skpi: unknown key; known: architecture, depth"),
        ([RESIDUAL, "network.skpi=1"], "network.skpi: unknown key; did you mean 'skip'?"),
        ([RESIDUAL, "network.skip=-0.5"], "network.skip: must be at least 0, not -0.5"),
        ([RESIDUAL, "network.skip=.inf"], "network.skip: must be a finite number, not inf"),
        ([RESIDUAL, "network.skip=1e16"], "network.skip: must be at most 1e+15, not 1e+16"),
        ([RESIDUAL, "network.skip=one"], "network.skip: must be a number, not 'one'"),
        ([RESIDUAL, "network.width=[8, 8, 9]"], "network.width: [8, 8, 9]: a skip connection joins layers of equal"),
        ([RESIDUAL, "network.width=[8, 8]"], "network.width: 2 widths for 3 hidden layers (depth 4)"),
    ],
)
def test_a_mistake_is_one_sentence(overrides: list[str], problem: str) -> None:
    (found,) = _problems(*overrides)
    assert problem in found


def test_the_network_is_that_of_the_table_and_the_keys_are_its_arguments() -> None:
    sweep = parse_config(GOOD, overrides=[RESIDUAL, "network.skip=0.5", "network.beta=0.3"])
    net = network(sweep.points[0][0])
    assert (type(net).__name__, net.inputs, net.outputs, net.depth, net.width) == ("ResidualNetwork", 3, 1, 4, 8)
    assert (net.activation, net.beta, net.skips) == ("erf", 0.3, (0.5, 0.5, 0.0))
    dense = network(parse_config(GOOD).points[0][0])
    assert (type(dense).__name__, dense.widths, dense.skips) == ("DenseNetwork", (3, 8, 8, 1), (0.0, 0.0))
    for name, section in ARCHITECTURES.items():
        assert section.model_fields["architecture"].description
        assert set(section.model_fields) >= set(Network.model_fields) == EVERY_NETWORK, name


def test_configs_with_every_architecture_are_read_without_torch() -> None:
    code = (
        f"import sys; from ntkrun.config.reader import parse_config; parse_config({GOOD!r}, overrides=[{RESIDUAL!r}])"
    )
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_the_schema_holds_a_network_to_the_keys_of_its_architecture() -> None:
    schema = Config.model_json_schema()
    assert "skip" not in schema["$defs"]["Dense"]["properties"]
    assert schema["$defs"]["Residual"]["required"] == ["architecture"]  # so that a section without it is dense alone


# ---------------------------------------------------------------- ids, and results of before


def test_ids_of_dense_networks_are_those_of_before_and_a_residual_one_has_its_own() -> None:
    assert _ids() == _ids("network.architecture=dense") == IDS
    residual = "network.architecture=residual"
    different = [_ids(), _ids(residual, "network.skip=0"), _ids(residual), _ids(residual, "network.skip=0.5")]
    assert len({tuple(ids) for ids in different}) == 4
    assert _ids(residual, "network.skip=1") == _ids(residual)
    assert Residual(architecture="residual", skip=0.5).identity()["skip"] == 0.5
    assert "skip" not in Residual(architecture="residual").identity()


def test_a_resolved_config_of_before_is_completed_as_dense() -> None:
    resolved = dict(parse_config(GOOD).resolved)
    before = resolved | {"network": {key: value for key, value in resolved["network"].items() if key != "architecture"}}
    assert completed(before) == resolved
    residual = dict(parse_config(GOOD, overrides=[RESIDUAL, "network.skip=0.5"]).resolved)
    assert completed(residual) == residual == json.loads(json.dumps(residual))


def test_results_of_before_are_read_judged_drawn_and_checked(tmp_path: Path) -> None:
    """Without the column and the key, as an earlier version left them."""
    sweep = parse_config(
        GOOD, overrides=["sweep={grid: {network.width: [16, 32]}, seeds: 2}", "claims=[frozen-kernel]"]
    )
    run_sweep(sweep, tmp_path, "cpu")
    root = tmp_path / "test"
    baseline = tmp_path / "baseline.json"
    update(root, baseline)
    before = judge_claims(read_results(root))
    for table in ("plan", "runs"):
        path = root / f"{table}.parquet"
        pd.read_parquet(path).drop(columns="network.architecture").to_parquet(path)
    description = root / "sweep.yaml"
    description.write_text(description.read_text().replace("architecture: dense", ""))
    results = read_results(root)
    assert "network.architecture" not in results.runs
    assert "architecture" not in results.config()["network"]
    assert str(judge_claims(results)) == str(before)
    assert draw_figures(results)
    assert not check(root, baseline)[0].regressions
    assert "dense" not in in_short(results.config())


# ---------------------------------------------------------------- what results say


def _plan(*overrides: str) -> pd.DataFrame:
    return pd.DataFrame([run_row(run) for run in plan(parse_config(GOOD, overrides=overrides))])


def test_settings_name_the_architecture_and_its_keys() -> None:
    rows = _plan("sweep=[{seeds: 1}, {grid: {network.architecture: [residual], network.skip: [0.5, 1]}, seeds: 1}]")
    labels = [settings_text(settings) for settings, _ in split(rows, ("network.width",))]
    assert labels == ["architecture dense", "architecture residual, skip 0.5", "architecture residual, skip 1.0"]
    assert [_unusual(row) for _, row in rows.iterrows()] == ["", ", residual, skip 0.5", ", residual, skip 1"]
    assert _unusual(rows.drop(columns=["network.architecture", "network.skip"]).iloc[0]) == ""
    assert next(iter(run_names(rows).values())) == "architecture=dense,seed=0"


def test_a_config_in_short_names_them_unless_they_vary() -> None:
    residual = [RESIDUAL, "network.skip=0.5"]
    assert in_short(parse_config(GOOD).resolved).startswith("gaussian, N = 64")
    assert in_short(parse_config(GOOD, overrides=residual).resolved).startswith("residual, skip 0.5, gaussian")
    swept = parse_config(GOOD, overrides=["network.architecture=residual", "sweep.grid={network.skip: [0, 1]}"])
    assert in_short(swept.resolved).startswith("residual, gaussian")
    assert "skip 0 1" in in_short(swept.resolved)
    assert architecture_text({"depth": 3}) == architecture_text({"architecture": "dense"}) == ""
    assert architecture_text({"architecture": 3, "skip": [1]}) == "3, skip [1]"  # a config from anywhere


def test_the_shipped_config_is_residual_with_skips() -> None:
    for point, _ in load_config(Path(__file__).parents[2] / "configs" / "around" / "residual.yaml").points:
        assert isinstance(point.network, Residual)
        assert point.network.depth >= 4
        assert point.network.skip > 0


def test_a_resolved_config_that_varies_the_architecture_can_be_read_again() -> None:
    """Its base section is that of the first architecture; `skip`, a key of this one alone, is left out."""
    text = "{name: n, data: {name: sphere, dimension: 3, samples: 4}, sweep: {grid: {network.architecture: [%s]}}}"
    for order in ("residual, dense", "dense, residual"):
        sweep = parse_config(text % order)
        assert "skip" not in sweep.resolved["network"]
        assert parse_config(json.dumps(sweep.resolved)).points == sweep.points
    data = "{name: n, data: {samples: 4}, sweep: {grid: {data.name: [sphere, circle]}}}"
    sweep = parse_config(data)
    assert parse_config(json.dumps(sweep.resolved)).points == sweep.points


def test_blocks_of_several_architectures_can_be_read_again() -> None:
    """A key that only some blocks sweep has its default in the others, also in the resolved config."""
    blocks = "[{grid: {network.architecture: [residual], network.skip: [0.5]}}, {grid: {network.width: [4, 8]}}]"
    sweep = parse_config(f"{{name: n, data: {{name: sphere, dimension: 3, samples: 4}}, sweep: {blocks}}}")
    assert sweep.resolved["network"]["architecture"] == "dense"
    assert parse_config(json.dumps(sweep.resolved)).points == sweep.points
    # Keys of the same name whose defaults differ between kinds are left out as well.
    sweep = parse_config("{name: n, data: {name: circle}, sweep: {grid: {data.name: [digits, circle]}}}")
    assert parse_config(json.dumps(sweep.resolved)).points == sweep.points


def test_the_hash_of_a_dense_config_is_that_of_before() -> None:
    """Of the version that knew no other architectures: `doctor --fix` recognises its results by it."""
    assert parse_config(GOOD).hash == HASH
    assert parse_config(GOOD, overrides=["network.architecture=dense"]).hash == HASH
    assert parse_config(GOOD, overrides=["network.architecture=residual"]).hash != HASH
