"""Kernels in tiles: which inputs meet which, what is kept between tiles, and the other half of a symmetric kernel.

A tile is the kernel between two pieces of the inputs. Its product needs the state of each piece (activations, output
gradients), which is dear to make and large to keep: as many row pieces as a budget allows are kept, and the columns
pass by.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from ntkrun.engine.devices import GIB
from ntkrun.engine.network import DenseNetwork
from ntkrun.errors import UserError

Outputs = Literal["full", "trace", "diagonal"]  # K_ij, Σ_i K_ii, K_ii over the outputs i, j
Piece = TypeVar("Piece")


def check_outputs(outputs: str) -> None:
    if outputs not in get_args(Outputs):
        raise UserError(f"outputs {outputs!r}: choose {', '.join(get_args(Outputs))}")


def pieces(count: int, size: int) -> list[slice]:
    """`count` things in the fewest pieces of at most `size`, as equal as can be."""
    number = -(-count // size)
    edges = [count * k // number for k in range(number + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def each_pair(
    rows: list[slice],
    columns: list[slice] | None,
    kept: int,
    make: Callable[[slice], Piece],
    make_column: Callable[[slice], Piece],
    visit: Callable[[slice, slice, Piece, Piece], None],
) -> None:
    """`visit(i, j, state of i, state of j)` for all pairs, with at most `kept` states of rows and one of a column held.

    `columns = None`: the columns are the rows, and only pairs with i before or at j are visited.
    """
    for first in range(0, len(rows), kept):
        group = rows[first : first + kept]
        states = [make(i) for i in group]
        for k, j in enumerate(rows[first:] if columns is None else columns):
            column = states[k] if columns is None and k < len(group) else make_column(j)
            for i, state in zip(group, states, strict=True):
                if columns is not None or i.start <= j.start:
                    visit(i, j, state, column)
            del column  # before the next is made
        del states


def mirror(matrix: Tensor, rows: list[slice]) -> None:
    """Copies what stands above the diagonal of (..., R, R) below it, tile by tile: the result is exactly symmetric.

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
    """The same pieces where every input has `factor` rows."""
    return [slice(i.start * factor, i.stop * factor) for i in rows]


# ---------------------------------------------------------------- blocks


# Rows of a tile: enough for a matrix product at full speed, few enough to stay in cache while they are weighted (CPU),
# or enough to fill the chip. Measured on a CPU: docs/decisions.md.
CPU_TILE, DEVICE_TILE = 512, 8192
LEAST_INPUTS = 64  # of a tile: with fewer the passes are slow, however many outputs there are
# Tensors of the size of a layer's z that a pass holds beside what it leaves: z, what σ keeps for its derivative, the
# gradients under way. tests/engine/test_kernel_memory.py holds every activation to it.
WORKSPACE = 3


@dataclass(frozen=True)
class Blocks:
    """Networks of the stack at a time, inputs a tile, and how many tiles' rows are kept while columns pass by."""

    seeds: int
    inputs: int
    kept: int

    def bytes(self, net: DenseNetwork, outputs: Outputs, itemsize: int) -> int:
        """The most that is held: the rows' states, one column's, and what a pass or a product needs beside them."""
        neurons, o = sum(net.widths[1:]), net.outputs
        state = self.inputs * neurons * (o + 1)  # δ and a
        work = self.inputs * (neurons * (o + WORKSPACE) + net.inputs)  # δ once more, as its outputs are stacked
        pairs = self.inputs * self.inputs
        # The product, the weights before it, and for a full tile the weights repeated for every output.
        tile = pairs * (o * o + o + 1) if outputs == "full" else 2 * pairs + 2 * self.inputs * o * max(net.widths)
        return self.seeds * itemsize * ((self.kept + 1) * state + max(work, tile))


def tile_inputs(device: torch.device, rows_each: int) -> int:
    """Inputs a tile, where memory is no matter and an input has `rows_each` rows."""
    rows = CPU_TILE if device.type == "cpu" else DEVICE_TILE
    return max(LEAST_INPUTS, -(-rows // rows_each))


def uncut(net: DenseNetwork, stack: int, count: int, outputs: Outputs, device: torch.device) -> Blocks:
    """The blocks where memory is no matter, for `count` rows of inputs to a stack of networks."""
    inputs = min(count, tile_inputs(device, net.outputs if outputs == "full" else 1))
    return Blocks(stack, inputs, -(-count // inputs))


def cut(whole: Blocks, count: int, net: DenseNetwork, outputs: Outputs, limit: int, itemsize: int) -> Blocks:
    """These blocks made smaller until their temporaries fit into `limit` bytes.

    Networks at a time are given up first, then rows that are kept, then inputs a tile. Raises UserError where not even
    one pair of inputs to one network fits.
    """

    def fits(blocks: Blocks) -> bool:
        return blocks.bytes(net, outputs, itemsize) <= limit

    fewer = (replace(whole, seeds=seeds) for seeds in _halved(whole.seeds))
    smaller = (Blocks(1, size, kept) for size in _halved(whole.inputs) for kept in range(-(-count // size), 0, -1))
    found = next(filter(fits, chain(fewer, smaller)), None)
    if found is None:
        raise UserError(
            f"memory: {limit / GIB:.3g} GiB for temporaries is too little: one pair of inputs takes "
            f"{Blocks(1, 1, 1).bytes(net, outputs, itemsize) / GIB:.3g} GiB"
        )
    return found


def _halved(count: int) -> list[int]:
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
