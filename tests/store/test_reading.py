"""Reading, judging and planning while another process sweeps."""

import multiprocessing
import os
from pathlib import Path

import pandas as pd
import pytest

from ntkrun.config.reader import parse_config
from ntkrun.evidence.report.conclusion import judge_claims
from ntkrun.run.forecast import dry_run_of
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Store, read_results

TEXT = """\
name: small
network: {depth: 2, activation: erf}
data: {name: circle, samples: 4, test_samples: 2, targets: product}
training: {steps: 4}
sweep: {grid: {network.width: [4, 8], network.beta: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, seeds: SEEDS}
claims: [frozen-kernel, global-minimum]
"""


def _sweep_again_and_again(root: Path) -> None:
    """The plan grows and shrinks, so that the tables of before are out of date."""
    for seeds in (1, 2, 1, 3):
        run_sweep(parse_config(TEXT.replace("SEEDS", str(seeds))), root, "cpu")


@pytest.fixture
def writer(tmp_path: Path) -> multiprocessing.Process:
    os.environ["OMP_NUM_THREADS"] = "1"
    process = multiprocessing.get_context("spawn").Process(target=_sweep_again_and_again, args=(tmp_path,))
    process.start()
    return process  # type: ignore[return-value]


def test_readers_see_whole_states_while_a_sweep_runs(tmp_path: Path, writer: multiprocessing.Process) -> None:
    seen = set()
    while writer.is_alive():
        if not (tmp_path / "small" / "plan.parquet").exists():
            continue
        results = read_results(tmp_path / "small")
        runs = results.runs["run_id"]
        assert runs.is_unique
        assert set(runs) <= set(results.plan["run_id"])
        for table in (results.steps, results.layers, results.modes):
            assert set(table["run_id"]) == set(runs)  # of one state, and of whole stacks
        assert all(results.kernels(run_id) is not None for run_id in runs)
        judge_claims(results)
        assert dry_run_of(parse_config(TEXT.replace("SEEDS", "2")), tmp_path, "cpu").runs
        seen.add((len(results.plan), len(runs)))
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 4  # the sweep was seen on its way
    runs = pd.read_parquet(tmp_path / "small" / "runs.parquet")
    assert len(runs) == 36
    assert not Store(tmp_path / "small").writers()
