"""Kernels in tiles: the pairs of pieces, the states kept between tiles, and the other half of a symmetric kernel.

A tile is the kernel between two pieces of the inputs. Its product needs the state of each piece (activations, output
gradients), which takes long to compute and much memory. So the states of as many row pieces as the budget allows are
kept, and the column pieces are processed one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import TypeVar, get_args

import torch
from torch import Tensor

from ntkrun.engine.devices import GIB
from ntkrun.engine.network import Network
from ntkrun.engine.uses import PAIRS, Outputs
from ntkrun.errors import UserError

Piece = TypeVar("Piece")


def check_outputs(outputs: str) -> None:
    """Raise UserError unless `outputs` is one of Outputs."""
    if outputs not in get_args(Outputs):
        raise UserError(f"outputs {outputs!r}: choose {', '.join(get_args(Outputs))}")


def pieces(count: int, size: int) -> list[slice]:
    """Split `count` items into the fewest pieces of at most `size`, of nearly equal length."""
    pieces_needed = -(-count // size)
    edges = [count * k // pieces_needed for k in range(pieces_needed + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def each_pair(
    rows: list[slice],
    columns: list[slice] | None,
    kept: int,
    make: Callable[[slice], Piece],
    make_column: Callable[[slice], Piece],
    visit: Callable[[slice, slice, Piece, Piece], None],
) -> None:
    """Call `visit(i, j, state of i, state of j)` for all pairs, holding at most `kept` row states and one column state.

    `columns = None` means that the columns are the rows. Then only pairs with i before or at j are visited.
    """
    for first in range(0, len(rows), kept):
        group = rows[first : first + kept]
        states = [make(i) for i in group]
        for k, j in enumerate(rows[first:] if columns is None else columns):
            column = states[k] if columns is None and k < len(group) else make_column(j)
            for i, state in zip(group, states, strict=True):
                if columns is not None or i.start <= j.start:
                    visit(i, j, state, column)
            del column  # before the next one is computed
        del states


def mirror(matrix: Tensor, rows: list[slice]) -> None:
    """Copy the upper triangle of (..., R, R) to the lower one, tile by tile, to make the matrix exactly symmetric.

    (A product A Aᵀ need not be: its two halves may be summed in different orders.)
    """
    for i in rows:
        for j in rows:
            if i.start < j.start:
                matrix[..., j, i] = matrix[..., i, j].mT
        square = matrix[..., i, i]
        square.triu_()
        square += square.triu(1).mT


def scaled(rows: list[slice], factor: int) -> list[slice]:
    """Return the same pieces if every input has `factor` rows."""
    return [slice(i.start * factor, i.stop * factor) for i in rows]


# ---------------------------------------------------------------- blocks


# Rows of a tile. On a CPU: enough for a matrix product at full speed, and few enough to stay in cache while they are
# weighted (measurements in docs/decisions.md). On a GPU: enough to fill the chip.
CPU_TILE, DEVICE_TILE = 512, 8192
LEAST_INPUTS = 64  # of a tile: with fewer inputs the passes are slow, for any number of outputs
# Tensors of the size of a layer's z that a pass holds in addition to its results: z, the values that σ stores for its
# derivative, the gradients being computed. tests/engine/test_tiles.py checks this for every activation.
WORKSPACE = 3


@dataclass(frozen=True)
class Blocks:
    """Block sizes: networks at a time, inputs per tile, and the number of row states kept as columns are processed."""

    seeds: int
    inputs: int
    kept: int

    def bytes(self, net: Network, outputs: Outputs, itemsize: int) -> int:
        """Return the peak memory: the row states, one column state, and the temporaries of a pass or a product."""
        neurons, o = sum(layer.outputs for layer in net.layers), net.outputs
        state = self.inputs * neurons * (o + 1)  # δ and a
        work = self.inputs * (neurons * (o + WORKSPACE) + net.inputs)  # δ again, while its outputs are stacked
        pairs, widest = self.inputs * self.inputs, max(net.inputs, *(layer.outputs for layer in net.layers))
        # The product and its weights, and for a full tile the weights repeated for every output.
        tile = pairs * (o * o + o + 1) if outputs == "full" else 2 * pairs + 2 * self.inputs * o * widest
        longest = max(layer.positions for layer in net.layers)
        if longest > 1:  # products over pairs of positions, their weights and their rearranged factors (uses.py)
            each = (o * longest) ** 2
            tile += 4 * min(pairs * each, max(PAIRS // self.seeds, each))
        return self.seeds * itemsize * ((self.kept + 1) * state + max(work, tile))


def tile_inputs(device: torch.device, rows_each: int) -> int:
    """Return the inputs per tile without a memory limit, if an input has `rows_each` rows."""
    rows = CPU_TILE if device.type == "cpu" else DEVICE_TILE
    return max(LEAST_INPUTS, -(-rows // rows_each))


def uncut(net: Network, stack: int, count: int, outputs: Outputs, device: torch.device) -> Blocks:
    """Return the blocks without a memory limit, for `count` inputs to a stack of networks."""
    inputs = min(count, tile_inputs(device, net.outputs if outputs == "full" else 1))
    return Blocks(stack, inputs, -(-count // inputs))


def cut(whole: Blocks, count: int, net: Network, outputs: Outputs, limit: int, itemsize: int) -> Blocks:
    """Return smaller blocks whose temporaries fit into `limit` bytes.

    First the networks at a time are reduced, then the kept row states, then the inputs per tile. Raises UserError where
    not even one pair of inputs to one network fits.
    """

    def fits(blocks: Blocks) -> bool:
        return blocks.bytes(net, outputs, itemsize) <= limit

    fewer = (replace(whole, seeds=seeds) for seeds in _halved(whole.seeds))
    smaller = (Blocks(1, size, kept) for size in _halved(whole.inputs) for kept in range(-(-count // size), 0, -1))
    blocks = next(filter(fits, chain(fewer, smaller)), None)
    if blocks is None:
        raise UserError(
            f"memory: {limit / GIB:.3g} GiB for temporaries is too little: one pair of inputs takes "
            f"{Blocks(1, 1, 1).bytes(net, outputs, itemsize) / GIB:.3g} GiB"
        )
    return blocks


def _halved(count: int) -> list[int]:
    """Return `count`, half of it, and so on down to 1."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
