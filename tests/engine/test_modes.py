"""Residuals in the modes of the first kernel, and the outputs table, against plain loops and Jacobians."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.detail_probes import MOST, ranks
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.stack import problem_of, run_stack
from tests.engine.small import ETA, states
from tests.engine.test_detail import CPU, _rows, _task


@pytest.mark.parametrize("outputs", [1, 2])
def test_modes_equal_their_definition(outputs: int) -> None:
    net = DenseNetwork(3, outputs, 3, (7, 6), "erf", 0.3)
    task = _task(net)
    result = run_stack(task, CPU)
    x, y = torch.tensor(task.x), torch.tensor(task.y)
    kernel = jacobian_ntk(net, net.init([7], torch.float64), x)[0].permute(0, 2, 1, 3).reshape(6 * outputs, -1) / 6
    values, vectors = torch.linalg.eigh(kernel)
    signs: dict[int, float] = {}
    for state in states(problem_of(replace(task, seeds=[7]), CPU)):
        if state.step not in task.detailed:
            assert _rows(result.modes, 1, state.step)["mode"] == []
            continue
        rows = _rows(result.modes, 1, state.step)
        assert rows["mode"] == list(range(6 * outputs))
        assert rows["time"] == pytest.approx([state.step * ETA] * (6 * outputs))
        assert rows["eigenvalue"] == pytest.approx(values.flip(0).tolist(), rel=1e-9, abs=1e-14)
        residual = (net.apply(state.params, x)[0] - y).flatten()
        for mode in range(6 * outputs):
            along = float(vectors[:, -1 - mode] @ residual) / (6 * outputs) ** 0.5
            signs.setdefault(mode, 1.0 if along >= 0 else -1.0)
            # eigenvectors are good to 1e-16 over the gap to the next eigenvalue
            assert rows["residual"][mode] == pytest.approx(signs[mode] * along, rel=1e-8, abs=1e-10)
    first = _rows(result.modes, 1, 0)["residual"]
    assert min(first) >= 0
    size = sum(r * r for r in first) ** 0.5  # all modes together are the whole residual
    loss = _rows(result.steps, 1, 0)["loss"][0]
    assert size == pytest.approx((2 * loss / outputs) ** 0.5, rel=1e-10)


def test_other_losses_have_no_modes() -> None:
    assert run_stack(_task(DenseNetwork(3, 1, 3, 8, "erf"), "huber"), CPU).modes == {}
    assert run_stack(_task(DenseNetwork(3, 1, 3, 8, "erf"), detailed=frozenset()), CPU).modes == {}


def test_no_more_modes_than_are_kept() -> None:
    assert ranks(5).tolist() == [0, 1, 2, 3, 4]
    assert ranks(MOST).tolist() == list(range(MOST))
    chosen = ranks(1000)
    assert len(chosen) == MOST
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert np.diff(chosen).min() >= 15


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_outputs_equal_their_definitions(depth: int, outputs: int) -> None:
    net = DenseNetwork(3, outputs, depth, 7, "tanh", 0.3, 1.4)
    task = _task(net, keep_outputs=frozenset({0, 2}), detailed=frozenset())
    table = run_stack(task, CPU).outputs
    assert len(table["value"]) == 2 * 2 * 10 * outputs
    points = torch.tensor(np.concatenate([task.x, task.x_test]))
    for state in states(problem_of(replace(task, seeds=[7], steps=2), CPU)):
        if state.step == 1:
            continue
        rows, params = _rows(table, 1, state.step), state.params
        values, kernel = net.apply(params, points)[0], jacobian_ntk(net, params, points)[0]
        last = net.forward(params, points).uses[-1].a[0]
        expected = {name: [] for name in ("point", "output", "value", "kernel", "variance", "covariance")}  # type: dict[str, list[float]]
        for k in range(10):
            for i in range(outputs):
                factor = 1.4**2 / len(last[k])
                expected["point"].append(k)
                expected["output"].append(i)
                expected["value"].append(float(values[k, i]))
                expected["kernel"].append(float(kernel[k, k, i, i]))
                start = state.step == 0
                expected["variance"].append(factor * float(last[k] @ last[k]) + 0.09 if start else np.nan)
                expected["covariance"].append(factor * float(last[k] @ last[6 * (k >= 6)]) + 0.09 if start else np.nan)
        for name, column in expected.items():
            assert rows[name] == pytest.approx(column, rel=1e-10, abs=1e-13, nan_ok=True), name


def test_the_variance_is_that_over_last_layers() -> None:
    """Over 20000 draws of the last layer, the hidden layer kept: a variance has a standard error of sqrt(2/20000)."""
    net = DenseNetwork(3, 1, 2, 6, "relu", 0.3, 1.4)
    task = _task(net, seeds=[4], steps=0, probed=frozenset({0}), keep_outputs=frozenset({0}), detailed=frozenset())
    table = run_stack(task, CPU).outputs
    params = net.init([4], torch.float64)
    hidden = net.forward(params, torch.tensor(task.x)).activations[-2][0]
    draw = torch.Generator().manual_seed(0)
    weights, biases = (torch.randn(20000, size, generator=draw, dtype=torch.float64) for size in (6, 1))
    outputs = 1.4 / 6**0.5 * weights @ hidden.T + 0.3 * biases
    assert outputs.var(dim=0).tolist() == pytest.approx(table["variance"][:6], rel=0.05)
    assert (outputs[:, 2] * outputs[:, 0]).mean() == pytest.approx(
        table["covariance"][2], abs=0.05 * table["variance"][0]
    )


def test_thousands_of_networks_at_the_start() -> None:
    """Nothing is done run by run but drawing their weights: what a sweep over initialisations needs."""
    net = DenseNetwork(3, 2, 3, 4, "relu")
    start = frozenset({0})
    task = _task(net, seeds=range(2000), steps=0, probed=start, keep_outputs=start, detailed=frozenset())
    table = run_stack(task, CPU).outputs
    assert len(table["value"]) == 2000 * 10 * 2
    one = run_stack(_task(net, seeds=[1234], steps=0, probed=start, keep_outputs=start, detailed=frozenset()), CPU)
    rows = _rows(table, 1234, 0)
    for name in ("value", "kernel", "variance"):
        assert rows[name] == pytest.approx(one.outputs[name], rel=1e-10, abs=1e-13)
