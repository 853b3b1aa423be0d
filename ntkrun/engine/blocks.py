"""How the kernel of a dense network is cut into blocks that fit a memory budget."""

from dataclasses import dataclass

import torch

from ntkrun.engine.memory import GIB
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.tiles import Outputs
from ntkrun.errors import UserError

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


def tile_inputs(device: torch.device, rows_each: int) -> int:
    """Inputs a tile, where memory is no matter and an input has `rows_each` rows."""
    rows = CPU_TILE if device.type == "cpu" else DEVICE_TILE
    return max(LEAST_INPUTS, -(-rows // rows_each))


def uncut(net: DenseNetwork, stack: int, count: int, outputs: Outputs, itemsize: int, device: torch.device) -> int:
    """The bytes that temporaries take where memory is no matter."""
    inputs = min(count, tile_inputs(device, net.outputs if outputs == "full" else 1))
    return _Cost(net, outputs, itemsize).bytes(stack, inputs, -(-count // inputs))


def cut(
    net: DenseNetwork, stack: int, count: int, outputs: Outputs, limit: int, itemsize: int, device: torch.device
) -> Blocks:
    """Blocks within `limit` bytes of temporaries, for `count` rows of inputs to a stack of networks.

    Networks at a time are given up first, then rows that are kept, then inputs a tile. Raises UserError where not even
    one pair of inputs to one network fits.
    """
    cost = _Cost(net, outputs, itemsize)
    inputs = min(count, tile_inputs(device, net.outputs if outputs == "full" else 1))
    tiles = -(-count // inputs)
    for seeds in _halved(stack):
        if cost.bytes(seeds, inputs, tiles) <= limit:
            return Blocks(seeds, inputs, tiles)
    for size in _halved(inputs):
        kept = [k for k in range(1, -(-count // size) + 1) if cost.bytes(1, size, k) <= limit]
        if kept:
            return Blocks(1, size, kept[-1])
    raise UserError(
        f"memory: {limit / GIB:.3g} GiB for temporaries is too little: one pair of inputs takes "
        f"{cost.bytes(1, 1, 1) / GIB:.3g} GiB"
    )


@dataclass(frozen=True)
class _Cost:
    net: DenseNetwork
    outputs: Outputs
    itemsize: int

    def bytes(self, seeds: int, inputs: int, kept: int) -> int:
        """The most that is held: the rows' states, one column's, and what a pass or a product needs beside them."""
        neurons, o = sum(self.net.widths[1:]), self.net.outputs
        state = inputs * neurons * (o + 1)  # δ and a
        work = inputs * (neurons * (o + WORKSPACE) + self.net.inputs)  # δ once more, as its outputs are stacked
        pairs = inputs * inputs
        # The product, the weights before it, and for a full tile the weights repeated for every output.
        tile = pairs * (o * o + o + 1) if self.outputs == "full" else 2 * pairs + 2 * inputs * o * max(self.net.widths)
        return seeds * self.itemsize * ((kept + 1) * state + max(work, tile))


def _halved(count: int) -> list[int]:
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
