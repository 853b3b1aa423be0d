"""Compute the empirical kernel of many inputs in blocks, as Ray tasks: no machine holds more than a few blocks."""

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ntkrun.engine.kernel import empirical_ntk
from ntkrun.engine.network import Network, Parameters
from ntkrun.engine.tiles import CPU_TILE, pieces
from ntkrun.errors import UserError
from ntkrun.run.ray import BESIDE, Workers, import_ray, in_flight, task
from ntkrun.run.task import ATTEMPTS
from ntkrun.theory.activations import Activation, know

# Rows of a block (inputs x outputs). Each block repeats its forward and backward passes, which cost n/SIDE of its
# product. A block's result crosses the network in one piece (64 MiB in float32).
SIDE = 4096
PARTS = 4  # least number of blocks per worker, if there are enough inputs for tiles of CPU_TILE rows


@dataclass(frozen=True)
class Block:
    """Rows and columns of the kernel of one seed's network; the rows never begin after the columns."""

    position: int
    seed: int
    rows: slice
    columns: slice


def blocks(seeds: list[int], inputs: int, outputs: int, workers: int) -> list[Block]:
    """Return the blocks of the kernels that have to be computed: those on the diagonal and above."""
    least = -(-CPU_TILE // outputs)
    size = max(1, SIDE // outputs)
    while size > least and len(seeds) * _triangle(-(-inputs // size)) < PARTS * workers:
        size = max(least, size // 2)
    parts = pieces(inputs, size)
    pairs = [(i, j) for k, i in enumerate(parts) for j in parts[k:]]
    return [Block(position, seed, i, j) for position, seed in enumerate(seeds) for i, j in pairs]


def fill(
    result: np.ndarray, net: Network, seeds: list[int], x: np.ndarray, dtype: torch.dtype, workers: Workers
) -> None:
    """Write K (S, N, N, O, O) into `result`, each block when it arrives. Blocks below the diagonal are the transposes
    of those above. Raises UserError where the worker of a block is lost ATTEMPTS times."""
    ray, inputs = import_ray(), import_ray().put(x)
    lost: Counter[tuple[int, int, int]] = Counter()
    remote_task = task(_kernel, workers.cpus, workers.gpus, min(_bytes(net, dtype), workers.node_bytes))

    def start(block: Block) -> Any:
        return remote_task.remote(net, block, inputs, dtype, workers.device, workers.cpus, workers.registered)

    waiting = deque(blocks(seeds, len(x), net.outputs, workers.count))
    with closing(in_flight(waiting, start, workers.count)) as results:
        for block, reference in results:
            try:
                _store(result[block.position], block, ray.get(reference))
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                key = block.position, block.rows.start, block.columns.start
                lost[key] += 1
                if lost[key] == ATTEMPTS:
                    raise UserError(f"the kernel's worker was lost {ATTEMPTS} times: {error}") from None
                waiting.append(block)


def _store(kernel: np.ndarray, block: Block, part: np.ndarray) -> None:
    kernel[block.rows, block.columns] = part
    kernel[block.columns, block.rows] = part.transpose(1, 0, 3, 2)


def _kernel(
    net: Network,
    block: Block,
    x: np.ndarray,
    dtype: torch.dtype,
    kind: str,
    threads: int,
    registered: Sequence[Activation],
) -> np.ndarray:
    """Compute one block in a worker, (rows, columns, O, O). A block on the diagonal is exactly symmetric."""
    know(registered)
    torch.set_num_threads(threads)
    device = torch.device(kind)
    rows, columns = (torch.tensor(x[part], dtype=dtype, device=device) for part in (block.rows, block.columns))
    second = None if block.rows == block.columns else columns
    return empirical_ntk(net, _parameters(net, block.seed, dtype, device), rows, second)[0].cpu().numpy()


@lru_cache(maxsize=1)
def _parameters(net: Network, seed: int, dtype: torch.dtype, device: torch.device) -> Parameters:
    return net.init([seed], dtype, device)


def _bytes(net: Network, dtype: torch.dtype) -> int:
    """Return the bytes of a block with its transposed copy, the network, and the passes of its rows and columns."""
    passes = 2 * SIDE * (net.inputs + sum(layer.outputs for layer in net.layers)) * 3
    return BESIDE + dtype.itemsize * (3 * SIDE**2 + net.parameter_count + passes)


def _triangle(side: int) -> int:
    return side * (side + 1) // 2
