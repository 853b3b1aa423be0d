"""Kernels in tiles: which inputs meet which, what is kept between tiles, and the other half of a symmetric kernel.

A tile is the kernel between two pieces of the inputs. Its product needs the state of each piece (activations, output
gradients), which is dear to make and large to keep: as many row pieces as a budget allows are kept, and the columns
pass by.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, TypeVar, get_args

from torch import Tensor

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
