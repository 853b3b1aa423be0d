"""The layerwise kernel against the squared Jacobian."""

import pytest
import torch

import ntkrun
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.errors import UserError
from ntkrun.theory.activations import ACTIVATIONS

# Both routes sum the same products in float64; 1e-10 is the contract, and rounding stays below 1e-13.
TOLERANCE = 1e-10


def _inputs(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _same(net: DenseNetwork, x: torch.Tensor, x2: torch.Tensor | None) -> None:
    params = net.init([0, 3], torch.float64)
    fast, oracle = ntkrun.empirical_ntk(net, params, x, x2), jacobian_ntk(net, params, x, x2)
    assert fast.shape == oracle.shape == (2, len(x), len(x if x2 is None else x2), net.outputs, net.outputs)
    assert (fast - oracle).norm() <= TOLERANCE * oracle.norm()


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.3)"])
def test_every_activation(name: str) -> None:
    _same(DenseNetwork(4, 2, 3, (6, 5), name, 0.3, 1.3), _inputs(5, 4), _inputs(3, 4, 1))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize(("depth", "width"), [(1, 9), (2, 7), (3, (2, 9)), (4, (8, 3, 5)), (5, 6)])
def test_every_shape(depth: int, width: int | tuple[int, ...], beta: float, outputs: int) -> None:
    net = DenseNetwork(4, outputs, depth, width, "relu", beta, 0.7)
    _same(net, _inputs(6, 4), None)
    _same(net, _inputs(6, 4), _inputs(4, 4, 1))


def test_one_input_and_one_neuron() -> None:
    _same(DenseNetwork(1, 1, 2, 1, "tanh"), _inputs(1, 1), None)


def test_float32_agrees_to_its_rounding() -> None:
    net = DenseNetwork(10, 1, 4, 64)
    x = _inputs(8, 10)
    low = ntkrun.empirical_ntk(net, net.init([0]), x.float())
    high = ntkrun.empirical_ntk(net, net.init([0], torch.float64), x)
    assert low.dtype == torch.float32
    assert (low - high).norm() <= 1e-5 * high.norm()  # products of 64 terms through 4 layers, each off by 6e-8


def test_no_inputs_is_a_sentence() -> None:
    net = DenseNetwork(3, 1, 2, 4)
    with pytest.raises(UserError, match="at least one"):
        ntkrun.empirical_ntk(net, net.init([0]), torch.ones(0, 3))
