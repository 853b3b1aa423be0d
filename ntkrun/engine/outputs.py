"""What each network of a stack says of each input, and its own distribution over the last layer."""

import torch
from torch import Tensor

from ntkrun.engine.kernel import Passes, aligned_kernel
from ntkrun.engine.network import DenseNetwork, Layers
from ntkrun.engine.readout import OutputScale
from ntkrun.engine.training import State


def output_columns(
    net: DenseNetwork, state: State, test: Layers, test_deltas: list[Tensor], outputs: Tensor, scale: OutputScale
) -> dict[str, Tensor]:
    """On all A inputs, training first, each (S, A, O), from f there, `outputs`:

    value         f_i(x)
    variance      Var f_i(x) over the last layer, the hidden layers given: α²(s²|a^(L-1)(x)|² + b²), s and b the factors
                  of weights and biases times their initial deviations; 0 where F_0 is subtracted. At the start alone;
                  nan later
    covariance    the same between x and the first input of its part, training or test
    kernel        K_ii(x, x)
    kernel_row    K_ii(x, x'), x' the first test input; nan without test inputs
    """
    assert state.deltas is not None, "only a probed state has them"
    both = [Passes(state.layers.activations, state.deltas), Passes(test.activations, test_deltas)]
    kernel = torch.cat([aligned_kernel(net, passes, passes) for passes in both], dim=1)
    row = torch.full_like(outputs, torch.nan)
    if test.outputs.shape[1]:
        row = torch.cat([aligned_kernel(net, passes, both[1].part(slice(1))) for passes in both], dim=1)
    variance = covariance = torch.full_like(outputs, torch.nan)
    if state.step == 0:
        parts = [passes.activations[-1] for passes in both]  # (S, N, n) and (S, M, n)
        squares = torch.cat([last.square().sum(dim=2) for last in parts], dim=1)
        products = torch.cat([(last * last[:, :1]).sum(dim=2) for last in parts], dim=1)
        variance = scale.variance(_of_last_layer(net, squares, outputs))
        covariance = scale.variance(_of_last_layer(net, products, outputs))
    return {"value": outputs, "variance": variance, "covariance": covariance, "kernel": kernel, "kernel_row": row}


def _of_last_layer(net: DenseNetwork, products: Tensor, like: Tensor) -> Tensor:
    """s² a·a' + b² for every output alike, from a·a' (S, A)."""
    top = net.depth - 1
    weight, bias = net.scale(top) * net.weight_std(top), net.bias_scale(top) * net.bias_std(top)
    return (weight**2 * products + bias**2).unsqueeze(2).expand_as(like)
