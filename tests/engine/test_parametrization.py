"""Where a network's scales stand: each parametrization against its definition written out, and against theory."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ntkrun
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.parametrization import PARAMETRIZATIONS
from ntkrun.engine.stack import run_stack
from ntkrun.engine.task import StackTask
from ntkrun.errors import UserError
from ntkrun.theory.limit import Parametrization, expected_kernel, limit_kernels, relative_step_size
from ntkrun.theory.losses import LOSSES
from tests.engine.small import problem, states

SIGMA_W, BETA = 1.3, 0.4
every = pytest.mark.parametrize("name", PARAMETRIZATIONS)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _net(name: str, width: int | tuple[int, ...] = (7, 5), outputs: int = 2, depth: int = 3) -> DenseNetwork:
    return DenseNetwork(3, outputs, depth, width, "erf", BETA, SIGMA_W, name)


def _written_out(net: DenseNetwork, parameters: list[Tensor], x: Tensor) -> Tensor:
    """F by theory.md section 1, with no use of the network's own scales."""
    a = x
    for layer in range(net.depth):
        w, b, n = parameters[layer], parameters[net.depth + layer], net.widths[layer]
        z = a @ w.T + b if net.parametrization == "standard" else SIGMA_W / math.sqrt(n) * a @ w.T + BETA * b
        a = torch.erf(z)
    return z / math.sqrt(net.widths[-2]) if net.parametrization == "mean_field" else z


@every
def test_forward_is_the_definition(name: str) -> None:
    net, x = _net(name), _draw(6, 3)
    params = net.init([7], torch.float64)
    expected = _written_out(net, [p[0] for p in params], x)
    assert torch.allclose(net.apply(params, x)[0], expected, rtol=1e-13, atol=1e-14)


@every
@pytest.mark.parametrize(("depth", "width"), [(1, 4), (2, 6), (4, (7, 4, 5))])
def test_the_kernel_is_the_squared_jacobian(name: str, depth: int, width: int | tuple[int, ...]) -> None:
    """1e-10: both sum the same products in float64. The full kernel, its diagonal and its trace."""
    net, x, x2 = _net(name, width, 2, depth), _draw(6, 3), _draw(4, 3, seed=1)
    params = net.init([0, 3], torch.float64)
    oracle = jacobian_ntk(net, params, x, x2)
    diagonal = oracle.diagonal(dim1=3, dim2=4)
    for outputs, wanted in (("full", oracle), ("diagonal", diagonal), ("trace", diagonal.sum(dim=3))):
        found = ntkrun.empirical_ntk(net, params, x, x2, outputs=outputs)  # type: ignore[arg-type]
        assert (found - wanted).norm() <= 1e-10 * wanted.norm()


@every
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_weights_equal_torch_sgd(name: str, loss: str, momentum: float) -> None:
    """1e-10 in float64: both sum the same products, and fifteen steps of a stable descent do not magnify rounding."""
    net, x, y = _net(name), _draw(6, 3), _draw(6, 2, seed=1)
    step = 0.1 if name == "ntk" else 0.02 if name == "standard" else 0.5
    plain = [nn.Parameter(p[0].clone()) for p in net.init([3], torch.float64)]
    optimiser = torch.optim.SGD(plain, lr=step, momentum=momentum)
    for state in states(problem(net, [3], x, y, step, 15, loss, momentum), {0, 3, 4, 15}):
        if state.step == 15:
            break
        optimiser.zero_grad()
        LOSSES[loss](_written_out(net, list(plain), x), y).backward()
        optimiser.step()
    for ours, theirs in zip(state.params, plain, strict=True):
        assert (ours[0] - theirs.detach()).norm() <= 1e-10 * theirs.norm()


def test_ntk_and_standard_start_as_the_same_function() -> None:
    """To rounding: the scale moves from the forward pass into the weights."""
    ntk, standard = _net("ntk", 64), _net("standard", 64)
    x = _draw(5, 3)
    outputs = [net.apply(net.init([1, 2], torch.float64), x) for net in (ntk, standard)]
    assert torch.allclose(*outputs, rtol=1e-12, atol=1e-14)
    first = standard.init([1], torch.float64).weights[1]
    assert float(first.std()) == pytest.approx(SIGMA_W / 8, rel=0.05)  # 4096 numbers: 4.5 times their error


def test_initial_biases_of_the_standard_network_have_size_beta() -> None:
    biases = _net("standard", 4096, depth=2).init([0], torch.float64).biases[0]
    assert float(biases.std()) == pytest.approx(BETA, rel=0.05)


