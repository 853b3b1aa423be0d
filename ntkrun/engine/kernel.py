"""The empirical Neural Tangent Kernel, computed in two ways: layer by layer, and from the full Jacobian as a check.

    K_ij(x, x') = Σ_p ∂_p F_i(W, x) ∂_p F_j(W, x')          i, j outputs, p parameters

(Jacot, Gabriel and Hongler 2018, section 4.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ntkrun.engine.devices import budget
from ntkrun.engine.network import Network, Parameters
from ntkrun.engine.tiles import (
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
from ntkrun.engine.uses import Outputs, Use, tile_of
from ntkrun.errors import UserError

SMALL = 2**26  # bytes used without querying the free memory: the query may take as long as a small kernel


@dataclass(frozen=True)
class Gradients:
    """The gradients of F on N inputs in all parameters, not multiplied out: how each layer used its parameters, and
    δ^(l) = ∂F/∂z^(l), l = 1..L, in a dense network (S, N, O, n_l)."""

    uses: list[Use]
    deltas: list[Tensor]

    def part(self, piece: slice) -> "Gradients":
        """Return the gradients of these inputs only."""
        if piece == slice(0, self.deltas[0].shape[1]):
            return self
        return Gradients([use.part(piece) for use in self.uses], [d[:, piece] for d in self.deltas])


@full_float32()
def empirical_ntk(
    net: Network,
    params: Parameters,
    x: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs = "full",
    memory: float | None = None,
) -> Tensor:
    """Return the empirical NTK on inputs x (N, n_0) and x2 (M, n_0) of every network in a stack. `x2 = None` means x;
    that kernel is exactly symmetric.

        K_ij(x, x') = Σ_p ∂_p F_i(x) ∂_p F_j(x'),   i, j outputs, p parameters

    (Jacot, Gabriel and Hongler 2018, section 4.) `outputs`: "full" K_ij, (S, N, M, O, O); "diagonal" K_ii, (S, N, M,
    O); "trace" Σ_i K_ii, (S, N, M). Only the requested entries are computed, in the dtype of the parameters. The sum
    runs layer by layer and never holds a Jacobian: with δ_i^(l) = ∂F_i/∂z^(l),

        K_ij(x, x') = Σ_l [s_{l-1}² a^(l-1)(x)·a^(l-1)(x') + c_{l-1}²] · [δ_i^(l)(x)·δ_j^(l)(x')],   l = 1..L,

    exact at any width; s and c are the factors before weights and biases, σ_w/√n and β in the NTK parametrization.
    Cost: N n_L L n² + N² n_L² L n operations for N inputs and hidden width n. The second term is halved for x2 = None,
    and n_L times smaller for the trace and the diagonal. Many inputs are processed in blocks, so that temporaries stay
    within `memory` GiB (None: half of the free memory). This limit excludes the parameters, the result and the packing
    buffers of a matrix product. If not all output gradients fit, some are computed again. Raises UserError for inputs
    of another shape, and where one pair of inputs or the result does not fit.

    >>> import ntkrun, torch
    >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    >>> for width in (16, 64, 256):  # K(x, x) scatters less over 200 networks the wider they are, like 1/√n
    ...     net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=width, beta=0.0)
    ...     K = ntkrun.empirical_ntk(net, net.init(range(200), torch.float64), x, outputs="trace")
    ...     print(tuple(K.shape), f"{float(K[:, 0, 0].std() / K[:, 0, 0].mean()):.2f}")
    (200, 2, 2) 0.43
    (200, 2, 2) 0.22
    (200, 2, 2) 0.11
    """
    check_outputs(outputs)
    columns = x if x2 is None else x2
    if min(len(x), len(columns)) == 0:
        raise UserError("the kernel needs at least one input; x or x2 is empty")
    like, stack, o = params.weights[0], len(params.weights[0]), net.outputs
    shape = tiled_shape(outputs, stack, len(x), len(columns), o)
    count, item, device = max(len(x), len(columns)), like.element_size(), like.device
    size, blocks = math.prod(shape) * item, uncut(net, stack, count, outputs, device)
    if memory is not None or size + blocks.bytes(net, outputs, item) > SMALL:
        blocks = cut(blocks, count, net, outputs, budget(memory, size, device), item)
    result = like.new_zeros(shape)
    rows, others = pieces(len(x), blocks.inputs), None if x2 is None else pieces(len(x2), blocks.inputs)
    for seeds in pieces(stack, blocks.seeds):
        part = params.part(seeds)
        passes = partial(_gradients, net, part, x), partial(_gradients, net, part, columns)
        fill(result[seeds], outputs, o, rows, others, blocks.kept, *passes)
    return untiled(result, outputs, o)


def layerwise_kernel(first: Gradients, second: Gradients) -> Tensor:
    """Return the kernel from existing passes, (S, N, O, M, O): rows (x, i), columns (x', j).

    If both arguments are the same object, the kernel is symmetric and only half of it is computed.
    """
    same = second is first
    s, n, o = first.deltas[0].shape[:3]
    m = second.deltas[0].shape[1]
    result = first.deltas[0].new_zeros(s, n, o, m * o)
    size = tile_inputs(result.device, o)
    rows, columns = pieces(n, size), None if same else pieces(m, size)
    fill(result, "full", o, rows, columns, len(rows), first.part, second.part)
    return result.view(s, n, o, m, o)


def layer_kernel(use: Use, delta: Tensor) -> Tensor:
    """Return the summand of one layer in the kernel, (S, N, O, N, O), from its use and δ."""
    s, n, o = delta.shape[:3]
    tile = delta.new_zeros(s, n, o, n * o)
    use.add_gram(tile, "full", delta, use, delta)
    return tile.view(s, n, o, n, o)


def aligned_kernel(first: Gradients, second: Gradients) -> Tensor:
    """Return K_ii(x_k, x'_k), (S, N, O), from existing passes of N inputs each, or of N inputs and of one input. The
    same passes twice give the diagonal. No other pair of inputs is computed."""
    layers = zip(first.uses, first.deltas, second.uses, second.deltas, strict=True)
    terms = (use.aligned(delta, use2, delta2) for use, delta, use2, delta2 in layers)
    return sum(terms, start=torch.zeros_like(first.deltas[-1][..., 0]))


def as_blocks(kernel: Tensor) -> Tensor:
    """Return a kernel (S, N, O, M, O) as (S, N, M, O, O)."""
    return kernel.permute(0, 1, 3, 2, 4)


def as_matrix(kernel: Tensor) -> Tensor:
    """Return a kernel (S, N, O, M, O) as the matrix (S, N·O, M·O)."""
    s, n, o, m, p = kernel.shape
    return kernel.reshape(s, n * o, m * p)


@full_float32()
def jacobian_ntk(net: Network, params: Parameters, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """Return the kernel as the product of Jacobians from torch.func: the reference that tests `empirical_ntk`.

    It is slow and needs much memory, but its correctness is easy to see. It uses the network's definition for one input
    and one seed, so it shares no code with `empirical_ntk`.
    """

    def jacobian(points: Tensor) -> Tensor:
        # (S, N, O, P): mapped over the points and over the stack, with all parameters in one row.
        per_point = vmap(jacrev(net.of_one_input, argnums=(0, 1)), in_dims=(None, None, 0))
        parts = vmap(per_point, in_dims=(0, 0, None))(params.weights, params.biases, points)
        return torch.cat([part.flatten(3) for group in parts for part in group], dim=3)

    first = jacobian(x)
    second = first if x2 is None else jacobian(x2)
    return torch.einsum("snip,smjp->snmij", first, second)


# --- tiles: the result is filled in a layout in which every tile is a matrix


def tiled_shape(outputs: Outputs, s: int, n: int, m: int, o: int) -> tuple[int, ...]:
    """Return the shape of a kernel in this layout."""
    return {"full": (s, n, o, m * o), "diagonal": (s, o, n, m), "trace": (s, n, m)}[outputs]


def untiled(result: Tensor, outputs: Outputs, o: int) -> Tensor:
    """Return a kernel in this layout with its inputs first: (S, N, M, O, O), (S, N, M, O) or (S, N, M)."""
    if outputs == "full":
        return as_blocks(torch.unflatten(result, 3, (-1, o)))
    return result.permute(0, 2, 3, 1) if outputs == "diagonal" else result


def fill(
    result: Tensor,
    outputs: Outputs,
    o: int,
    rows: list[slice],
    columns: list[slice] | None,
    kept: int,
    row: Callable[[slice], Gradients],
    column: Callable[[slice], Gradients],
) -> None:
    """Add the inner products of all gradients to a kernel, given the functions that compute those of a piece of inputs.
    `columns = None` means that they are the rows: the kernel becomes exactly symmetric. `kept` as in `each_pair`."""

    def add(i: slice, j: slice, first: Gradients, second: Gradients) -> None:
        _add(tile_of(result, outputs, o, i, j), outputs, first, second)

    each_pair(rows, columns, kept, row, column, add)
    if columns is None and outputs == "full":
        s, n = result.shape[:2]
        mirror(result.view(s, n * o, n * o), scaled(rows, o))
    elif columns is None:
        mirror(result, rows)


def _gradients(net: Network, params: Parameters, x: Tensor, piece: slice) -> Gradients:
    with torch.no_grad():
        forward = net.forward(params, x[piece])
        return Gradients(forward.uses, net.output_gradients(forward))


def _add(tile: Tensor, outputs: Outputs, first: Gradients, second: Gradients) -> None:
    """Add every layer's inner products to a tile."""
    for use, delta, use2, delta2 in zip(first.uses, first.deltas, second.uses, second.deltas, strict=True):
        use.add_gram(tile, outputs, delta, use2, delta2)
