"""The empirical kernel of many inputs in blocks, as tasks of Ray: no machine holds more than some blocks of it."""

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ntkrun.engine.kernel import empirical_ntk
from ntkrun.engine.network import DenseNetwork, Parameters
from ntkrun.engine.tiles import CPU_TILE, pieces
from ntkrun.errors import UserError
from ntkrun.run.ray import BESIDE, Workers, imported, in_flight, task
from ntkrun.run.task import ATTEMPTS
from ntkrun.theory.activations import Activation, know

# Rows of a block's side, inputs x outputs: passes are made anew for each block, and cost n/SIDE of its product; the
# result goes over the network as a whole (64 MiB of float32).
SIDE = 4096
PARTS = 4  # blocks for each worker at least, where there are inputs enough for tiles of CPU_TILE rows


@dataclass(frozen=True)
class Block:
    """Rows and columns of the kernel of the network of a seed; rows never begin after columns."""

    position: int
    seed: int
    rows: slice
    columns: slice


def blocks(seeds: list[int], inputs: int, outputs: int, workers: int) -> list[Block]:
    """What has to be computed of the kernels: the blocks on the diagonal and above."""
    least = -(-CPU_TILE // outputs)
    size = max(1, SIDE // outputs)
    while size > least and len(seeds) * _triangle(-(-inputs // size)) < PARTS * workers:
        size = max(least, size // 2)
    parts = pieces(inputs, size)
    pairs = [(i, j) for k, i in enumerate(parts) for j in parts[k:]]
    return [Block(position, seed, i, j) for position, seed in enumerate(seeds) for i, j in pairs]


def fill(
    result: np.ndarray, net: DenseNetwork, seeds: list[int], x: np.ndarray, dtype: torch.dtype, workers: Workers
) -> None:
    """Write K (S, N, N, O, O) into `result` a block at a time, each as it comes in; what is below the diagonal is what
    stands above it. Raises UserError where a block's worker is lost again and again."""
    ray, given = imported(), imported().put(x)
    lost: Counter[tuple[int, int, int]] = Counter()
    asked = task(_kernel, workers.cpus, workers.gpus, min(_bytes(net, dtype), workers.node_bytes))

    def start(block: Block) -> Any:
        return asked.remote(net, block, given, dtype, workers.device, workers.cpus, workers.registered)

    waiting = deque(blocks(seeds, len(x), net.outputs, workers.count))
    with closing(in_flight(waiting, start, workers.count)) as ended:
        for block, reference in ended:
            try:
                _put(result[block.position], block, ray.get(reference))
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                key = block.position, block.rows.start, block.columns.start
                lost[key] += 1
                if lost[key] == ATTEMPTS:
                    raise UserError(f"the kernel's worker was lost {ATTEMPTS} times: {error}") from None
                waiting.append(block)


def _put(kernel: np.ndarray, block: Block, part: np.ndarray) -> None:
    kernel[block.rows, block.columns] = part
    kernel[block.columns, block.rows] = part.transpose(1, 0, 3, 2)


def _kernel(
    net: DenseNetwork,
    block: Block,
    x: np.ndarray,
    dtype: torch.dtype,
    kind: str,
    threads: int,
    registered: Sequence[Activation],
) -> np.ndarray:
    """In a worker: one block, (rows, columns, O, O); of the diagonal exactly symmetric."""
    know(registered)
    torch.set_num_threads(threads)
    where = torch.device(kind)
    rows, columns = (torch.tensor(x[part], dtype=dtype, device=where) for part in (block.rows, block.columns))
    second = None if block.rows == block.columns else columns
    return empirical_ntk(net, _parameters(net, block.seed, dtype, where), rows, second)[0].cpu().numpy()


@lru_cache(maxsize=1)
def _parameters(net: DenseNetwork, seed: int, dtype: torch.dtype, where: torch.device) -> Parameters:
    return net.init([seed], dtype, where)


def _bytes(net: DenseNetwork, dtype: torch.dtype) -> int:
    """A block with its transposed copy, the network, and the passes of its rows and columns."""
    passes = 2 * SIDE * sum(net.widths) * 3
    return BESIDE + dtype.itemsize * (3 * SIDE**2 + net.parameter_count + passes)


def _triangle(side: int) -> int:
    return side * (side + 1) // 2
