"""Stacks within a budget: how runs are cut, and that it changes nothing but the cutting."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ntkrun.config.reader import Sweep, parse_config
from ntkrun.engine import devices
from ntkrun.engine.devices import GIB
from ntkrun.engine.memory import stack_bytes
from ntkrun.errors import UserError
from ntkrun.plan import stacks as budgets
from ntkrun.plan.problem import task_of
from ntkrun.plan.runs import Stack, plan
from ntkrun.plan.stacks import MOST_RUNS, bytes_for, halved, largest_stack, split_stack, stacks_within
from ntkrun.run import task as attempt
from ntkrun.run.progress import Profile, ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Results

CPU = torch.device("cpu")
TEXT = """\
name: cut
network: {depth: 3, activation: relu}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 6, dtype: float64}
probes: {detail: 3}
sweep: {grid: {network.width: [8, 64]}, seeds: 7}
"""


def _sweep(*overrides: str) -> Sweep:
    return parse_config(TEXT, overrides=overrides)


def _gib(runs: int, *overrides: str) -> float:
    """A budget for so many runs of the widest network."""
    return stack_bytes(task_of(plan(_sweep(*overrides))[-1].point), runs) / GIB


class _Watching(ProgressListener):
    def __init__(self) -> None:
        self.ran: list[tuple[object, list[int]]] = []
        self.too_large: list[int] = []

    def committed(self, stack: Stack, result: object) -> None:
        self.ran.append((stack.point.network.width, stack.seeds))

    def split(self, stack: Stack, why: str) -> None:
        self.too_large.append(len(stack.runs))


def _run(root: Path, memory: float | None, *overrides: str) -> tuple[Results, _Watching]:
    watch = _Watching()
    return run_sweep(_sweep(*overrides), root, "cpu", watch, memory), watch


def _sizes(stacks: list[Stack]) -> list[int]:
    return [len(stack.runs) for stack in stacks]


def test_runs_are_cut_evenly_into_stacks_that_fit() -> None:
    runs = plan(_sweep())
    stacks = stacks_within(runs, int(_gib(3) * GIB), CPU)
    assert [run for stack in stacks for run in stack.runs] == list(runs)
    wide = [stack for stack in stacks if stack.point.network.width == 64]
    assert _sizes(wide) == [2, 2, 3]
    for stack in stacks:
        assert stack_bytes(task_of(stack.point), len(stack.runs)) <= _gib(3) * GIB


def test_stacks_are_no_larger_than_pays() -> None:
    """On a CPU 2^24 parameters; on a GPU what fits; never more than MOST_RUNS."""
    big = plan(_sweep("network.width=1024", "sweep={seeds: 1}", "network.depth=4"))[0].point
    parameters = task_of(big).network.parameter_count
    assert largest_stack(big, 100 * GIB, CPU) == 2**24 // parameters
    assert largest_stack(big, 100 * GIB, torch.device("cuda", 0)) > 2**24 // parameters
    assert largest_stack(plan(_sweep())[0].point, 100 * GIB, CPU) == MOST_RUNS
    larger = plan(_sweep("network.width=5000", "sweep={seeds: 1}"))[0].point
    assert task_of(larger).network.parameter_count > 2**24
    assert largest_stack(larger, 100 * GIB, CPU) == 1


def test_a_network_that_does_not_fit_is_a_sentence_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network\.width 64: one network of 4481 parameters takes .* GiB .* --memory"):
        _run(tmp_path, _gib(1) * 0.99)
    assert not (tmp_path / "cut" / "stacks").exists()


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_budget_is_a_sentence(wrong: float) -> None:
    with pytest.raises(UserError, match=r"--memory .*: give the GiB"):
        bytes_for(wrong, CPU)


def test_stacks_do_not_depend_on_what_is_free_where_memory_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "free_bytes", lambda device: 8 * GIB)
    assert bytes_for(None, CPU) == 6 * GIB
    found = []
    for free in (GIB // 1000, 1000 * GIB):
        monkeypatch.setattr(budgets, "free_bytes", lambda device, free=free: free)
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        found.append(stacks_within(plan(_sweep()), bytes_for(_gib(3), CPU), CPU))
    assert found[0] == found[1]


def test_equal_memory_gives_bitwise_equal_tables_and_other_stacks_agree(tmp_path: Path) -> None:
    (one, ran), (two, _), (whole, ran_whole) = (
        _run(tmp_path / name, memory) for name, memory in (("one", _gib(3)), ("two", _gib(3)), ("whole", None))
    )
    assert ran.ran != ran_whole.ran == [(8, list(range(7))), (64, list(range(7)))]
    for table in ("steps", "layers", "modes", "outputs"):
        cut_, again, uncut = (getattr(results, table) for results in (one, two, whole))
        pd.testing.assert_frame_equal(cut_, again, check_exact=True)
        # interface.md, section 5: 1e-10 in float64 early in training; residuals of modes and of the descent are
        # differences of numbers of order one.
        pd.testing.assert_frame_equal(cut_, uncut, rtol=1e-10, atol=1e-11)


def test_float32_stacks_agree_to_1e_5(tmp_path: Path) -> None:
    (cut_, _), (whole, _) = (_run(tmp_path / str(m), m, "training.dtype=float32") for m in (_gib(2), None))
    for column in ("loss", "test_loss", "kernel_norm", "lambda_max", "weight_drift"):
        # rtol of the contract; atol for the exact zeros of step 0
        np.testing.assert_allclose(cut_.steps[column], whole.steps[column], rtol=1e-5, atol=1e-7, err_msg=column)


def test_initial_weights_are_the_same_numbers_in_any_stack() -> None:
    net = task_of(plan(_sweep())[-1].point).network
    together = net.init(range(7))
    for seed in (0, 6):
        for alone, stacked in zip(net.init([seed]), together, strict=True):
            assert torch.equal(alone[0], stacked[seed])


def test_resuming_with_another_budget_runs_nothing_again(tmp_path: Path) -> None:
    first, _ = _run(tmp_path, _gib(2))
    again, watch = _run(tmp_path, None)
    assert watch.ran == []
    pd.testing.assert_frame_equal(first.steps, again.steps, check_exact=True)
    _, watch = _run(tmp_path, _gib(2), "sweep.seeds=8")
    assert watch.ran == [(8, [7]), (64, [7])]


def test_cutting_and_cutting_again() -> None:
    whole = [Stack(stack.point, stack.runs) for stack in stacks_within(plan(_sweep()), GIB, CPU)]
    narrow, wide = whole
    assert _sizes(split_stack(narrow, 3)) == [2, 2, 3]
    left = halved(split_stack(narrow, 4)[0], [*split_stack(narrow, 4)[1:], wide])
    assert max(_sizes(left[:-1])) <= 2
    assert left[-1] == wide
    assert [run for stack in left for run in stack.runs] == [*narrow.runs, *wide.runs]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")],
    ids=["python", "cpu", "cuda"],
)
def test_a_stack_that_runs_out_of_memory_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = attempt.run_stack

    def of_little_memory(task, *arguments, **options):  # type: ignore[no-untyped-def]
        if len(task.seeds) > 2:
            raise error
        return real(task, *arguments, **options)

    monkeypatch.setattr(attempt, "run_stack", of_little_memory)
    results, watch = _run(tmp_path, None)
    assert watch.too_large == [7, 3, 7, 3]
    assert sorted(seed for width, seeds in watch.ran if width == 8 for seed in seeds) == list(range(7))
    assert (results.runs["status"] == "done").all()


def test_a_single_run_that_runs_out_of_memory_has_failed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attempt.run_stack

    def of_no_memory_for_narrow_ones(task, *arguments, **options):  # type: ignore[no-untyped-def]
        if task.network.width == 8:
            raise MemoryError
        return real(task, *arguments, **options)

    monkeypatch.setattr(attempt, "run_stack", of_no_memory_for_narrow_ones)
    results, watch = _run(tmp_path, None)
    assert watch.ran == [(64, list(range(7)))]
    assert results.runs["status"].tolist() == ["failed"] * 7 + ["done"] * 7
    assert results.runs["reason"][0].startswith("network.width 8: one network of ")
    assert results.runs["reason"][0].endswith("; it did not fit")


def test_a_profile_has_a_column_a_width_and_fits_80_columns(tmp_path: Path) -> None:
    profile = Profile()
    widths = [1, 2, 3, 4, 5, 6, 7, 100000]
    run_sweep(_sweep(f"sweep.grid.network.width={widths[:-1]}", "sweep.seeds=1"), tmp_path, "cpu", profile=profile)
    profile.add(plan(_sweep("network.width=100000", "sweep={seeds: 1}"))[0].point, {"kernel": 12345.6})
    assert [row["width"] for row in profile.document()] == [str(width) for width in widths]
    assert all(row["seconds"]["forward"] > 0 for row in profile.document()[:-1])
    assert all(row["seconds"]["writing"] > 0 for row in profile.document()[:-1])
    lines = profile.lines()
    assert max(map(len, lines)) <= 80
    kernels = [line.split() for line in lines if line.startswith("kernel")]
    assert "12346" in kernels[1]
    assert sum(float(cell) for line in kernels for cell in line[1:-1]) == pytest.approx(float(kernels[0][-1]), abs=0.6)
