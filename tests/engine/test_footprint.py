"""The count of a stack's memory against what torch allocates."""

import numpy as np
import pytest
import torch

from ntkrun.engine.footprint import Footprint
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.stack import StackTask, run_stack
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


@pytest.mark.parametrize(
    "task",
    [
        _task(512, 3, 8),
        _task(512, 3, 8, momentum=0.5, detailed=frozenset({0, 3})),
        _task(16, 200, 32),
        _task(16, 100, 32, detailed=frozenset({0, 3})),
        _task(16, 40, 16, outputs=4, detailed=frozenset({0, 3})),
        _task(128, 20, 48, dtype=torch.float64),
        _task(64, 500, 3, steps=0, probed=frozenset({0}), keep_outputs=frozenset({0})),
    ],
    ids=["weights", "momentum and detail", "kernels", "kernels and detail", "outputs", "float64", "initialisation"],
)
def test_a_stack_takes_no_more_than_is_counted_and_not_much_less(task: StackTask) -> None:
    """Not less than half: a count far too large would cut stacks in vain. Tables wait as Python objects, which torch
    does not see: the lower bound leaves them out."""
    counted = Footprint(task)
    tables = counted._tables * len(task.seeds)
    taken = peak_of(lambda: run_stack(task, torch.device("cpu")))
    assert 0.5 * (counted.bytes(len(task.seeds)) - tables) < taken < counted.bytes(len(task.seeds))


def test_most_is_the_largest_number_that_fits() -> None:
    counted = Footprint(_task(64, 0, 8))
    for runs in (1, 2, 37, 99):
        assert counted.most(counted.bytes(runs), 100) == runs
        assert counted.most(counted.bytes(runs + 1) - 1, 100) == runs
    assert counted.most(counted.bytes(1) - 1, 100) == 0
    assert counted.most(counted.bytes(1000), 100) == 100


def test_a_training_of_no_steps_holds_its_weights_once() -> None:
    still, moving = (_task(2048, 1, 3, steps=s, probed=frozenset({0, s}), keep_outputs=frozenset()) for s in (0, 1))
    weights = 4 * still.network.parameter_count
    taken = [peak_of(lambda task=task: run_stack(task, torch.device("cpu"))) for task in (still, moving)]
    assert taken[1] - taken[0] > 0.9 * weights
