"""The empirical Neural Tangent Kernel, twice: the layerwise path, and the obvious one it must equal.

    K_ij(x, x') = Σ_p ∂_p F_i(W, x) ∂_p F_j(W, x')          i, j outputs, p parameters

(Jacot, Gabriel and Hongler 2018, section 4.)
"""

import math

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ntkrun.engine.network import DenseNetwork, Layers, Parameters, output_gradients
from ntkrun.errors import UserError
from ntkrun.theory.activations import activation


def empirical_ntk(net: DenseNetwork, params: Parameters, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """K(x, x2) of every stacked network, (S, N, M, O, O); `x2 = None` means x.

    Layer by layer, never holding a Jacobian: with δ_i^(l) = ∂F_i/∂z^(l),

        K_ij(x, x') = Σ_l [σ_w² a^(l-1)(x)·a^(l-1)(x')/n_{l-1} + β²] · [δ_i^(l)(x)·δ_j^(l)(x')],   l = 1..L,

    exact at any width. Cost: N n_L L n² + N² n_L² L n operations for N inputs and hidden width n.
    """
    first = _passes(net, params, x)
    second = first if x2 is None else _passes(net, params, x2)
    return as_blocks(layerwise_kernel(net, *first, *second))


def layerwise_kernel(
    net: DenseNetwork, layers: Layers, deltas: list[Tensor], layers2: Layers, deltas2: list[Tensor]
) -> Tensor:
    """The sum above from passes already made, as (S, N, O, M, O): rows (x, i), columns (x', j)."""
    beta, total = net.beta, None
    for layer in range(net.depth):
        a, a2 = layers.activations[layer].detach(), layers2.activations[layer].detach()
        forward = net.scale(layer) ** 2 * (a @ a2.mT) + beta**2  # (S, N, M)
        part = forward[:, :, None, :, None] * _gram(deltas[layer], deltas2[layer])
        total = part if total is None else total.add_(part)
    assert total is not None  # depth is at least 1
    return total


def as_blocks(kernel: Tensor) -> Tensor:
    """(S, N, O, M, O) as (S, N, M, O, O)."""
    return kernel.permute(0, 1, 3, 2, 4)


def as_matrix(kernel: Tensor) -> Tensor:
    """(S, N, O, M, O) as the matrix (S, N·O, M·O)."""
    s, n, o, m, p = kernel.shape
    return kernel.reshape(s, n * o, m * p)


def jacobian_ntk(net: DenseNetwork, params: Parameters, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """The oracle of `empirical_ntk`: the Jacobian by torch.func, squared. Slow, large and plainly right.

    It has its own forward pass, the definition of the network for one input and one seed, so that it shares no step
    with the other.
    """
    sigma = activation(net.activation).function

    def outputs(weights: list[Tensor], biases: list[Tensor], a: Tensor) -> Tensor:
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
            z = net.weight_scale / math.sqrt(net.widths[layer]) * (w @ a) + net.beta * b
            a = sigma(z)
        return z

    def jacobian(points: Tensor) -> Tensor:
        # (S, N, O, P): over the points, over the stack, every parameter in one row.
        per_point = vmap(jacrev(outputs, argnums=(0, 1)), in_dims=(None, None, 0))
        parts = vmap(per_point, in_dims=(0, 0, None))(params.weights, params.biases, points)
        return torch.cat([part.flatten(3) for group in parts for part in group], dim=3)

    first = jacobian(x)
    second = first if x2 is None else jacobian(x2)
    return torch.einsum("snip,smjp->snmij", first, second)


def _passes(net: DenseNetwork, params: Parameters, x: Tensor) -> tuple[Layers, list[Tensor]]:
    if len(x) == 0:
        raise UserError("the kernel of no inputs: give at least one")
    with torch.enable_grad():
        layers = net.forward(params, x)
        return layers, output_gradients(layers)


def _gram(first: Tensor, second: Tensor) -> Tensor:
    """(S, N, O, n) and (S, M, O, n) to all inner products, (S, N, O, M, O)."""
    s, n, o, _ = first.shape
    m = second.shape[1]
    return (first.flatten(1, 2) @ second.flatten(1, 2).mT).view(s, n, o, m, o)
