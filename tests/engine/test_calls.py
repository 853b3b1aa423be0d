"""Steps that are replayed give the tables of steps that are called: on CUDA to the bit, and here through a stand-in."""

import warnings
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ntkrun.engine import calls, measured_rows, probes, recorder, training
from ntkrun.engine.calls import Call, Direct, Graphs
from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.stack import StackResult, run_stack
from ntkrun.engine.task import StackTask
from ntkrun.theory.activations import register_activation
from tests.engine.small import small_task
from tests.engine.test_checkpoint import CASES, NET, assert_equal, cut_at

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class StandIn:
    """What a CUDA graph does, without a device: each replay runs the recorded function on the recorded arguments, and
    writes its results into the tensors of the first replay. A graph keeps the tensors that a Descent held when it was
    recorded, whatever it holds by then: so does a copy of the Descent."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]):
        self.function = function
        self.arguments = [copy(each) if isinstance(each, training.Descent) else each for each in arguments]
        self.replays = 0

    def replay(self) -> Any:
        found = self.function(*self.arguments)
        self.replays += 1
        if self.replays == 1:
            self.result = found
        for old, new in zip(_tensors(self.result), _tensors(found), strict=True):
            constant = any(step == 0 < size - 1 for step, size in zip(old.stride(), old.shape, strict=True))  # e_i
            if not constant and old.data_ptr() != new.data_ptr():  # else it is what was read: an input, a parameter
                old.copy_(new)
        return self.result


def _looked_at(z: Tensor) -> Tensor:
    """A σ that makes the host wait."""
    return z.tanh() if z.abs().max().item() >= 0 else z


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        for value in found.values():
            yield from _tensors(value)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _tensors(value)
    elif is_dataclass(found):
        for field in fields(found):
            yield from _tensors(getattr(found, field.name))


def _run(task: StackTask, made: type[Direct] | type[Graphs], device: torch.device = CPU, **how: Any) -> StackResult:
    """Run a stack whose functions are called by a new Direct or Graphs."""

    def new(net: DenseNetwork, device: torch.device, clock: Laps) -> Call:
        return made(clock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "calls", new)
        if device == CPU:
            patch.setattr(calls, "_Graph", StandIn)
            patch.setattr(measured_rows, "_on_host", lambda kernel: kernel.clone())
        return run_stack(task, device, **how)


def _case(name: str) -> StackTask:
    loss, steps, changes = CASES[name]
    return small_task(NET, loss, steps, **changes)


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_give_the_same_tables(name: str) -> None:
    task = _case(name)
    assert_equal(_run(task, Graphs, read_every=8), run_stack(task, CPU, read_every=8))


@dataclass(frozen=True)
class _Wild(DenseNetwork):
    def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
        params = super().init(seeds, dtype, device)
        params.weights[1][0] *= 100
        return params


@pytest.mark.parametrize("batch", [None, 2])
def test_a_diverged_run_is_replayed_with_the_others(batch: int | None) -> None:
    task = small_task(_Wild(3, 1, 3, 16, "relu"), "squared", 30, seeds=[1, 2, 3], batch=batch)
    found = _run(task, Graphs, read_every=4)
    assert [run.position for run in found.diverged] == [0]
    assert_equal(found, run_stack(task, CPU, read_every=4))


def test_a_resumed_stack_replays_too() -> None:
    task = _case("batches")
    cut = cut_at(task, 5, 8)
    assert_equal(_run(task, Graphs, read_every=8, resume=cut), run_stack(task, CPU, read_every=8))


def test_each_combination_of_truth_values_has_its_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is a call, the second a recording; each later one gives the tensors of the second."""
    monkeypatch.setattr(calls, "_Graph", StandIn)
    call, x = Graphs(NO_CLOCK), torch.zeros(1)

    def add(values: Tensor, twice: bool) -> Tensor:
        return values + (2 if twice else 1)

    found = {twice: [call("forward", add, x.fill_(k), twice) for k in range(4)] for twice in (False, True)}
    assert list(call.recorded) == [(add, False), (add, True)]
    for twice, (first, second, *later) in found.items():
        assert float(first) == 1 + twice
        assert float(second) == 4 + twice  # overwritten by the last
        assert all(each is second for each in later)


def test_a_cpu_and_a_sigma_that_may_read_values_are_called() -> None:
    register_activation("looked_at", _looked_at)
    cuda, own = torch.device("cuda"), replace(NET, activation="looked_at")
    assert isinstance(calls.calls(NET, CPU, NO_CLOCK), Direct)
    assert isinstance(calls.calls(own, cuda, NO_CLOCK), Direct)
    assert isinstance(calls.calls(NET, cuda, NO_CLOCK), Graphs)


# ---------------------------------------------------------------- on CUDA


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_graphs_give_the_tables_of_the_calls(name: str) -> None:
    task, cuda = _case(name), torch.device("cuda")
    assert_equal(run_stack(task, cuda), _run(task, Direct, cuda))


@needs_cuda
@pytest.mark.parametrize("loss", ["squared", "huber", "logistic", "cross_entropy"])
def test_steps_are_recorded(loss: str) -> None:
    made: list[Graphs] = []

    class Kept(Graphs):
        def __init__(self, clock: Laps):
            super().__init__(clock)
            made.append(self)

    _run(small_task(NET, loss, 6), Kept, torch.device("cuda"))
    (graphs,) = made
    alone = {(each,) for each in (training.kernel_of, probes._measure_common, probes._measure_predictions)}
    assert alone | {(training.forward, True), (training.move, True, True)} <= set(graphs.recorded)


@needs_cuda
def test_a_sigma_that_makes_the_host_wait_is_called_each_time() -> None:
    register_activation("looked_at", _looked_at)
    task, cuda = small_task(replace(NET, activation="looked_at"), "squared", 12), torch.device("cuda")
    assert_equal(run_stack(task, cuda), _run(task, Direct, cuda))


@needs_cuda
def test_a_step_makes_the_host_wait_for_nothing() -> None:
    def watch(state: training.State, measurement: object) -> None:
        torch.cuda.set_sync_debug_mode("error" if 3 <= state.step < 19 else "default")

    task, cuda = small_task(NET, "squared", 20, seeds=list(range(8))), torch.device("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode is said to be a prototype
        run_stack(task, cuda, watch, read_every=100)
