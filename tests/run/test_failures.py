"""What becomes of runs that fail: recorded with why, shown at once, and the others go on."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ntkrun.config.reader import Sweep, parse_config
from ntkrun.engine.stack import StackResult, StackTask
from ntkrun.errors import UserError
from ntkrun.evidence.claims.conditions import complete, none_diverged
from ntkrun.evidence.estimates.cases import AXES, cases
from ntkrun.evidence.report.conclusion import draw_figures, judge_claims, sweep_conclusion
from ntkrun.evidence.report.status import failure_lines, status_document
from ntkrun.plan.runs import Stack
from ntkrun.run import task as attempt
from ntkrun.run.forecast import dry_run_of
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Results, Store, read_results
from tests.command import CONFIG, ENVIRONMENT

TEXT = """\
name: tiny
network: {depth: 3, activation: tanh}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {step_size: 0.3, steps: 6, dtype: float64}
probes: {detail: none}
sweep: {grid: {network.width: [48, 96]}, seeds: 5}
claims: [frozen-kernel, global-minimum, deterministic-kernel]
"""
SOUND = attempt.run_stack


def _sweep() -> Sweep:
    return parse_config(TEXT)


class _Watching(ProgressListener):
    def __init__(self) -> None:
        self.ran: list[tuple[object, list[int]]] = []
        self.attempted: list[int] = []
        self.lost: list[tuple[list[int], str, int]] = []
        self.before: tuple[int, int] | None = None

    def begin(self, missing: object, finished: int, failed: int, workers: int) -> None:
        self.before = finished, failed

    def committed(self, stack: Stack, done: object) -> None:
        self.ran.append((stack.point.network.width, stack.seeds))

    def split(self, stack: Stack, why: str) -> None:
        self.attempted.append(len(stack.runs))

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        self.lost.append((stack.seeds, reason, last_step))


def _run(root: Path, **options: Any) -> tuple[Results, _Watching]:
    watch = _Watching()
    return run_sweep(_sweep(), root, "cpu", watch, **options), watch


def _fails(monkeypatch: pytest.MonkeyPatch, seed: int, error: BaseException, width: int = 48) -> None:
    """A stack of this width with this seed in it ends with the error once it has come to step 2."""

    def run_stack(task: StackTask, device: torch.device, watch: Any, **options: Any) -> StackResult:
        def watching(state: Any, measurement: Any) -> None:
            watch(state, measurement)
            if task.network.width == width and seed in task.seeds and state.step == 2:
                raise error

        return SOUND(task, device, watching, **options)

    monkeypatch.setattr(attempt, "run_stack", run_stack)


@pytest.fixture
def one_bad_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    _fails(monkeypatch, 3, torch.linalg.LinAlgError("eigh: did not converge\nand more"))


@pytest.mark.usefixtures("one_bad_seed")
def test_one_bad_seed_is_recorded_and_takes_no_other_along(tmp_path: Path) -> None:
    results, watch = _run(tmp_path)
    status = results.runs.set_index(["network.width", "seed"])["status"]
    assert status[48].to_dict() == {seed: "failed" if seed == 3 else "done" for seed in range(5)}
    assert (status[96] == "done").all()
    assert watch.attempted == [5, 3, 2]  # halves: the others need not run one by one
    assert watch.lost == [([3], "LinAlgError: eigh: did not converge", 2)]
    lost = results.runs[results.runs["status"] == "failed"].iloc[0]
    assert (lost["reason"], lost["last_step"], lost["step_size"]) == ("LinAlgError: eigh: did not converge", 2, 0.3)
    log = Store(results.path).failed()[lost["run_id"]]
    assert log.read_text().startswith("Traceback")
    assert "and more" in log.read_text()
    assert lost["run_id"] not in set(results.steps["run_id"])
    assert pd.read_parquet(results.path / "runs.parquet")["status"].tolist() == results.runs["status"].tolist()


def test_a_failed_run_is_left_alone_until_it_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fails(monkeypatch, 3, ArithmeticError())
    first, _ = _run(tmp_path)
    assert first.runs["reason"][3] == "ArithmeticError"
    again, watch = _run(tmp_path)
    assert (watch.ran, watch.before) == ([], (9, 1))
    pd.testing.assert_frame_equal(again.runs, first.runs)
    assert dry_run_of(_sweep(), tmp_path).missing == ()
    assert [run.seed for run in dry_run_of(_sweep(), tmp_path, retry_failed=True).missing] == [3]
    still, watch = _run(tmp_path, retry_failed=True)
    assert [seeds for seeds, _, _ in watch.lost] == [[3]]
    pd.testing.assert_frame_equal(still.runs, first.runs)
    monkeypatch.undo()
    mended, watch = _run(tmp_path, retry_failed=True)
    assert (watch.ran, watch.before) == ([(48, [3])], (9, 0))
    assert mended.runs["run_id"].tolist() == first.runs["run_id"].tolist()
    assert (mended.runs["status"] == "done").all()
    assert mended.steps.groupby("run_id").size().tolist() == [7] * 10
    assert Store(mended.path).failed() == {}
    pd.testing.assert_frame_equal(read_results(mended.path).runs, mended.runs)


def test_fail_fast_ends_at_the_first_failure_and_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails(monkeypatch, 0, RuntimeError("shapes differ"), width=96)
    results, watch = _run(tmp_path, fail_fast=True)
    assert watch.ran == [(48, [0, 1, 2, 3, 4])]
    assert results.runs["status"].tolist() == ["done"] * 5 + ["failed"]
    monkeypatch.undo()
    results, watch = _run(tmp_path)
    assert watch.ran == [(96, [1, 2, 3, 4])]
    assert results.runs["status"].tolist() == ["done"] * 5 + ["failed"] + ["done"] * 4


def test_what_lies_in_the_grid_point_fails_all_its_runs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails(monkeypatch, 0, UserError("data.path: gone"))
    results, watch = _run(tmp_path)
    assert watch.attempted == []
    assert watch.lost == [([0, 1, 2, 3, 4], "data.path: gone", 2)]
    assert results.runs["status"].tolist() == ["failed"] * 5 + ["done"] * 5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), BrokenPipeError("terminal")])
def test_what_is_not_the_runs_fault_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    _fails(monkeypatch, 0, error, width=96)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        _run(tmp_path)
    assert read_results(tmp_path / "tiny").runs["status"].tolist() == ["done"] * 5


@pytest.mark.usefixtures("one_bad_seed")
def test_failed_runs_count_as_failed_wherever_runs_are_counted(tmp_path: Path) -> None:
    results, _ = _run(tmp_path)
    judged = judge_claims(results)
    assert dict(judged.runs) == {"planned": 10, "done": 9, "diverged": 0, "failed": 1, "missing": 0}
    assert {each.verdict for each in judged.claims} == {"inconclusive"}
    (case,) = cases(results, AXES["width"])
    assert str(complete(case)) == "of 10 planned runs 1 failed: run the sweep again, with --retry-failed"
    two_diverged = case.runs.assign(status=["diverged"] * 2 + ["done"] * 8)
    lost = replace(case, runs=two_diverged, trained=case.trained.iloc[:8])
    assert complete(lost).ok  # a rerun would run nothing
    assert str(none_diverged(lost)) == "of 10 planned runs 2 diverged: take a smaller step, at which none diverges"
    assert judged.code == 1
    said, tables, code = sweep_conclusion(results, None)
    assert code == 1
    assert [row["failed"] for row in said["groups"][0]["widths"]] == [1, 0]
    assert tables[0].caption == "failed: 1 of width 48"
    status = status_document(results.plan, results.runs, logs=Store(results.path).failed())
    assert (status["done"], status["failed"], status["missing"]) == (9, 1, 0)
    first, last = failure_lines(status)
    assert first.startswith("width 48, seed 3: failed at step 2; LinAlgError: eigh: did not converge; log in ")
    assert first.endswith("-failed/log.txt")
    assert "--retry-failed" in last


def test_a_sweep_of_failures_alone_can_be_judged_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object, **options: object) -> None:
        raise UserError("no such data")

    monkeypatch.setattr(attempt, "run_stack", wrong)
    results, _ = _run(tmp_path)
    assert draw_figures(results) == []
    judged = judge_claims(results)
    assert judged.claims[0].why.startswith("of 10 planned runs 10 failed")
    assert judged.code == 1
    assert sweep_conclusion(results, None)[1][0].caption == "failed: 5 of width 48, 5 of width 96"


def test_a_failure_is_shown_at_once_also_when_quiet_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    script = """if True:
        import sys, time
        from ntkrun import cli
        from ntkrun.run import task

        def run_stack(task, *arguments, **options):
            if task.network.width == 32:
                raise ArithmeticError("by zero")
            print("failed already?", file=sys.stderr)
            sys.exit(9)

        task.run_stack = run_stack
        cli.main()
    """
    command = [sys.executable, "-c", script, "sweep", "tiny.yaml", "-q"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    first, second, third = done.stderr.splitlines()[:3]
    assert first.startswith("width 32, seed 0: failed at step 0; ArithmeticError: by zero; log in results/tiny/stacks/")
    assert second.startswith("width 32, seed 1: failed")
    assert third == "failed already?"  # before the next stack is done
    done = subprocess.run(
        [*command, "--fail-fast", "--retry-failed", "--no-plots"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
