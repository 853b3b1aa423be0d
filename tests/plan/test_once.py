"""What grid points share is computed once: limit kernels in a process, up to a number of bytes, and tasks."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ntkrun
from ntkrun.config.reader import Sweep, parse_config
from ntkrun.plan import limits
from ntkrun.plan import problem as points
from ntkrun.plan.problem import check_ready, inputs_of, notes_on, problem_of, task_of
from ntkrun.plan.runs import plan
from ntkrun.plan.stacks import stacks_within
from ntkrun.run.forecast import dry_run_of
from ntkrun.theory.limit import expected_kernel, limit_kernels, relative_step_size

TEXT = """\
name: once
network: {depth: 3, activation: erf}
data: {name: circle, samples: 4, test_samples: 3, targets: product}
training: {steps: 1}
sweep: {grid: {network.beta: BETAS, network.width: [4, 5]}, seeds: 1}
"""
DATA = "data={name: gaussian, dimension: 3, samples: 9, test_samples: 6}"
Calls = Counter[tuple[Any, ...]]


def _sweep(betas: int, *overrides: str) -> Sweep:
    return parse_config(TEXT.replace("BETAS", str([k / 100 for k in range(1, betas + 1)])), overrides=overrides)


def _forget() -> None:
    points.problem_of.cache_clear()
    points._relative.cache_clear()
    limits._KERNELS.clear()
    limits.DATA.clear()


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    _forget()
    yield
    _forget()


def _counting(function: Callable[..., Any], counted: Calls) -> Callable[..., Any]:
    def count(net: Any, *inputs: Any) -> Any:
        counted[net.beta, tuple(None if x is None else x.shape for x in inputs)] += 1
        return function(net, *inputs)

    return count


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Count the limit kernels that are computed, by all that they depend on."""
    counted = Calls()
    for name in ("expected_kernel", "limit_kernels_with_error"):
        monkeypatch.setattr(limits, name, _counting(getattr(limits, name), counted))
    return counted


def _plan_all(sweep: Sweep) -> None:
    runs = plan(sweep)
    notes_on(runs)
    check_ready(point for point, _ in sweep.points)
    stacks_within(runs, 2**30, torch.device("cpu"))


# Blocks of a limit kernel: training with training, test with training, and for predictions test with test inputs.
@pytest.mark.parametrize(
    ("betas", "outputs", "blocks"),
    [(4, "[first, last]", 3), (4, "[]", 2), pytest.param(100, "[first, last]", 3, marks=pytest.mark.slow)],
)
def test_a_sweep_computes_each_limit_and_each_task_once(
    betas: int, outputs: str, blocks: int, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Any] = []
    task = points.StackTask
    monkeypatch.setattr(points, "StackTask", lambda **fields: built.append(fields) or task(**fields))  # type: ignore[func-returns-value]
    sweep = _sweep(betas, f"probes.outputs={outputs}", "probes.detail=none")
    _plan_all(sweep)
    dry_run_of(sweep, tmp_path, "cpu")
    assert set(calls.values()) == {1}
    assert betas * 2 <= len(calls) <= betas * blocks  # predictions only for those grid points that were timed
    assert len(ntkrun.run_sweep(sweep, tmp_path, "cpu").runs) == betas * 2
    assert (len(calls), set(calls.values())) == (betas * blocks, {1})
    assert len(built) == betas * 2


