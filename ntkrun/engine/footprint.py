"""Memory of a stack, counted from its shapes before anything is allocated.

    bytes(S) = once + S · (kept + the largest set of temporaries)

Tensors count with their size; packing buffers inside a library's product do not. If several temporaries never exist at
the same time, the largest one counts. tests/engine/test_footprint.py compares the count with what torch allocates.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ntkrun.engine.detail_probes import ranks
from ntkrun.engine.flows import WIDE
from ntkrun.engine.operators import BLOCK, DIRECT
from ntkrun.engine.stack import BYTES_UNREAD, STEPS_UNREAD, StackTask
from ntkrun.engine.tiles import WORKSPACE
from ntkrun.engine.update import PART

DOUBLE = 8  # bytes of a float64
KERNELS_AT_WORK = 5  # float64 copies of a kernel at once: K, its diagonal blocks, the rest, its square
A_NUMBER = 64  # bytes per number of a table: as read, joined, a Python float in a list, a frame's column
STEP_NUMBERS, LAYER_NUMBERS, MODE_NUMBERS, OUTPUT_NUMBERS = 36, 12, 6, 12  # columns of a row, keys included
KRYLOV_BLOCKS = 12  # most blocks used by the operator norms of operators.py, on both sides of a matrix


@dataclass(frozen=True)
class Footprint:
    """The memory of the stacks of a task, for any seeds."""

    task: StackTask

    def bytes(self, runs: int) -> int:
        """Return the peak memory of a stack of `runs` runs, reached as flows.py starts or later at a measurement."""
        start = self._wide_runs(runs) * self._wide_run + runs * DOUBLE * (self._rows + 2 * self._square)
        steps = min(STEPS_UNREAD["cpu"], len(self.task.probed)) - 1  # in addition to the kernel K_t
        unread = min(runs * steps * self._item * self._square, BYTES_UNREAD["cpu"])
        return self._once + runs * self._kept + unread + max(start, runs * self._work)

    def most(self, budget: int, runs: int) -> int:
        """Return how many of `runs` fit into `budget` bytes together; 0 where not even one does."""
        low, high = 0, runs  # bytes(low) fits, or low is 0
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes(middle) <= budget else (low, middle - 1)
        return low

    @cached_property
    def _kept(self) -> int:
        """Bytes that a run holds from its start to its end."""
        count = 2 + len(self.task.keep_kernels) + self.task.keep_last_kernel
        kernels = count * self._item * self._square  # K_t and K_0, and the stored kernels
        return self._parameters + self._passes + kernels + self._flows + self._start + self._tables

    @cached_property
    def _work(self) -> int:
        """Bytes of the largest set of temporaries at a step, per run."""
        passes = self._item * self._n * self._neurons * (self._o + WORKSPACE)
        numbers = DOUBLE * KERNELS_AT_WORK * self._square
        return max(passes, self._test_pass + max(numbers, self._detail))

    @property
    def _once(self) -> int:
        """Bytes of a stack that do not depend on its number of runs."""
        limit = 0 if self.task.limit is None else 3 * DOUBLE * self.task.limit.size  # K_inf, its reach and its vectors
        return limit + (self._item * PART["cpu"] if self.task.steps else 0)

    @property
    def _parameters(self) -> int:
        """W, and W_0 and v if training changes W."""
        copies = 1 + (self.task.steps > 0) + (self.task.momentum > 0)
        return copies * self._item * self.task.network.parameter_count

    @property
    def _passes(self) -> int:
        """z, a and δ of the training inputs."""
        return self._item * self._neurons * self._n * (2 + self._o)

    @property
    def _test_pass(self) -> int:
        """z and a of the test inputs, and δ if their kernel is needed."""
        gradients = self._o if self.task.detailed or self.task.keep_outputs else 0
        return self._item * self._neurons * self._m * (2 + gradients)

    @property
    def _flows(self) -> int:
        """K_0 from all inputs to the training inputs and its reach, (A·O, N·O) both, and eigenvectors."""
        squared = self.task.loss == "squared"
        return DOUBLE * (self._rows * (1 + squared) + self._square * squared)

    @property
    def _start(self) -> int:
        """Activations, sub-networks' kernels and leading vectors of the start, and the recorded modes."""
        if not self.task.detailed:
            return 0
        sides = [min(shape) for shape in self._shapes]
        vectors = sum(side * BLOCK for side in sides if side > DIRECT)
        modes = DOUBLE * self._n * self._o * len(ranks(self._n * self._o))
        return self._item * (self._n * self._neurons + vectors + self._pairs) + modes

    @property
    def _detail(self) -> int:
        """w - w_0 and the bases for the norms of the largest layer, the Gram matrices and sub-networks' kernels of all
        layers, one layer's part of K, and backward passes."""
        if not self.task.detailed:
            return 0
        norms = max(
            n * m + (KRYLOV_BLOCKS * BLOCK * (n + m) if min(n, m) > DIRECT else n * m * 2) for n, m in self._shapes
        )
        passes = 2 * self._n * self._neurons
        return self._item * (norms + passes + 2 * self._pairs + 2 * self._square)

    @property
    def _tables(self) -> int:
        """The rows of the tables, which are held until the stack ends."""
        task, points = self.task, (self._n + self._m) * self._o
        per_step = STEP_NUMBERS + LAYER_NUMBERS * task.network.depth
        modes = MODE_NUMBERS * len(ranks(self._n * self._o)) * len(task.detailed)
        return A_NUMBER * (per_step * len(task.probed) + modes + OUTPUT_NUMBERS * points * len(task.keep_outputs))

    def _wide_runs(self, runs: int) -> int:
        """Return how many runs flows.py holds in float64 at a time."""
        return min(runs, max(1, WIDE // self.task.network.parameter_count))

    @property
    def _wide_run(self) -> int:
        """A float64 copy of a run, its passes over all inputs, and the kernel from these to the training inputs."""
        points = self._n + self._m
        passes = points * self._neurons * (2 + 2 * self._o + WORKSPACE)
        return DOUBLE * (self.task.network.parameter_count + passes + 2 * points * self._o * self._n * self._o)

    @property
    def _n(self) -> int:
        return len(self.task.x)

    @property
    def _m(self) -> int:
        return len(self.task.x_test)

    @property
    def _o(self) -> int:
        return self.task.network.outputs

    @property
    def _neurons(self) -> int:
        return sum(self.task.network.widths[1:])

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return list(pairwise(self.task.network.widths))

    @property
    def _pairs(self) -> int:
        """Number of pairs of inputs, summed over layers."""
        return self.task.network.depth * self._n**2

    @property
    def _rows(self) -> int:
        """Number of entries of a kernel from all inputs to the training inputs."""
        return (self._n + self._m) * self._o * self._n * self._o

    @property
    def _square(self) -> int:
        return (self._n * self._o) ** 2

    @property
    def _item(self) -> int:
        return self.task.dtype.itemsize
