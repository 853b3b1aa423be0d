"""The network's definition, its initial weights and its passes."""

import math

import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.theory.activations import ACTIVATIONS


def test_forward_is_the_definition() -> None:
    net = DenseNetwork(3, 2, 3, (5, 4), "tanh", 0.2, 1.5)
    params = net.init([7], torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = x
    for layer, width in enumerate((3, 5, 4)):
        z = 1.5 / math.sqrt(width) * a @ params.weights[layer][0].T + 0.2 * params.biases[layer][0]
        a = torch.tanh(z)
    assert torch.allclose(net.apply(params, x)[0], z, rtol=1e-13, atol=1e-14)


def test_same_seed_same_network_in_any_stack_and_precision() -> None:
    net = DenseNetwork(3, 1, 3, 8)
    alone, stacked = net.init([5], torch.float64), net.init([1, 5, 2], torch.float64)
    single = net.init([5], torch.float32)
    for one, three, low in zip(alone, stacked, single, strict=True):
        assert torch.equal(one[0], three[1])
        assert torch.equal(one[0].float(), low[0])


def test_initial_weights_are_standard_normal_and_independent() -> None:
    """Between seeds, layers, roles and widths. Bounds are 5 standard errors of the mean, the variance, the excess
    kurtosis and the correlation of N = 2.5e5 numbers: 5/√N, 5√(2/N), 5√(24/N), 5/√N."""
    net = DenseNetwork(500, 500, 2, 500)
    params = net.init([0, 1], torch.float64)
    w0, w0_other, w1 = params.weights[0][0].flatten(), params.weights[0][1].flatten(), params.weights[1][0].flatten()
    wider = DenseNetwork(500, 500, 2, 600).init([0], torch.float64).weights[0][0, :500].flatten()
    for w in (w0, w0_other, w1, wider):
        assert abs(float(w.mean())) < 0.01
        assert abs(float(w.var()) - 1) < 0.0142
        assert abs(float((w**4).mean() / w.var() ** 2) - 3) < 0.049
    for first, second in ((w0, w0_other), (w0, w1), (w0, wider)):
        assert abs(float((first * second).mean())) < 0.01
    biases = params.biases[0][0]
    assert abs(float((biases * w0[: len(biases)]).mean())) < 0.224  # 5/√500


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.3)"])
def test_output_gradients_equal_plain_autograd(name: str) -> None:
    """δ_i(x) by perturbing z^(l) of one input in an independent forward pass."""
    net = DenseNetwork(3, 2, 3, (4, 5), name, 0.2, 1.1)
    params = net.init([0, 1], torch.float64)
    x = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    forward = net.forward(params, x)
    deltas = net.output_gradients(forward)
    sigma = ACTIVATIONS["leaky_relu"].function if "(" in name else ACTIVATIONS[name].function
    if "(" in name:
        sigma = lambda z: torch.where(z > 0, z, 0.3 * z)  # noqa: E731
    for seed in range(2):
        for start in range(3):

            def rest(z: torch.Tensor, start: int = start, seed: int = seed) -> torch.Tensor:
                for layer in range(start + 1, 3):
                    w, b = params.weights[layer][seed], params.biases[layer][seed]
                    z = net.scales[layer].weight * w @ sigma(z) + net.beta * b
                return z

            for k in range(3):
                jacobian = torch.autograd.functional.jacobian(rest, forward.z[start][seed, k].detach())
                assert torch.allclose(deltas[start][seed, k], jacobian, rtol=1e-12, atol=1e-13)


def test_pullback_is_the_sum_of_output_gradients() -> None:
    net = DenseNetwork(3, 2, 3, 4, "erf")
    forward = net.forward(net.init([0], torch.float64), torch.ones(5, 3, dtype=torch.float64))
    v = torch.randn(1, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for summed, delta in zip(net.pullback(forward, v), net.output_gradients(forward), strict=True):
        assert torch.allclose(summed, (v.unsqueeze(3) * delta).sum(dim=2), rtol=1e-13, atol=1e-15)


def test_parameter_count() -> None:
    net = DenseNetwork(3, 2, 3, (5, 4))
    params = net.init([0])
    assert net.parameter_count == sum(p[0].numel() for p in params) == 4 * 5 + 6 * 4 + 5 * 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((3, 1, 0, 4), "at least 1"),
        ((3, 1, 3, 0), "at least 1"),
        ((3, 1, 3, (4,)), "1 widths for the 2 hidden layers"),
        ((3, 1, 3, 4, "rleu"), "did you mean 'relu'"),
        ((3, 1, 3, 4, "relu", -1.0), "negative"),
        ((3, 1, 3, 4, "relu", 0.1, 0.0), "positive"),
        ((3, 1, 3, 4, "leaky_relu(much)"), "finite number"),
    ],
)
def test_impossible_networks_are_a_sentence(arguments: tuple, match: str) -> None:
    with pytest.raises(UserError, match=match):
        DenseNetwork(*arguments)


def test_inputs_of_the_wrong_size_are_a_sentence() -> None:
    net = DenseNetwork(3, 1, 2, 4)
    with pytest.raises(UserError, match=r"takes \(N, 3\)"):
        net.apply(net.init([0]), torch.ones(2, 4))
