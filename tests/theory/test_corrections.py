"""The finite-width formulas of relu networks against many networks."""

import math
from itertools import pairwise

import pytest
import torch

import ntkrun
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.network import Parameters
from ntkrun.errors import UserError
from ntkrun.theory.corrections import kernel_variance, output_kurtosis, output_square_correlation


def _drawn(net: DenseNetwork, count: int) -> Parameters:
    """Networks under ntk, all numbers N(0, 1), from one generator: `init` makes one a layer of each network, which
    takes longer than all else here (tests/engine/test_network.py looks at its numbers)."""
    draw = torch.Generator().manual_seed(0)
    shapes = list(pairwise(net.widths))
    weights = [torch.randn(count, m, n, generator=draw) for n, m in shapes]
    return Parameters(weights, [torch.randn(count, m, generator=draw) for _, m in shapes])


def _mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("widths", [(16,), (16, 16), (12, 30)])
def test_kurtosis_and_correlation_of_outputs(widths: tuple[int, ...]) -> None:
    """Given the last activations, outputs are Gaussian of variance v ∝ ‖a‖²: E[F⁴] = 3E[v²], E[F_i²F_j²] = E[v²]. So
    r = E[v²]/E[v]², without the noise of the outputs themselves; within 4 standard errors of 20000 networks."""
    net = DenseNetwork(5, 2, len(widths) + 1, widths, "relu", 0.0, 1.3)
    x = torch.ones(1, 5, dtype=torch.float64)
    v = net.forward(_drawn(net, 20000), x.float()).activations[-2][:, 0].double().square().sum(dim=1)
    v = v / v.mean()
    second, error = _mean_and_error(v.square())
    assert abs(3 * (second - 1) - output_kurtosis(net)) <= 3 * 4 * error
    r = 1 + output_kurtosis(net) / 3
    assert output_square_correlation(net) == pytest.approx((r - 1) / (3 * r - 1))
    assert output_kurtosis(net) == pytest.approx(3 * (math.prod(1 + 5 / n for n in widths) - 1))


def test_correlation_of_squares_of_outputs_themselves() -> None:
    net = DenseNetwork(5, 2, 2, 8, "relu", 0.0)
    squares = net.apply(_drawn(net, 40000), torch.ones(1, 5))[:, 0].double().square()
    found = float(torch.corrcoef(squares.T)[0, 1])
    # The correlation of 40000 pairs of heavy tails (kurtosis 10 of the squares) is known to about 3 %.
    assert found == pytest.approx(output_square_correlation(net), abs=0.06)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_variance_of_the_kernel(depth: int) -> None:
    """1000 networks of width 128: the variance is known to 5 % (4 standard errors: 20 %), and the next order is L/n."""
    net = DenseNetwork(5, 1, depth, 128, "relu", 0.0, 1.4)
    x = torch.ones(1, 5)
    kernels = ntkrun.empirical_ntk(net, _drawn(net, 1000), x).flatten()
    kernels = kernels.double()
    found = float(kernels.var() / kernels.mean() ** 2)
    assert found == pytest.approx(kernel_variance(net), rel=0.2 + depth / 128)


def test_the_numbers_of_the_docs() -> None:
    numbers = [kernel_variance(DenseNetwork(5, 1, depth, 1000, "relu", 0.0)) * 1000 for depth in (1, 2, 3, 4, 5)]
    assert numbers == pytest.approx([0, 3, 6.444, 10, 13.6], abs=1e-3)


def test_conditions_are_sentences() -> None:
    for net in (DenseNetwork(5, 1, 3, 8, "relu", 0.1), DenseNetwork(5, 1, 3, 8, "erf", 0.0)):
        for formula in (kernel_variance, output_kurtosis, output_square_correlation):
            with pytest.raises(UserError, match=r"for relu, not for erf|with biases|without biases"):
                formula(net)
    with pytest.raises(UserError, match="equal hidden widths"):
        kernel_variance(DenseNetwork(5, 1, 3, (8, 9), "relu", 0.0))