def test_with_room_for_two_limits_the_numbers_are_the_same_and_no_more_is_kept(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = _sweep(5)
    free = ntkrun.run_sweep(sweep, tmp_path / "free", "cpu")
    _forget()
    calls.clear()
    # Σ and K, each (4 + 3, 4) and (3, 3) in float64.
    most, kept = 2 * 2 * 8 * (7 * 4 + 3 * 3), list[int]()
    monkeypatch.setattr(limits._KERNELS, "most", most)
    get = limits._KERNELS.get

    def watched(*arguments: Any) -> Any:
        found = get(*arguments)
        kept.append(sum(kernels.nbytes for kernels in limits._KERNELS.values.values()))  # type: ignore[union-attr]
        assert kept[-1] == limits._KERNELS.bytes
        return found

    monkeypatch.setattr(limits._KERNELS, "get", watched)
    _plan_all(sweep)
    assert set(calls.values()) == {1}  # planning asks for each once, however often it plans
    bounded = ntkrun.run_sweep(sweep, tmp_path / "bounded", "cpu")
    assert max(kept) <= most
    assert max(calls.values()) > 1
    for name in ("steps", "layers", "modes", "outputs"):
        pd.testing.assert_frame_equal(getattr(bounded, name), getattr(free, name), check_exact=True)


@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mean_field"])
@pytest.mark.parametrize("activation", ["erf", "silu"])
@pytest.mark.parametrize("outputs", ["[first]", "[]"])
def test_the_limit_and_the_step_size_of_a_task_are_bitwise_those_of_the_theory(
    parametrization: str, activation: str, outputs: str
) -> None:
    """On inputs of many norms, where another choice of inputs changes the series of a numerical dual."""
    changes = (f"network.parametrization={parametrization}", f"network.activation={activation}", DATA)
    for point, _ in _sweep(1, *changes, f"probes.outputs={outputs}").points:
        task, again = task_of(point, (0,)), task_of(point, (1, 2))
        net, data = task.network, point.data.load()
        wanted = [expected_kernel(net, data.x), expected_kernel(net, data.x_test, data.x)]
        np.testing.assert_array_equal(task.limit, torch.cat(wanted), strict=True)
        assert task.step_size == relative_step_size(net, data.x, 1.0)
        assert again.limit is task.limit
        assert (task.seeds, again.seeds) == ((0,), (1, 2))


# 1e-13 of a closed form's rounding; 1e-10 is what a numerical dual is good to.
@pytest.mark.parametrize(("activation", "tolerance"), [("erf", 1e-13), ("silu", 1e-10)])
@pytest.mark.parametrize("test_samples", [5, 0])
def test_the_blocks_of_the_predictions_are_the_kernels_of_all_inputs(
    activation: str, tolerance: float, test_samples: int
) -> None:
    changes = (f"network.activation={activation}", "data.samples=6", f"data.test_samples={test_samples}")
    (point, _), *_ = _sweep(1, *changes).points
    inputs = inputs_of(point)
    assert inputs.kernels is not None
    assert inputs.kernels[0].ntk is inputs.task.limit
    everything = limit_kernels(inputs.task.network, np.concatenate([inputs.task.x, inputs.task.x_test]))
    for name in ("nngp", "ntk"):
        whole = points._whole(*(getattr(kernels, name) for kernels in inputs.kernels))
        assert torch.equal(whole, whole.T)
        torch.testing.assert_close(whole, getattr(everything, name), rtol=tolerance, atol=tolerance)


def test_a_problem_holds_shapes_and_no_values() -> None:
    (point, _), *_ = _sweep(1).points
    problem, task = problem_of(point).task, task_of(point)
    for name in ("x", "y", "x_test", "y_test", "limit"):
        shape, whole = getattr(problem, name), getattr(task, name)
        assert shape.shape == whole.shape
        assert shape.strides == (0,) * shape.ndim
        assert np.isfinite(whole).all()


def test_a_limit_that_is_not_available_is_tried_once(calls: Calls, tmp_path: Path) -> None:
    ntkrun.register_activation("a_kink_untold", torch.nn.functional.hardtanh)
    sweep = _sweep(1, "network.activation=a_kink_untold", "training.step_size=0.1")
    _plan_all(sweep)
    note = notes_on(plan(sweep))[-1]
    assert "a_kink_untold cannot be computed" in note
    assert ntkrun.run_sweep(sweep, tmp_path, "cpu").outputs["limit_mean"].isna().all()
    assert list(calls.values()) == [1]


def test_widths_and_step_sizes_share_targets_and_kernels() -> None:
    sweep = _sweep(
        1,
        "data={name: gaussian, dimension: 3, samples: 6, targets: {component: 1}}",
        "sweep.grid.training.step_size=[0.1, 0.2]",
    )
    first, *others = (task_of(point) for point, _ in sweep.points)
    assert len(others) == 3
    assert all(task.y is first.y and task.limit is first.limit for task in others)
