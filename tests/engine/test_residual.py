"""Residual networks against their definition, Jacobians, plain gradient descent and dense networks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import empirical_ntk, jacobian_ntk
from ntkrun.engine.network import Parameters
from ntkrun.engine.residual import ResidualNetwork
from ntkrun.engine.stack import run_stack
from ntkrun.errors import UserError
from tests.engine.small import ETA, draw, small_task

CPU = torch.device("cpu")
SHAPES = [(1, 5), (2, 5), (3, 5), (5, 7)]  # depth, width


def _net(depth: int, width: int, outputs: int = 2, skip: float = 0.7, activation: str = "erf") -> ResidualNetwork:
    return ResidualNetwork(3, outputs, depth, width, activation, 0.3, 1.4, skip=skip)


def _stream(net: ResidualNetwork, params: Parameters, x: Tensor) -> list[Tensor]:
    """z^(1), ..., z^(L) of the first network of the stack on one input, written out."""
    w, b = ([p[0] for p in part] for part in (params.weights, params.biases))
    z = [1.4 / math.sqrt(3) * w[0] @ x + 0.3 * b[0]]
    for layer in range(1, net.depth):
        z.append(1.4 / math.sqrt(net.widths[1]) * w[layer] @ torch.erf(z[-1]) + 0.3 * b[layer])
        if layer < net.depth - 1:
            z[-1] = net.skip * z[-2] + z[-1]
    return z


@pytest.mark.parametrize(("depth", "width"), SHAPES)
def test_the_forward_pass_is_the_definition(depth: int, width: int) -> None:
    net, x = _net(depth, width), draw(4, 3, seed=0)
    params = net.init([5, 6], torch.float64)
    forward = net.forward(params, x)
    for k, point in enumerate(x):
        for found, expected in zip(forward.z, _stream(net, params, point), strict=True):
            assert torch.allclose(found[0, k], expected, rtol=1e-13, atol=1e-14)
        one = net.of_one_input([w[0] for w in params.weights], [b[0] for b in params.biases], point)
        assert torch.allclose(forward.outputs[0, k], one, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("depth", "width"), SHAPES)
@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mean_field"])
def test_the_kernel_is_the_jacobian_squared(depth: int, width: int, parametrization: str) -> None:
    net = ResidualNetwork(3, 2, depth, width, "silu", 0.3, 1.4, parametrization, skip=0.7)
    params, x = net.init([5, 6], torch.float64), draw(4, 3, seed=0)
    expected = jacobian_ntk(net, params, x)
    assert (empirical_ntk(net, params, x) - expected).abs().max() <= 1e-13 * expected.abs().max()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_without_a_skip_it_is_the_dense_network(depth: int) -> None:
    """To the bit, as adding zero changes no finite number. Up to depth 2 there is nothing to skip."""
    dense, net = DenseNetwork(3, 2, depth, 6, "erf"), ResidualNetwork(3, 2, depth, 6, "erf", skip=1.0 * (depth < 3))
    for mine, its in zip(net.init([1], torch.float64), dense.init([1], torch.float64), strict=True):
        assert torch.equal(mine, its)
    tasks = (small_task(kind, "squared", 5, detailed=frozenset({0, 5})) for kind in (net, dense))
    found, expected = (run_stack(task, CPU) for task in tasks)
    np.testing.assert_equal(found.steps, expected.steps)
    np.testing.assert_equal(found.layers, expected.layers)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_training_is_gradient_descent(momentum: float) -> None:
    net = _net(4, 6, outputs=1)
    task = small_task(net, "squared", 6, seeds=[7], momentum=momentum)
    result = run_stack(task, CPU)
    start = [p[0] for p in net.init([7], torch.float64)]
    now, velocity = [p.clone() for p in start], [torch.zeros_like(p) for p in start]
    x, y = torch.tensor(task.x), torch.tensor(task.y)
    for step in range(7):
        now = [p.detach().requires_grad_() for p in now]
        weights, biases = now[: net.depth], now[net.depth :]
        f = torch.stack([net.of_one_input(weights, biases, point) for point in x])
        loss = (f - y).square().sum() / (2 * len(x))
        gradients = torch.autograd.grad(loss, now)
        assert result.steps["loss"][step] == pytest.approx(float(loss.detach()), rel=1e-11)
        drift = torch.cat([(p - p0).detach().flatten() for p, p0 in zip(now, start, strict=True)]).norm()
        size = torch.cat([p0.flatten() for p0 in start]).norm()
        assert result.steps["weight_drift"][step] == pytest.approx(float(drift / size), rel=1e-10, abs=1e-15)
        velocity = [momentum * v - ETA * g for v, g in zip(velocity, gradients, strict=True)]
        now = [p + v for p, v in zip(now, velocity, strict=True)]


def test_subnetworks_are_those_of_the_stream() -> None:
    """K^(l+1)_11 by the Jacobian of the stream's first entry in the parameters below."""
    net = _net(4, 6, outputs=1)
    task = small_task(net, "squared", 0, seeds=[7], probed=frozenset({0}), detailed=frozenset({0}))
    params, x = net.init([7], torch.float64), torch.tensor(task.x)
    found = run_stack(task, CPU).layers
    leaves = Parameters(*([p.clone().requires_grad_() for p in part] for part in (params.weights, params.biases)))
    for layer in range(4):
        rows = []
        for point in x:
            first = _stream(net, leaves, point)[layer][0]
            gradients = torch.autograd.grad(first, list(leaves), allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in gradients]))
        kernel = torch.stack(rows) @ torch.stack(rows).T
        assert found["subnetwork_kernel_norm"][layer] == pytest.approx(float(kernel.norm()), rel=1e-11)


def test_its_layers_have_names() -> None:
    assert [layer.name for layer in _net(5, 7).layers] == ["input", "block 1", "block 2", "block 3", "output"]
    assert [layer.name for layer in DenseNetwork(3, 1, 3, 4).layers] == ["input", "hidden 1", "output"]
    assert [layer.name for layer in _net(1, 7).layers] == ["output"]


def test_hidden_layers_are_equally_wide_and_the_skip_is_a_number() -> None:
    with pytest.raises(UserError, match="equally wide"):
        ResidualNetwork(3, 1, 4, (5, 5, 6))
    ResidualNetwork(3, 1, 4, (5, 5, 5))
    with pytest.raises(UserError, match="finite"):
        ResidualNetwork(3, 1, 4, 5, skip=math.nan)
