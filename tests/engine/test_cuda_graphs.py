"""Steps that are replayed give the tables of steps that are called: on CUDA to the bit, and here through a stand-in."""

import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ntkrun.engine import recorder, training
from ntkrun.engine.cuda_graphs import Graphs, replay_of, without_graphs
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.stack import StackResult, StackTask, run_stack
from ntkrun.theory.activations import register_activation
from tests.engine.small import small_task
from tests.engine.test_checkpoint import CASES, NET, assert_equal, cut_at

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class StandIn:
    """What Graphs does, without a device: from the second call of a key on, the function of that second call is what
    runs, and its results are written into the tensors that it returned then."""

    def __init__(self) -> None:
        self.called: set[Hashable] = set()
        self.recorded: dict[Hashable, tuple[Callable[..., Any], list[Tensor | None], Any]] = {}

    def __call__(self, key: Hashable, function: Callable[..., Any], *moving: Tensor | None) -> Any:
        if key not in self.called:
            self.called.add(key)
            return function(*moving)
        if key not in self.recorded:
            mine = [None if tensor is None else tensor.clone() for tensor in moving]
            self.recorded[key] = function, mine, function(*mine)
            return self.recorded[key][2]
        function, mine, result = self.recorded[key]
        for old, new in zip(mine, moving, strict=True):
            if old is not None and new is not None:
                old.copy_(new)
        for old, new in zip(_tensors(result), _tensors(function(*mine)), strict=True):
            constant = any(step == 0 < size - 1 for step, size in zip(old.stride(), old.shape, strict=True))  # e_i
            if not constant and old.data_ptr() != new.data_ptr():  # else it is what was read: an input, a parameter
                old.copy_(new)
        return result


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


def _run(
    task: StackTask, replay: Callable[[DenseNetwork, torch.device], Any], device: torch.device = CPU, **how: Any
) -> StackResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "replay_of", replay)
        patch.setattr(recorder, "_on_host", lambda kernel: kernel.cpu().clone())
        return run_stack(task, device, **how)


def _stand_in(net: DenseNetwork, device: torch.device) -> StandIn:
    return StandIn()


def _case(name: str) -> StackTask:
    loss, steps, changes = CASES[name]
    return small_task(NET, loss, steps, **changes)


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_give_the_same_tables(name: str) -> None:
    task = _case(name)
    assert_equal(_run(task, _stand_in, read_every=8), run_stack(task, CPU, read_every=8))


@dataclass(frozen=True)
class _Wild(DenseNetwork):
    def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
        params = super().init(seeds, dtype, device)
        params.weights[1][0] *= 100
        return params


@pytest.mark.parametrize("batch", [None, 2])
def test_a_run_that_leaves_its_stack_has_the_others_recorded_anew(batch: int | None) -> None:
    task = small_task(_Wild(3, 1, 3, 16, "relu"), "squared", 30, seeds=[1, 2, 3], batch=batch)
    found = _run(task, _stand_in, read_every=4)
    assert [run.position for run in found.diverged] == [0]
    assert_equal(found, run_stack(task, CPU, read_every=4))


def test_a_resumed_stack_replays_too() -> None:
    task = _case("batches")
    cut = cut_at(task, 5, 8)
    assert_equal(_run(task, _stand_in, read_every=8, resume=cut), run_stack(task, CPU, read_every=8))


def test_a_cpu_calls_its_functions() -> None:
    assert replay_of(NET, CPU) is without_graphs
    assert without_graphs("key", max, torch.tensor(1), torch.tensor(2)) == 2


# ---------------------------------------------------------------- on CUDA


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_graphs_give_the_tables_of_the_calls(name: str) -> None:
    task, cuda = _case(name), torch.device("cuda")
    assert_equal(run_stack(task, cuda), _run(task, lambda net, device: without_graphs, cuda))


@needs_cuda
@pytest.mark.parametrize("loss", ["squared", "huber", "logistic", "cross_entropy"])
def test_steps_are_recorded(loss: str) -> None:
    made: list[Graphs] = []

    def replay(net: DenseNetwork, device: torch.device) -> Graphs:
        made.append(Graphs())
        return made[-1]

    _run(small_task(NET, loss, 6), replay, torch.device("cuda"))
    (graphs,) = made
    assert {"kernel", "probes", "predictions", ("forward", True), ("update", True, True)} <= set(graphs.recorded)


@needs_cuda
def test_a_sigma_that_makes_the_host_wait_is_called_each_time() -> None:
    def looked_at(z: Tensor) -> Tensor:
        return z.tanh() if z.abs().max().item() >= 0 else z

    register_activation("looked_at", looked_at)
    task, cuda = small_task(replace(NET, activation="looked_at"), "squared", 12), torch.device("cuda")
    assert_equal(run_stack(task, cuda), _run(task, lambda net, device: without_graphs, cuda))


@needs_cuda
def test_a_step_makes_the_host_wait_for_nothing() -> None:
    def watch(state: training.State, measurement: object) -> None:
        torch.cuda.set_sync_debug_mode("error" if 3 <= state.step < 19 else "default")

    task, cuda = small_task(NET, "squared", 20, seeds=list(range(8))), torch.device("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode is said to be a prototype
        run_stack(task, cuda, watch, read_every=100)
