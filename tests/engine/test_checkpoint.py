"""A stack that is cut in mid-run and resumed has the tables of one that was not, to the bit."""

import json
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest
import torch

from ntkrun.config.schema import LogSpaced, Probes
from ntkrun.engine import divergence
from ntkrun.engine.checkpoint import Checkpoint
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.measured_rows import TABLES
from ntkrun.engine.output_scale import OutputScale
from ntkrun.engine.stack import StackResult, run_stack
from ntkrun.engine.task import StackTask
from ntkrun.plan.runs import probed_steps
from ntkrun.theory.limit import limit_kernels
from tests.engine.small import points, small_task

CPU = torch.device("cpu")
NET = DenseNetwork(3, 2, 3, 16, "tanh")
STEPS = 20
LONG = 90  # more than the 64 steps whose batches are drawn at once
SPACED = probed_steps(Probes(every=LogSpaced(log_spaced=12), detail="none"), LONG)
LIMIT = limit_kernels(NET, torch.cat(points()), points()[0]).ntk.numpy()


class _Cut(Exception):
    """The stack ends here."""


class _Cutter:
    """Keeps a checkpoint when it has been `asked` so many times, as a copy, and ends the stack there."""

    def __init__(self, asked: int):
        self.left = asked

    def due(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def keep(self, checkpoint: Checkpoint) -> NoReturn:
        header = json.loads(json.dumps(checkpoint.header))
        tensors = sorted(checkpoint.tensors.items())  # as a file gives them back
        self.kept = Checkpoint(header, {name: tensor.cpu().clone() for name, tensor in tensors})
        raise _Cut


def cut_at(task: StackTask, asked: int, read_every: int, resume: Checkpoint | None = None) -> Checkpoint:
    cutter = _Cutter(asked)
    with pytest.raises(_Cut):
        run_stack(task, CPU, read_every=read_every, keeper=cutter, resume=resume)
    return cutter.kept


def assert_equal(found: StackResult, expected: StackResult) -> None:
    for table in TABLES:
        mine, theirs = getattr(found, table), getattr(expected, table)
        assert list(mine) == list(theirs)
        for name in theirs:
            assert np.array(mine[name]).tobytes() == np.array(theirs[name]).tobytes(), (table, name)
    assert found.diverged == expected.diverged
    assert sorted(found.kernels) == sorted(expected.kernels)
    for position, of_run in expected.kernels.items():
        assert sorted(found.kernels[position]) == sorted(of_run)
        for step, kernel in of_run.items():
            assert found.kernels[position][step].dtype == kernel.dtype
            assert np.array_equal(found.kernels[position][step], kernel)


CASES: dict[str, tuple[str, int, dict[str, object]]] = {
    "plain": ("squared", STEPS, {"limit": LIMIT}),
    "float32": ("squared", STEPS, {"dtype": torch.float32, "momentum": 0.5}),
    "momentum": ("squared", STEPS, {"momentum": 0.9}),
    "batches": ("squared", LONG, {"batch": 2, "momentum": 0.5, "probed": SPACED}),
    "centred": ("huber", STEPS, {"scale": OutputScale(3.0, centred=True)}),
    "centred batches": ("squared", LONG, {"scale": OutputScale(2.0, centred=True), "batch": 3, "probed": SPACED}),
    "cross entropy": ("cross_entropy", STEPS, {"batch": 4}),
    "logistic": ("logistic", STEPS, {"momentum": 0.3}),
    "spaced": ("squared", LONG, {"probed": SPACED, "limit": LIMIT}),
    "kernels": ("squared", STEPS, {"keep_kernels": frozenset({0, 3, 15}), "keep_last_kernel": True}),
    "outputs": ("squared", STEPS, {"keep_outputs": frozenset({0, 3, 15, STEPS})}),
    "detail": ("squared", STEPS, {"detailed": frozenset(range(STEPS + 1))}),
    "seldom read": ("squared", LONG, {"probed": SPACED | {31, 32}, "detailed": frozenset({0, 31, LONG})}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_stack_has_the_tables_of_an_uninterrupted_one(name: str) -> None:
    loss, steps, changes = CASES[name]
    task, read_every = small_task(NET, loss, steps, **changes), 8 if name == "seldom read" else 1
    whole = run_stack(task, CPU, read_every=read_every)
    draw = np.random.default_rng(len(name))
    last = steps // read_every - 1  # of those at which a keeper is asked
    for asked in (1, last, *draw.integers(2, last, 2).tolist()):
        cut = cut_at(task, asked, read_every)
        assert_equal(run_stack(task, CPU, read_every=read_every, resume=cut), whole)
    first = cut_at(task, 2, read_every)
    again = cut_at(task, last // 2, read_every, resume=first)  # of a stack that was resumed itself
    assert again.step > first.step
    assert_equal(run_stack(task, CPU, read_every=read_every, resume=again), whole)


@pytest.mark.parametrize("read_every", [1, 5])
def test_runs_that_diverge_before_and_after_stay_diverged(read_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "GROWTH_LIMIT", 1.05)  # single inputs as batches let the loss grow by so much
    kept = {"batch": 1, "keep_kernels": frozenset({0, 2}), "keep_last_kernel": True}
    net = DenseNetwork(3, 1, 3, 16, "tanh")
    task = small_task(net, "squared", STEPS, seeds=list(range(12, 24)), detailed=frozenset(range(0, STEPS, 3)), **kept)
    whole = run_stack(task, CPU, read_every=read_every)
    ends = sorted(run.step for run in whole.diverged)
    assert ends[0] < 8 < ends[-1]
    assert len(ends) < 12
    cut = cut_at(task, 8 if read_every == 1 else 1, read_every)
    before = [run for run in whole.diverged if run.step <= cut.step]
    assert cut.diverged == before
    assert len(cut.snapshot.params.weights[0]) == 12  # a stack does not shrink
    assert_equal(run_stack(task, CPU, read_every=read_every, resume=cut), whole)


def test_seconds_go_on_and_only_what_is_new_is_watched() -> None:
    task, seen = small_task(NET, "squared", STEPS), []
    cut = cut_at(task, 7, 1)
    assert cut.seconds > 0
    earlier = replace(cut, header={**cut.header, "seconds": 1000.0})
    result = run_stack(task, CPU, lambda state, measured: seen.append(state.step), resume=earlier)
    assert 1000 < result.seconds < 1100
    assert seen == list(range(7, STEPS + 1))


def test_a_keeper_is_asked_between_the_first_step_and_the_last() -> None:
    cutter = _Cutter(1000)
    run_stack(small_task(NET, "squared", STEPS), CPU, read_every=1, keeper=cutter)
    assert cutter.left == 1000 - (STEPS - 1)
