"""Training αF or α(F - F_0) on loss/α², against torch.optim.SGD on that very loss; and what it does to the drift."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.output_scale import PLAIN, OutputScale, Readout
from ntkrun.engine.stack import run_stack
from ntkrun.engine.task import StackTask
from ntkrun.theory.limit import relative_step_size
from ntkrun.theory.losses import LOSSES
from tests.engine.small import problem, states

STEPS, ETA, SEEDS = 20, 0.1, [3, 5]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _targets(loss: str, outputs: int) -> Tensor:
    y = _draw(6, outputs, seed=1)
    return {"logistic": y.sign(), "cross_entropy": y.softmax(dim=1)}.get(loss, y)


def _network(net: DenseNetwork, parameters: list[Tensor], a: Tensor) -> Tensor:
    for layer, n in enumerate(net.widths[:-1]):
        z = net.weight_scale / math.sqrt(n) * a @ parameters[layer].T + net.beta * parameters[net.depth + layer]
        a = torch.erf(z)
    return z


def _plain_sgd(
    net: DenseNetwork, seed: int, loss: str, momentum: float, drawn: list[Tensor] | None, scale: OutputScale
) -> list[Tensor]:
    x, y, alpha = _draw(6, 3), _targets(loss, net.outputs), scale.factor
    plain = [nn.Parameter(p[0].clone()) for p in net.init([seed], torch.float64)]
    first = _network(net, list(plain), x).detach()
    optimiser = torch.optim.SGD(plain, lr=ETA, momentum=momentum)
    for step in range(STEPS):
        seen = slice(None) if drawn is None else drawn[step]
        optimiser.zero_grad()
        outputs = _network(net, list(plain), x[seen])
        f = alpha * (outputs - first[seen]) if scale.centred else alpha * outputs
        (LOSSES[loss](f, y[seen]) / alpha**2).backward()
        optimiser.step()
    return [p.detach() for p in plain]


@pytest.mark.parametrize("scale", [OutputScale(0.4), OutputScale(3.0), OutputScale(1, True), OutputScale(4.0, True)])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_equal_torch_sgd(loss: str, momentum: float, outputs: int, scale: OutputScale) -> None:
    """1e-10 in float64: both sum the same products, and twenty steps of a stable descent do not magnify rounding."""
    net = DenseNetwork(3, max(outputs, 2) if loss == "cross_entropy" else outputs, 3, (7, 5), "erf", 0.3, 1.2)
    x, y = _draw(6, 3), _targets(loss, net.outputs)
    drawn = list(torch.randint(6, (STEPS + 1, 2, 4), generator=torch.Generator().manual_seed(2)))
    for batches, probed in ((None, {0, 3, 20}), (drawn, {0, *range(3, 21, 2), 20})):
        learnt = problem(net, SEEDS, x, y, ETA, STEPS, loss, momentum, 4 if batches else None, scale)
        *_, last = states(learnt, probed, batches)
        for position, seed in enumerate(SEEDS):
            of_seed = None if batches is None else [batch[position] for batch in batches]
            for ours, theirs in zip(last.params, _plain_sgd(net, seed, loss, momentum, of_seed, scale), strict=True):
                assert (ours[position] - theirs).norm() <= 1e-10 * theirs.norm()


def test_predictions_start_where_the_trained_function_does() -> None:
    net = DenseNetwork(3, 2, 2, 4)
    x, start = _draw(5, 3), net.init(SEEDS, torch.float64)
    outputs = net.apply(start, x)
    for scale in (OutputScale(3.0), OutputScale(3.0, centred=True)):
        assert torch.equal(scale.start(outputs), Readout.begin(scale, net, start, x)(outputs))
    assert torch.equal(OutputScale(3.0).variance(outputs.var(dim=0)), 9 * outputs.var(dim=0))


def test_scale_one_changes_not_a_bit() -> None:
    """No operation at all: the very tensors of plain training."""
    net, x = DenseNetwork(3, 1, 3, 8), _draw(6, 3)
    readout = Readout.begin(PLAIN, net, net.init([0], torch.float64), x)
    outputs, gradient = _draw(1, 6, 1), _draw(1, 6, 1)
    assert readout(outputs) is outputs
    assert readout.pull(gradient) is gradient


def test_what_the_table_holds_is_of_f() -> None:
    """Loss and output drift against their definitions; centred outputs start from exactly zero, on test inputs too."""
    net, x, y, x_test = DenseNetwork(3, 2, 3, 8, "erf"), _draw(6, 3), _targets("squared", 2), _draw(4, 3, seed=4)
    every, scale = frozenset(range(6)), OutputScale(3.0, centred=True)
    arrays = [part.numpy() for part in (x, y, x_test, y[:4])]
    task = StackTask(net, [1], *arrays, 0.3, 5, every, frozenset(), False, torch.float64, scale=scale)  # type: ignore[misc,arg-type]
    rows = run_stack(task, torch.device("cpu")).steps
    for state in states(problem(net, [1], x, y, 0.3, 5, scale=scale), every):
        f, f_test = (3 * (net.apply(state.params, part) - net.apply(state.start, part)) for part in (x, x_test))
        expected = {
            "loss": float((f - y).square().sum() / 12),
            "test_loss": float((f_test - y[:4]).square().sum() / 8),
            "output_drift": float((f.square().sum() / 6).sqrt()),
        }
        for name, value in expected.items():
            assert rows[name][state.step] == pytest.approx(value, rel=1e-12, abs=1e-15), name
        assert torch.allclose(state.outputs, f, rtol=1e-12, atol=1e-14)
    assert rows["output_drift"][0] == rows["linear_gap"][0] == rows["test_linear_gap"][0] == 0


def _drift(scale: OutputScale) -> float:
    """sup of the kernel drift of a network of width 64 over a hundred steps, mean over four."""
    net, x, y = DenseNetwork(5, 1, 3, 64, "erf"), _draw(8, 5).numpy(), _draw(8, 1, seed=1).sign().numpy()
    eta, probed = relative_step_size(net, x, 1.0), frozenset(range(0, 101, 10))
    task = StackTask(net, range(4), x, y, x[:0], y[:0], eta, 100, probed, frozenset(), False, torch.float64)
    steps = run_stack(replace(task, scale=scale), torch.device("cpu")).steps
    assert max(steps["loss"][-4:]) < 1e-3 * steps["loss"][0]  # it trains as fast, whatever α
    return float(np.mean(np.reshape(steps["kernel_drift"], (-1, 4)).max(axis=0)))


def test_a_large_scale_makes_a_narrow_network_lazy() -> None:
    """Chizat et al. 2019: centred, the drift of the kernel falls like 1/α: 16 times from α = 64 to 1024, but for terms
    of order 1/64. Not centred, αF_0 has to be undone by moves of order 1: the drift stays."""
    assert _drift(OutputScale(64.0, True)) / _drift(OutputScale(1024.0, True)) == pytest.approx(16, rel=0.04)
    assert _drift(OutputScale(64.0)) / _drift(OutputScale(1024.0)) == pytest.approx(1, rel=0.04)
