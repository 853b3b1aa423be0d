"""How the kernel of a dense network is cut into blocks that fit a memory budget."""

from dataclasses import dataclass, replace
from itertools import chain

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
