"""The bound on a stack's memory against what torch allocates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.memory import NUMBER, most_runs, stack_bytes
from ntkrun.engine.stack import run_stack
from ntkrun.engine.task import StackTask
from tests.engine.peak import peak_of


def _task(width: int, runs: int, inputs: int, outputs: int = 1, **changes: object) -> StackTask:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((inputs, 5)), draw.standard_normal((inputs, outputs))
    limit = np.eye(2 * inputs, inputs) + 0.1
    chosen: dict[str, object] = {
        "network": DenseNetwork(5, outputs, 3, width, "tanh"),
        "seeds": range(runs),
        "x": x,
        "y": y,
        "x_test": x + 0.1,
        "y_test": y,
        "step_size": 0.01,
        "steps": 3,
        "probed": frozenset(range(4)),
        "keep_kernels": frozenset({0}),
        "keep_last_kernel": True,
        "dtype": torch.float32,
        "limit": limit,
        "keep_outputs": frozenset({0, 3}),
    }
    return StackTask(**(chosen | changes))  # type: ignore[arg-type]


CPU = torch.device("cpu")
DETAILS = {"detailed": frozenset({0, 3})}
PLAIN = {"keep_kernels": frozenset(), "keep_last_kernel": False, "keep_outputs": frozenset()}
START = {"steps": 0, "probed": frozenset({0}), "keep_outputs": frozenset({0})}
LONG = {"steps": 40, "probed": frozenset(range(41)), **PLAIN}


def _classes(*sizes: int) -> StackTask:
    task = _task(*sizes, loss="cross_entropy")
    shares = np.full(task.y.shape, 1 / task.y.shape[1])
    return replace(task, y=shares, y_test=shares)


TASKS = {
    "weights": _task(512, 3, 8),
    "momentum and details": _task(512, 3, 8, momentum=0.5, **DETAILS),
    "weights with details": _task(1024, 2, 32, network=DenseNetwork(5, 1, 4, 1024, "relu"), **DETAILS),
    "one at a time in float64": _task(2100, 1, 4, **PLAIN),
    "several at a time in float64": _task(512, 20, 8, **PLAIN),
    "kernels": _task(16, 200, 32),
    "kernels and details": _task(16, 100, 32, **DETAILS),
    "outputs": _task(16, 40, 16, outputs=4, **DETAILS),
    "many outputs": _task(64, 5, 24, outputs=8, **PLAIN),
    "float64": _task(128, 20, 48, dtype=torch.float64),
    "float64 with details": _task(256, 6, 16, dtype=torch.float64, momentum=0.9, **DETAILS),
    "many seeds": _task(16, 1000, 4, **LONG),
    "many seeds of width 64": _task(64, 500, 4, **PLAIN),
    "kernels not yet read": _task(16, 100, 32, **LONG),
    "narrow, with many kernels not yet read": _task(
        6, 24, 160, **(LONG | {"x_test": np.ones((0, 5)), "y_test": np.ones((0, 1)), "limit": None})
    ),
    "few probes": _task(64, 100, 32, **(LONG | {"probed": frozenset({0, 40})})),
    "test inputs": _task(128, 8, 4, x_test=np.ones((200, 5)), y_test=np.ones((200, 1)), limit=None),
    "stored kernels": _task(16, 20, 32, **(LONG | {"keep_kernels": frozenset(range(41))})),
    "batches": _task(256, 10, 32, batch=8, **PLAIN),
    "cross-entropy": _classes(64, 20, 16, 4),
    "inputs of many dimensions": _task(
        *(32, 10, 64), x=np.ones((64, 2000)), x_test=np.ones((64, 2000)), network=DenseNetwork(2000, 1, 3, 32, "relu")
    ),
    "many layers": _task(64, 20, 16, network=DenseNetwork(5, 1, 12, 64, "tanh"), **DETAILS),
    "initialisation": _task(64, 500, 3, **START),
    "initialisation of wide networks": _task(1024, 4, 3, **START),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_stack_takes_no_more_than_the_bound_and_not_much_less(task: StackTask) -> None:
    """Not less than 1/2.5: a bound far too large would cut stacks in vain. Tables wait as Python objects, which torch
    does not see: the lower bound leaves them out."""
    bound, runs = stack_bytes(task, len(task.seeds)), len(task.seeds)
    numbers = (52 + 27 * task.network.depth) * len(task.probed)
    numbers += 12 * (len(task.x) + len(task.x_test)) * task.network.outputs * len(task.keep_outputs)
    taken = peak_of(lambda: run_stack(task, CPU))
    assert (bound - NUMBER * numbers * runs) / 2.5 < taken < bound


def test_the_bound_is_affine_in_the_runs_and_most_runs_divides() -> None:
    task = _task(64, 0, 8)
    one, two, many = (stack_bytes(task, runs) for runs in (1, 2, 1000))
    assert many - two == 998 * (two - one) > 0
    for runs in (1, 2, 37, 99):
        assert most_runs(task, stack_bytes(task, runs), 100) == runs
        assert most_runs(task, stack_bytes(task, runs + 1) - 1, 100) == runs
    assert most_runs(task, one - 1, 100) == 0
    assert most_runs(task, 0, 100) == 0
    assert most_runs(task, many, 100) == 100


def test_a_training_of_no_steps_holds_its_weights_once() -> None:
    still, moving = (_task(2048, 1, 3, steps=s, probed=frozenset({0, s}), keep_outputs=frozenset()) for s in (0, 1))
    weights = 4 * still.network.parameter_count
    taken = [peak_of(lambda task=task: run_stack(task, CPU)) for task in (still, moving)]
    assert taken[1] - taken[0] > 0.9 * weights