def test_the_mean_field_kernel_is_that_of_ntk_over_the_width() -> None:
    """Exactly, where √n is a power of two; the last hidden width counts."""
    x = _draw(5, 3)
    ntk, mean = (
        ntkrun.empirical_ntk(net := _net(name, (7, 16)), net.init([0, 1], torch.float64), x)
        for name in ("ntk", "mean_field")
    )
    assert torch.equal(mean, ntk / 16)


def test_without_hidden_layers_mean_field_is_ntk() -> None:
    assert _net("mean_field", 1, depth=1).scales == _net("ntk", 1, depth=1).scales


def test_the_standard_kernel_grows_like_the_width() -> None:
    """Of K_n/n the part that does not grow is 1/n of it: 16 times as wide, 16 times as large within 20 %."""
    x = _draw(4, 3)
    norms = []
    for width in (128, 2048):
        net = _net("standard", width, 1)
        norms.append(float(ntkrun.empirical_ntk(net, net.init(range(4), torch.float64), x).mean(dim=0).norm()))
    assert norms[1] / norms[0] == pytest.approx(16, rel=0.2)


@every
def test_the_expected_kernel_is_the_mean_over_networks(name: Parametrization) -> None:
    """Within 4 standard errors of 24 networks of width 512, beside which the bias of 1/512 is small."""
    net, x = _net(name, 512, 1), _draw(4, 3)
    kernels = ntkrun.empirical_ntk(net, net.init(range(24)), x.float()).double()[..., 0, 0]
    error = kernels.std(dim=0) / math.sqrt(len(kernels))
    expected = expected_kernel(net, x)
    assert ((kernels.mean(dim=0) - expected).abs() <= 4 * error).all()
    assert torch.equal(expected, expected_kernel(_net("ntk", 512, 1), x, parametrization=name))


def test_the_limit_kernels_are_those_of_the_network_s_own_parametrization() -> None:
    x = _draw(4, 3)
    for name in ("ntk", "standard", "mean_field"):
        assert torch.equal(limit_kernels(_net(name), x).ntk, limit_kernels(_net("ntk"), x, parametrization=name).ntk)  # type: ignore[arg-type]
    assert not torch.equal(limit_kernels(_net("standard"), x).ntk, limit_kernels(_net("ntk"), x).ntk)


@every
def test_a_relative_step_is_relative_to_the_kernel_of_the_parametrization(name: str) -> None:
    """Over networks of width 1024, λ_max scatters by about 5 %: the mean of eight lies within 4 of its errors, 7 %."""
    net, x = _net(name, 1024, 1), _draw(8, 3)
    kernels = ntkrun.empirical_ntk(net, net.init(range(8)), x.float()).double()[..., 0, 0]
    largest = torch.linalg.eigvalsh(kernels)[:, -1] / len(x)
    assert float(largest.mean()) * relative_step_size(net, x, 1.5) == pytest.approx(1.5, rel=0.07)


def test_what_is_no_parametrization_is_a_sentence() -> None:
    with pytest.raises(UserError, match="'mup': choose ntk, standard, mean_field"):
        _net("mup")
    relu = DenseNetwork(3, 1, 3, 8, "relu", 0.0, parametrization="standard")
    with pytest.raises(UserError, match="not in the standard one"):
        ntkrun.kernel_variance(relu)


def _drift(name: str, width: int) -> float:
    """The kernel drift after forty relative steps, mean over four networks."""
    net, x, y = _net(name, width, 1), _draw(6, 3).numpy(), _draw(6, 1, seed=2).numpy()
    eta, probed = relative_step_size(net, x, 1.0), frozenset({0, 40})
    task = StackTask(net, range(4), x, y, x[:0], y[:0], eta, 40, probed, frozenset(), False, torch.float32)
    return float(np.mean(run_stack(task, torch.device("cpu")).steps["kernel_drift"][-4:]))


def test_the_kernel_freezes_in_every_parametrization_but_mean_field() -> None:
    """16 times as wide: the drift falls 16 times or so (exponent -1 for a smooth σ), and does not under mean_field."""
    ratios = {name: _drift(name, 1024) / _drift(name, 64) for name in PARAMETRIZATIONS}
    assert ratios["ntk"] < 1 / 8
    assert ratios["standard"] < 1 / 8
    assert 0.5 < ratios["mean_field"] < 2
