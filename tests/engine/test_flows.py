"""The frozen-kernel predictions beside a training: against a linearised network with its Jacobian, and the theory."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.output_scale import OutputScale
from ntkrun.engine.stack import run_stack
from ntkrun.engine.task import StackTask
from ntkrun.engine.training import batches
from ntkrun.theory.dynamics import frozen
from ntkrun.theory.limit import limit_kernels
from ntkrun.theory.losses import LOSSES
from tests.engine.small import ETA, points, small_task

CPU, STEPS = torch.device("cpu"), 15


def _task(net: DenseNetwork, loss: str = "squared", **changes: object) -> StackTask:
    x, x_test = points()
    limit = limit_kernels(net, torch.cat([x, x_test]), x).ntk.numpy()
    return small_task(net, loss, STEPS, **{"probed": frozenset({0, 1, 6, STEPS}), "limit": limit, **changes})


def _rows(task: StackTask, position: int) -> dict[int, dict[str, float]]:
    steps = run_stack(task, CPU).steps
    chosen = [k for k, p in enumerate(steps["position"]) if p == position]
    return {int(steps["step"][k]): {name: values[k] for name, values in steps.items()} for k in chosen}


def _descended(task: StackTask, seed: int, linear: bool) -> dict[int, tuple[Tensor, Tensor, float]]:
    """f on training and test inputs at every step, of the network or F_0 + J ΔW, by autograd on the weights; and
    ‖ΔW‖/‖W_0‖."""
    net, points = task.network, torch.tensor(np.concatenate([task.x, task.x_test]))
    alpha = task.scale.factor
    start = {str(k): p[0].clone() for k, p in enumerate(net.init([seed], torch.float64))}

    def network(weights: dict[str, Tensor]) -> Tensor:
        a = points
        for layer in range(net.depth):
            w, b = weights[str(layer)], weights[str(net.depth + layer)]
            z = a @ w.T * (net.weight_scale / math.sqrt(net.widths[layer])) + net.beta * b
            a = torch.erf(z)
        return z

    jacobian, first = jacrev(network)(start), network(start)

    def outputs(weights: dict[str, Tensor]) -> Tensor:
        moved = {k: weights[k] - start[k] for k in start}
        added = sum(torch.tensordot(jacobian[k], moved[k], dims=moved[k].ndim) for k in start)
        found = first + added if linear else network(weights)
        return alpha * (found - first) if task.scale.centred else alpha * found

    drawn = None if task.batch is None else batches(net, [seed], len(task.x), task.batch, CPU)
    weights, velocity = dict(start), {k: torch.zeros_like(p) for k, p in start.items()}
    y, found = torch.tensor(task.y), {}
    for step in range(task.steps + 1):
        weights = {k: p.detach().requires_grad_() for k, p in weights.items()}
        f = outputs(weights)
        moved, size = (_size([weights[k] - p for k, p in start.items()]), _size(start.values()))
        found[step] = (f[: len(y)].detach(), f[len(y) :].detach(), moved / size)
        seen = slice(None) if drawn is None else next(drawn)[0]
        (LOSSES[task.loss](f[: len(y)][seen], y[seen]) / alpha**2).backward()
        velocity = {k: task.momentum * velocity[k] - task.step_size * weights[k].grad for k in start}
        weights = {k: weights[k] + velocity[k] for k in start}
    return found


def _size(parameters: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(p.detach().square().sum()) for p in parameters))


@pytest.mark.parametrize(
    ("loss", "outputs", "changes"),
    [
        ("squared", 1, {}),
        ("squared", 2, {"momentum": 0.7}),
        ("squared", 2, {"batch": 3}),
        ("cross_entropy", 3, {"batch": 4, "momentum": 0.5}),
        ("logistic", 1, {}),
        ("squared", 2, {"scale": OutputScale(0.6)}),
        ("cross_entropy", 3, {"scale": OutputScale(2.5, centred=True), "batch": 4, "momentum": 0.5}),
    ],
)
def test_the_linearised_network_takes_the_steps_of_the_network(loss: str, outputs: int, changes: dict) -> None:
    """1e-10: the function-space recursion and weights moved through a Jacobian sum the same products in float64."""
    task = _task(DenseNetwork(3, outputs, 3, (7, 6), "erf", 0.3, 1.3), loss, **changes)
    rows = _rows(task, 1)
    network, linear = (_descended(task, task.seeds[1], linear=which) for which in (False, True))
    for step, row in rows.items():
        for prefix, part, y in (("", 0, task.y), ("test_", 1, task.y_test)):
            gaps = (network[step][part] - linear[step][part]).norm(dim=1)
            assert row[f"{prefix}linear_gap"] == pytest.approx(float(gaps.max()), rel=1e-9, abs=1e-12)
            root_mean_square = float(gaps.square().mean().sqrt())
            assert row[f"{prefix}linear_rms_gap"] == pytest.approx(root_mean_square, rel=1e-9, abs=1e-12)
            expected = LOSSES[loss](linear[step][part], torch.tensor(y))
            assert row[f"{prefix}linear_loss"] == pytest.approx(float(expected), rel=1e-10, abs=1e-13)
        assert row["linear_weight_drift"] == pytest.approx(linear[step][2], rel=1e-10, abs=1e-13)
        assert row["weight_drift"] == pytest.approx(network[step][2], rel=1e-10, abs=1e-13)
        if loss != "squared":
            assert math.isnan(row["flow_gap"])
            assert math.isnan(row["limit_loss"])
    assert rows[STEPS]["linear_gap"] > 1e-3  # they do part


@pytest.mark.parametrize("scale", [OutputScale(), OutputScale(2.5), OutputScale(0.6, centred=True)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_flows_are_those_of_the_theory(outputs: int, scale: OutputScale) -> None:
    net = DenseNetwork(3, outputs, 3, (7, 6), "erf", 0.3, 1.3)
    task = _task(net, scale=scale)
    rows, network = _rows(task, 0), _descended(task, task.seeds[0], linear=False)
    x, x_test, y = (torch.tensor(part) for part in (task.x, task.x_test, task.y))
    params = net.init([task.seeds[0]], torch.float64)
    kernels = {
        "flow": (jacobian_ntk(net, params, x)[0], jacobian_ntk(net, params, x_test, x)[0]),
        "limit": (limit_kernels(net, x).ntk, limit_kernels(net, x_test, x).ntk),
    }
    start, test_start = (scale.start(net.apply(params, part)[0]) for part in (x, x_test))
    for name, (kernel, cross) in kernels.items():
        predicted = frozen(kernel, y, start, [k * ETA for k in rows], cross=cross, test_start=test_start)
        assert predicted.test is not None
        for at, (step, row) in enumerate(rows.items()):
            gap = (network[step][0] - predicted.train[at]).norm(dim=1).max()
            assert row[f"{name}_gap"] == pytest.approx(float(gap), rel=1e-9, abs=1e-12)
            gap = (network[step][1] - predicted.test[at]).norm(dim=1).max()
            assert row[f"test_{name}_gap"] == pytest.approx(float(gap), rel=1e-9, abs=1e-12)
            assert row[f"{name}_loss"] == pytest.approx(float(predicted.loss[at]), rel=1e-9, abs=1e-13)


def test_without_test_inputs_or_limit_the_columns_are_nan() -> None:
    task = _task(DenseNetwork(3, 1, 2, 7, "erf"), x_test=np.ones((0, 3)), y_test=np.ones((0, 1)), limit=None)
    row = _rows(task, 0)[STEPS]
    for name in ("test_linear_gap", "test_flow_loss", "limit_gap", "limit_loss", "distance_to_limit"):
        assert math.isnan(row[name]), name
    assert row["linear_gap"] > 0
    assert row["flow_gap"] > 0


def test_a_diverging_run_leaves_the_predictions_of_others_as_they_are() -> None:
    """Seed 4 starts a hundred times too large and diverges; seed 7 has the columns that it has alone."""

    class OneWild(DenseNetwork):
        def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
            params = super().init(seeds, dtype, device)
            if 4 in seeds:
                params.weights[1][list(seeds).index(4)] *= 100
            return params

    every = frozenset(range(STEPS + 1))
    mixed = _rows(_task(OneWild(3, 1, 3, 16, "relu"), probed=every), 1)
    alone = _rows(_task(DenseNetwork(3, 1, 3, 16, "relu"), probed=every, seeds=[7]), 0)
    assert len(mixed) == STEPS + 1
    for step in every:
        for name in ("linear_gap", "test_flow_gap", "limit_loss", "test_linear_loss"):
            assert mixed[step][name] == pytest.approx(alone[step][name], rel=1e-9, abs=1e-12)
