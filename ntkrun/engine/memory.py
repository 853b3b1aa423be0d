"""Memory of a stack: an upper bound from its sizes, before anything is allocated.

    bytes(S) = once + S · (parameters + passes + kernels + tables + temporaries)

For P parameters, L layers of at most i x j, h neurons, N training and M test inputs, A = N + M, O outputs, k = N·O, and
b bytes per number:

    parameters   b P for W, as much for W_0 if training moves W, as much for v with momentum
    passes       b N h (2 + O): z, a and δ of the training inputs
    kernels      b k² for K_t, K_0 and each kernel that is stored or not yet read; 8 (2 A O k + k²) for the flows
    tables       64 bytes for each number of a row, from the device to the file
    temporaries  the largest of: a step, b N h (3 + O); a measurement, b M h (2 + O) + 40 k², or with details instead of
                 40 k² the norms of the largest matrix, b (3 i j + 2 N h + 2 L N² + 2 k²); and the start in float64,
                 8 (P + A h (5 + 2 O) + 2 A O k), with 8 (A O k + 3 k²) for the modes. Layers of T > 1 positions
                 take 32 (A O T) (k T) for products over pairs of positions, at most 32 PAIRS (uses.py)
                 Where outputs are stored: the weights of the flow, b (P + 2 i j); and at step 0 what its layers are,
                 b (4 N h + 2 L N² + 4 N²) + 48 N², and K_0 again, 8 (3 P + 2 i j + A h (5 + 2 O))
    once         8 · 3 A N for the limit kernel and its modes, and a buffer of the update; for a network of which only
                 one is held in float64 at a time, the start

With details a run also keeps the activations, sub-networks' kernels and leading vectors of its start, b (N h + L N² +
16 h). Tensors that never stand in memory at once are counted as if they did, so torch allocates 0.45 to 1 of this, and
less where Python's objects for the tables count (tests/engine/test_stack_memory.py). The packing buffers of a library's
product are not in it.
"""

import math

from ntkrun.engine.detail_probes import ranks
from ntkrun.engine.flows import WIDE
from ntkrun.engine.operators import BLOCK
from ntkrun.engine.stack import BYTES_UNREAD, STEPS_UNREAD
from ntkrun.engine.task import StackTask
from ntkrun.engine.update import PART
from ntkrun.engine.uses import PAIRS

NUMBER = 64  # bytes per number of a table: as read, joined, a Python float in a list, a frame's column


def stack_bytes(task: StackTask, runs: int) -> int:
    """Return the most bytes that a stack of `runs` runs of this task takes, whatever its seeds."""
    once, per_run = _parts(task)
    return once + runs * per_run


def most_runs(task: StackTask, budget: int, most: int) -> int:
    """Return how many runs, at most `most`, fit into `budget` bytes together; 0 where not even one does."""
    once, per_run = _parts(task)
    return max(0, min(most, (budget - once) // per_run))


def _parts(task: StackTask) -> tuple[int, int]:
    """Return the bytes of a stack that do not depend on its number of runs, and those of each run."""
    net, b, n, m, o = task.network, task.dtype.itemsize, len(task.x), len(task.x_test), task.network.outputs
    p, h, a, k = net.parameter_count, sum(layer.outputs for layer in net.layers), n + m, n * o
    layers, pairs = len(net.layers), len(net.layers) * n**2
    unread = min(STEPS_UNREAD["cpu"], len(task.probed), 1 + BYTES_UNREAD["cpu"] // (b * k**2))
    parameters = b * p * (1 + (task.steps > 0) + (task.momentum > 0))
    passes = b * n * h * (2 + o)
    kernels = b * k**2 * (1 + unread + len(task.keep_kernels) + task.keep_last_kernel) + 8 * (2 * a * o * k + k**2)
    numbers = (52 + 27 * layers) * len(task.probed) + 12 * a * o * len(task.keep_outputs)
    numbers += 6 * len(ranks(k)) * len(task.detailed)
    sides = [(layer.weight[0], math.prod(layer.weight[1:])) for layer in net.layers]
    norms = max(i * j + min(2 * i * j, 12 * BLOCK * (i + j)) for i, j in sides)
    detail = b * (norms + 2 * n * h + 2 * pairs + 2 * k**2) * bool(task.detailed)
    began = b * (n * h + pairs + BLOCK * h) * bool(task.detailed)
    start, modes = 8 * (p + a * h * (5 + 2 * o) + 2 * a * o * k), 8 * (a * o * k + 3 * k**2)
    alone = 2 * p > WIDE  # only one at a time is held in float64
    largest = max(i * j for i, j in sides)
    stored = b * (p + 2 * largest) * bool(task.keep_outputs and task.steps)
    layered = (b * (4 * n * h + 2 * pairs + 4 * n**2) + 48 * n**2) * (0 in task.keep_outputs)
    again = 8 * (3 * p + 2 * largest + a * h * (5 + 2 * o)) * (0 in task.keep_outputs and task.steps > 0)
    work = max(b * n * h * (3 + o), b * m * h * (2 + o) + max(40 * k**2, detail), modes + (0 if alone else start))
    work = max(work, stored, layered + (0 if alone else again))
    longest = max(layer.positions for layer in net.layers)
    if longest > 1:
        work += 32 * min(a * o * k * longest**2, max(PAIRS, (o * longest) ** 2))
    limit = 0 if task.limit is None else 3 * 8 * task.limit.size
    once = limit + b * PART["cpu"] * (task.steps > 0) + max(start, again) * alone
    return once, parameters + passes + kernels + NUMBER * numbers + began + work
