"""What is measured of untrained networks, against Jacobians and plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ntkrun.columns import START, TABLES
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.network import Parameters
from ntkrun.engine.output_scale import OutputScale
from ntkrun.engine.stack import run_stack
from ntkrun.engine.task import StackTask
from ntkrun.theory.activations import activation
from ntkrun.theory.limit import limit_kernels, limit_layers
from tests.engine.small import ETA, small_task

CPU, STEPS = torch.device("cpu"), 4
NET = DenseNetwork(3, 2, 3, (8, 7), "tanh", 0.3, 1.4)
OF_START = {table: [name for name, column in TABLES[table].items() if column.when == START] for table in TABLES}


def _task(net: DenseNetwork = NET, **changes: object) -> StackTask:
    task = small_task(net, "squared", STEPS, **{"keep_outputs": frozenset({0, STEPS}), **changes})
    limits = limit_layers(net, task.x)
    points = torch.tensor(np.concatenate([task.x, task.x_test]))
    return replace(task, limit_layers=limits, limit=limit_kernels(net, points, torch.tensor(task.x)).ntk.numpy())


def _of_run(columns: dict[str, list[float]], position: int, step: int) -> dict[str, np.ndarray]:
    rows = list(zip(columns["position"], columns["step"], strict=True))
    chosen = [k for k, row in enumerate(rows) if row == (position, step)]
    return {name: np.array(values)[chosen] for name, values in columns.items()}


def test_layers_equal_their_definitions() -> None:
    task = _task()
    assert task.limit_layers is not None
    found = _of_run(run_stack(task, CPU).layers, 1, 0)
    x, params, limits = torch.tensor(task.x), NET.init([7], torch.float64), task.limit_layers
    sigma, a, below = activation("tanh").function, torch.tensor(task.x), None
    for l in range(3):
        n, m = NET.widths[l], NET.widths[l + 1]
        c = 1.4**2 * a @ a.T / n + 0.3**2
        z = 1.4 / math.sqrt(n) * a @ params.weights[l][0].T + 0.3 * params.biases[l][0]
        net = DenseNetwork(3, m, l + 1, NET.widths[1 : l + 1], "tanh", 0.3, 1.4)
        kernel = jacobian_ntk(net, Parameters(params.weights[: l + 1], params.biases[: l + 1]), x)[0]
        one = kernel[:, :, 0, 0]
        unit = z / c.diagonal().sqrt().unsqueeze(1)
        pairs = [sum(row[i] * row[j] for i in range(m) for j in range(m) if i != j) for row in unit]
        expected = {
            "covariance_projection": (c * limits.nngp[l]).sum() / limits.nngp[l].square().sum(),
            "covariance_distance": (c - limits.nngp[l]).norm() / limits.nngp[l].norm(),
            "kernel_projection": (one * limits.ntk[l]).sum() / limits.ntk[l].square().sum(),
            "subnetwork_off_diagonal": kernel[:, :, 0, 1].norm() / one.norm(),
            "neuron_mean": unit.sum(dim=1).mean() / math.sqrt(m),
            "neuron_second": unit.square().mean(),
            "neuron_fourth": (unit**4).mean() / 3,
            "neuron_coupling": sum(pairs) / len(pairs) / math.sqrt(2 * m * (m - 1)),
        }
        if below is not None:
            carried = below * limits.slopes[l - 1]
            expected["carried_projection"] = ((one - c) * carried).sum() / carried.square().sum()
        else:
            assert np.isnan(found["carried_projection"][l])
        assert {*expected, "carried_projection"} == set(OF_START["layers"])
        for name, value in expected.items():
            assert found[name][l] == pytest.approx(float(value), rel=1e-10, abs=1e-13), (name, l)
        a, below = sigma(z), limits.ntk[l]


def test_they_are_measured_where_outputs_of_step_0_are_stored() -> None:
    result = run_stack(_task(), CPU)
    for step in range(1, STEPS + 1):
        assert all(np.isnan(_of_run(result.layers, 0, step)[name]).all() for name in OF_START["layers"])
        assert all(np.isnan(_of_run(result.steps, 0, step)[name]).all() for name in OF_START["steps"])
    without = run_stack(_task(keep_outputs=frozenset({STEPS})), CPU)
    assert all(np.isnan(without.layers[name]).all() for name in OF_START["layers"])


def test_one_neuron_and_no_limit_leave_gaps() -> None:
    task = replace(_task(DenseNetwork(3, 1, 2, 6, "erf")), limit_layers=None)
    found = _of_run(run_stack(task, CPU).layers, 0, 0)
    for name in ("neuron_coupling", "subnetwork_off_diagonal"):
        assert np.isfinite(found[name][0])
        assert np.isnan(found[name][1])
    assert np.isnan(found["kernel_projection"]).all()
    assert np.isfinite(found["neuron_second"]).all()


@pytest.mark.parametrize("sigma", ["erf", "relu"])
@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mean_field"])
def test_the_kernel_agrees_with_a_second_computation(sigma: str, parametrization: str) -> None:
    net = DenseNetwork(3, 2, 3, 30, sigma, 0.3, 1.2, parametrization)
    task = replace(small_task(net, "squared", 1, keep_outputs=frozenset({0})), step_size=1e-4)
    first = _of_run(run_stack(task, CPU).steps, 0, 0)
    # Differences of F are good to its rounding over their size, 1e-9.
    assert first["kernel_error"][0] < 1e-7
    assert first["last_layer_error"][0] < 1e-7


def test_a_kernel_that_was_taken_late_does_not_agree() -> None:
    """The second computation draws the weights again: here the first has those after a step."""

    class Late(DenseNetwork):
        calls = 0

        def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
            params = super().init(seeds, dtype, device)
            if not Late.calls:
                params.weights[1] *= 1.02
            Late.calls += 1
            return params

    task = small_task(Late(3, 1, 3, 30, "erf"), "squared", 1, keep_outputs=frozenset({0}))
    assert _of_run(run_stack(task, CPU).steps, 0, 0)["kernel_error"][0] > 1e-3


def test_untrained_networks_are_not_computed_twice() -> None:
    task = small_task(NET, "squared", 0, keep_outputs=frozenset({0}))
    assert np.isnan(run_stack(task, CPU).steps["kernel_error"]).all()


def test_weights_follow_the_flow_of_small_steps() -> None:
    """With steps a hundred times smaller, and an output so scaled up that the kernel stays, the weights are those of
    the flow, which is computed from the kernel alone."""
    gaps = []
    for fine in (1, 10, 100):
        task = small_task(DenseNetwork(3, 2, 3, 30, "erf"), "squared", 4 * fine, scale=OutputScale(1e4, centred=True))
        task = replace(task, step_size=ETA / fine, keep_outputs=frozenset({4 * fine}))
        last = _of_run(run_stack(task, CPU).steps, 0, 4 * fine)
        gaps.append(last["flow_weight_gap"][0] / last["weight_drift"][0])
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.2)  # of first order in the step
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.2)
