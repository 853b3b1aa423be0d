"""The empirical Neural Tangent Kernel, computed in two ways: layer by layer, and from the full Jacobian as a check.

    K_ij(x, x') = Σ_p ∂_p F_i(W, x) ∂_p F_j(W, x')          i, j outputs, p parameters

(Jacot, Gabriel and Hongler 2018, section 4.)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ntkrun.engine.devices import budget
from ntkrun.engine.network import DenseNetwork, Layers, Parameters, output_gradients, pullback
from ntkrun.engine.tiles import (
    Blocks,
    Outputs,
    check_outputs,
    cut,
    each_pair,
    mirror,
    pieces,
    scaled,
    tile_inputs,
    uncut,
)
from ntkrun.engine.torch_settings import full_float32
from ntkrun.errors import UserError
from ntkrun.theory.activations import activation

SMALL = 2**26  # bytes used without querying the free memory: the query may take as long as a small kernel


@dataclass(frozen=True)
class Passes:
    """Results of the forward and backward pass: a^(l), (S, N, n_l), l = 0..L-1, and δ^(l), (S, N, O, n_l), l = 1..L."""

    activations: list[Tensor]
    deltas: list[Tensor]

    def part(self, piece: slice) -> "Passes":
        """Return the passes of these inputs only."""
        if piece == slice(0, self.deltas[0].shape[1]):
            return self
        return Passes([a[:, piece] for a in self.activations], [d[:, piece] for d in self.deltas])


@full_float32()
def empirical_ntk(
    net: DenseNetwork,
    params: Parameters,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs = "full",
    memory: float | None = None,
) -> Tensor:
    """Return the kernel K(x, x2) of every stacked network. `x2 = None` means x; that kernel is exactly symmetric.

    `outputs`: "full" K_ij, (S, N, M, O, O); "diagonal" K_ii, (S, N, M, O); "trace" Σ_i K_ii, (S, N, M). Only the
    requested entries are computed. The sum runs layer by layer and never holds a Jacobian: with δ_i^(l) = ∂F_i/∂z^(l),

        K_ij(x, x') = Σ_l [s_{l-1}² a^(l-1)(x)·a^(l-1)(x') + c_{l-1}²] · [δ_i^(l)(x)·δ_j^(l)(x')],   l = 1..L,

    exact at any width; s and c are the factors before weights and biases, σ_w/√n and β in the NTK parametrization.
    Cost: N n_L L n² + N² n_L² L n operations for N inputs and hidden width n. The second term is halved for x2 = None,
    and n_L times smaller for the trace and the diagonal. Many inputs are processed in blocks, so that temporaries stay
    within `memory` GiB (None: half of the free memory). This limit excludes the parameters, the result and the packing
    buffers of a matrix product. If not all output gradients fit, some are computed again. Raises UserError where one
    pair of inputs or the result does not fit.
    """
    check_outputs(outputs)
    columns = x if x2 is None else x2
    if min(len(x), len(columns)) == 0:
        raise UserError("the kernel needs at least one input; x or x2 is empty")
    like, stack, o = params.weights[0], len(params.weights[0]), net.outputs
    shape = _shape(outputs, stack, len(x), len(columns), o)
    count, item, device = max(len(x), len(columns)), like.element_size(), like.device
    size, blocks = math.prod(shape) * item, uncut(net, stack, count, outputs, device)
    if memory is not None or size + blocks.bytes(net, outputs, item) > SMALL:
        blocks = cut(blocks, count, net, outputs, budget(memory, size, device), item)
    result = like.new_zeros(shape)
    for seeds in pieces(stack, blocks.seeds):
        part = Parameters([w[seeds] for w in params.weights], [b[seeds] for b in params.biases])
        _fill(net, part, x, x2, result[seeds], outputs, blocks)
    if outputs == "full":
        return as_blocks(result.view(stack, len(x), o, len(columns), o))
    return result.permute(0, 2, 3, 1) if outputs == "diagonal" else result


def layerwise_kernel(
    net: DenseNetwork, layers: Layers, deltas: list[Tensor], layers2: Layers, deltas2: list[Tensor]
) -> Tensor:
    """Return the kernel from existing passes, (S, N, O, M, O): rows (x, i), columns (x', j).

    If both arguments are the same passes (`layers2 is layers`, `deltas2 is deltas`), the kernel is symmetric and only
    half of it is computed.
    """
    same = layers2 is layers and deltas2 is deltas
    first = Passes(layers.activations, deltas)
    second = first if same else Passes(layers2.activations, deltas2)
    s, n, o, _ = deltas[0].shape
    m = deltas2[0].shape[1]
    result = deltas[0].new_zeros(s, n, o, m * o)
    size = tile_inputs(result.device, o)
    rows, columns = pieces(n, size), pieces(m, size)

    def add(i: slice, j: slice, row: Passes, column: Passes) -> None:
        _add(net, _tile(result, "full", o, i, j), "full", row, column)

    each_pair(rows, None if same else columns, len(rows), first.part, second.part, add)
    if same:
        mirror(result.view(s, n * o, m * o), scaled(rows, o))
    return result.view(s, n, o, m, o)


def aligned_kernel(net: DenseNetwork, first: Passes, second: Passes) -> Tensor:
    """Return K_ii(x_k, x'_k), (S, N, O), from existing passes of N inputs each, or of N inputs and of one input. The
    same passes twice give the diagonal. No other pair of inputs is computed."""
    terms = (
        (net.scale(layer) ** 2 * (a * a2).sum(dim=2, keepdim=True) + net.bias_scale(layer) ** 2)
        * (first.deltas[layer] * second.deltas[layer]).sum(dim=3)
        for layer, (a, a2) in enumerate(zip(first.activations, second.activations, strict=True))
    )
    return sum(terms, start=torch.zeros_like(first.deltas[0][..., 0]))


def as_blocks(kernel: Tensor) -> Tensor:
    """Return a kernel (S, N, O, M, O) as (S, N, M, O, O)."""
    return kernel.permute(0, 1, 3, 2, 4)


def as_matrix(kernel: Tensor) -> Tensor:
    """Return a kernel (S, N, O, M, O) as the matrix (S, N·O, M·O)."""
    s, n, o, m, p = kernel.shape
    return kernel.reshape(s, n * o, m * p)


@full_float32()
def jacobian_ntk(net: DenseNetwork, params: Parameters, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """Return the kernel as the product of Jacobians from torch.func: the reference that tests `empirical_ntk`.

    It is slow and needs much memory, but its correctness is easy to see. It has its own forward pass, the definition of
    the network for one input and one seed, so it shares no code with `empirical_ntk`.
    """
    sigma = activation(net.activation).function

    def outputs(weights: list[Tensor], biases: list[Tensor], a: Tensor) -> Tensor:
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
            z = net.scale(layer) * (w @ a) + net.bias_scale(layer) * b
            a = sigma(z)
        return z

    def jacobian(points: Tensor) -> Tensor:
        # (S, N, O, P): mapped over the points and over the stack, with all parameters in one row.
        per_point = vmap(jacrev(outputs, argnums=(0, 1)), in_dims=(None, None, 0))
        parts = vmap(per_point, in_dims=(0, 0, None))(params.weights, params.biases, points)
        return torch.cat([part.flatten(3) for group in parts for part in group], dim=3)

    first = jacobian(x)
    second = first if x2 is None else jacobian(x2)
    return torch.einsum("snip,smjp->snmij", first, second)


# --- tiles: the result is filled in a layout in which every tile is a matrix


def _shape(outputs: Outputs, s: int, n: int, m: int, o: int) -> tuple[int, ...]:
    return {"full": (s, n, o, m * o), "diagonal": (s, o, n, m), "trace": (s, n, m)}[outputs]


def _tile(result: Tensor, outputs: Outputs, o: int, i: slice, j: slice) -> Tensor:
    """Return the part of the result, in the layout of `_shape`, for inputs i against inputs j."""
    return result[:, i, :, slice(j.start * o, j.stop * o)] if outputs == "full" else result[..., i, j]


def _fill(
    net: DenseNetwork,
    params: Parameters,
    x: Tensor,
    x2: Tensor | None,
    result: Tensor,
    outputs: Outputs,
    blocks: Blocks,
) -> None:
    rows = pieces(len(x), blocks.inputs)
    columns = None if x2 is None else pieces(len(x2), blocks.inputs)
    o = net.outputs

    def add(i: slice, j: slice, row: Passes, column: Passes) -> None:
        _add(net, _tile(result, outputs, o, i, j), outputs, row, column)

    def row(i: slice) -> Passes:
        return _passes(net, params, x[i])

    def column(j: slice) -> Passes:
        return _passes(net, params, (x if x2 is None else x2)[j])

    each_pair(rows, columns, blocks.kept, row, column, add)
    if x2 is None and outputs == "full":
        mirror(result.view(len(result), len(x) * o, len(x) * o), scaled(rows, o))
    elif x2 is None:
        mirror(result, rows)


def _passes(net: DenseNetwork, params: Parameters, x: Tensor) -> Passes:
    with torch.enable_grad():
        layers = net.forward(params, x)
        if net.outputs == 1:  # skipping the stacking saves a twentieth of a small kernel's time
            deltas = [d.unsqueeze(2) for d in pullback(layers, torch.ones_like(layers.outputs))]
        else:
            deltas = output_gradients(layers)
    return Passes([a.detach() for a in layers.activations], deltas)


def _add(net: DenseNetwork, tile: Tensor, outputs: Outputs, first: Passes, second: Passes) -> None:
    """Add every layer's product to a tile: [s² a·a' + c²] times δ_i·δ_j', δ_i·δ_i' or Σ_i δ_i·δ_i'."""
    for layer in range(net.depth):
        forward = _forward(net, layer, first.activations[layer], second.activations[layer])
        delta, delta2 = _drop_shared_stack(first.deltas[layer]), _drop_shared_stack(second.deltas[layer])
        _, n, o, _ = delta.shape
        if outputs == "trace":
            tile.addcmul_(forward, torch.bmm(delta.flatten(2), delta2.flatten(2).mT))
        elif outputs == "diagonal":
            for i in range(o):
                tile[:, i].addcmul_(forward, torch.bmm(delta[:, :, i], delta2[:, :, i].mT))
        else:
            # The weights are repeated for every j to make the inner axis long: broadcasting takes five times as long.
            weight = forward if o == 1 else forward.repeat_interleave(o, dim=2)
            product = torch.bmm(delta.flatten(1, 2), delta2.flatten(1, 2).mT)
            tile.addcmul_(weight.unsqueeze(2), product.view(len(product), n, o, -1))


def _forward(net: DenseNetwork, layer: int, a: Tensor, a2: Tensor) -> Tensor:
    """Return s² a·a' + c² for the inputs of a layer: (S, N, M), or (1, N, M) if all networks share the inputs."""
    constant = a.new_full((1, 1, 1), net.bias_scale(layer) ** 2)
    return torch.baddbmm(constant, _drop_shared_stack(a), _drop_shared_stack(a2).mT, alpha=net.scale(layer) ** 2)


def _drop_shared_stack(a: Tensor) -> Tensor:
    """Return one network's part of (S, N, n) if all networks share it: x and δ^(L) are expanded over the stack, not
    copied."""
    return a[:1] if a.stride(0) == 0 else a
