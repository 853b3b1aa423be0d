"""What a stack is said to cost. docs/decisions.md compares with real times: a test cannot, on a shared machine."""

from dataclasses import astuple, replace

import pytest
import torch

from ntkrun.engine.clock import PHASES
from ntkrun.engine.costs import WIDTHS, Cost, Rates, measure
from ntkrun.engine.network import DenseNetwork
from tests.engine.test_footprint import _task

RATES = Rates((4e-11, 3e-11, 3e-11), (8e-11, 7e-11, 7e-11), 1e-11, 4e-11, (1e-4, 4e-3), 1.5e-6, 1.5e-6, 1e-8, 2e-5)
PRODUCTS_ALONE = Rates((1e-11,) * 3, (1e-11,) * 3, 0, 0, (0, 0), 0, 0, 0, 0)


def test_rates_are_measured_and_are_those_of_a_computer() -> None:
    rates = measure(torch.device("cpu"), torch.float32)
    values = [v for part in astuple(rates) for v in (part if isinstance(part, tuple) else (part,))]
    assert len(values) == 2 * len(WIDTHS) + 2 + 6
    # From the fastest accelerator to a machine a thousand times slower than ours.
    assert all(1e-16 < value < 1 for value in values)


def test_rates_between_measured_widths_lie_between_theirs() -> None:
    assert RATES.products(64) == 4e-11
    assert 3e-11 < RATES.products(100) < 4e-11
    assert RATES.products(8) == 4e-11  # beyond the ends, the ends
    assert RATES.products(4096, wide=True) == 7e-11
    assert RATES.eigen(64) == 1e-4
    assert RATES.eigen(256) == pytest.approx(4e-3, rel=1e-12)
    assert RATES.eigen(1024) == pytest.approx(4e-3 * 40, rel=1e-12)  # four times the side, forty times the time
    assert RATES.traffic(2**20) == 1e-11
    assert RATES.traffic(2**30) == 4e-11


def test_products_of_the_passes_are_counted_exactly() -> None:
    """A forward pass of N inputs takes N Σ n m multiplications, a backward one the same without the first layer, an
    update the same as the forward pass; and only that costs anything at these rates."""
    task = replace(_task(32, 1, 4), network=DenseNetwork(5, 1, 3, 32, "tanh"))
    first, rest = 5 * 32, 32 * 32 + 32
    steps = 4  # 0..3, all probed
    phases = Cost(task, PRODUCTS_ALONE).phases(2)
    assert phases["forward"] == pytest.approx(2 * 4 * (first + rest) * steps * 1e-11, rel=1e-12)
    assert phases["backward"] == pytest.approx(2 * 4 * rest * steps * 1e-11, rel=1e-12)
    assert phases["update"] == pytest.approx(2 * 4 * (first + rest) * 3 * 1e-11, rel=1e-12)
    assert phases["kernel"] == pytest.approx(2 * 16 * (5 + 32 + 32 + 32 + 32 + 1) * 5 * 1e-11, rel=1e-12)
    assert phases["probes"] == pytest.approx(phases["forward"], rel=1e-12)  # as many test inputs


def test_more_of_anything_costs_more() -> None:
    def seconds(runs: int = 10, **changes: object) -> float:
        return Cost(_task(64, 0, 8, **changes), RATES).seconds(runs)

    task = _task(64, 0, 8)
    few = {"probed": frozenset({0, 30}), "steps": 30, "keep_outputs": frozenset()}
    assert seconds(11) > seconds(10)
    assert Cost(_task(128, 0, 8), RATES).seconds(10) > seconds()
    assert Cost(_task(64, 0, 16), RATES).seconds(10) > seconds()
    assert Cost(_task(64, 0, 8, outputs=3), RATES).seconds(10) > seconds()
    assert seconds(**few) > seconds(**few, batch=2)
    assert seconds(**few, momentum=0.5) > seconds(**few)
    assert seconds(**(few | {"probed": frozenset(range(31))})) > seconds(**few)
    assert seconds(detailed=frozenset({0, 3})) > seconds()
    assert seconds(dtype=torch.float64) > seconds()
    assert set(Cost(task, RATES).phases(10)) == set(PHASES)


def test_a_training_of_no_steps_costs_no_update() -> None:
    still = Cost(_task(64, 0, 8, steps=0, probed=frozenset({0}), keep_outputs=frozenset()), RATES).phases(10)
    assert still["update"] == 0
    assert all(seconds > 0 for phase, seconds in still.items() if phase not in ("update", "detail"))
