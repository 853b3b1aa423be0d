"""Rates of this machine for the operations of a stack, measured in about a second, and the resulting cost estimates.

Each rate is the median of a few repetitions: the minimum would be too optimistic on a shared machine.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ntkrun.engine.clock import PHASES
from ntkrun.engine.cuda_graphs import Graphs, without_graphs
from ntkrun.engine.detail_probes import ranks
from ntkrun.engine.network import generator
from ntkrun.engine.operators import BLOCK, DIRECT
from ntkrun.engine.stack import StackTask
from ntkrun.engine.torch_settings import spread

WIDTHS = (64, 256, 1024)  # of the timed products; rates are interpolated between these widths and constant beyond them
STACKED = {64: 16, 256: 8, 1024: 1}
LIGHTER = 0.4  # factor for an operation replayed on a GPU: the counts below include Python's share on a CPU
FILLING = 16  # factor for the stacks on a GPU, where a smaller product takes as long as its launch
INPUTS = 64
CACHED = {"cpu": 2**18, "cuda": 2**22}  # float32 numbers that fit into a cache,
LARGE = 2**24  # and that do not fit
DRAWN = 2**16
SIDES = (64, 256)  # of the matrices whose eigenvalues are timed; other sizes follow a power law
REPETITIONS = 5


@dataclass(frozen=True)
class Rates:
    """Seconds per unit of work: a multiplication in products of each of WIDTHS, in the training precision and in
    float64; a byte read or written, in the cache and beyond it; the eigenvalues of a float64 matrix of each of SIDES; a
    small operation that is replayed at every step, and one that is called; a normal random number if all cores draw;
    creating the generator of a seed and layer.
    """

    product: tuple[float, ...]
    wide_product: tuple[float, ...]
    cached: float
    large: float
    eigenvalues: tuple[float, ...]
    operation: float
    called: float
    normal: float
    generator: float

    def products(self, width: int, wide: bool = False) -> float:
        """Return the seconds per multiplication at a width, interpolated linearly in log n."""
        rates = self.wide_product if wide else self.product
        return float(np.interp(math.log(width), np.log(WIDTHS), rates))

    def eigen(self, side: int) -> float:
        """Return the seconds for the eigenvalues of a float64 matrix of this side."""
        (small, large), (first, last) = SIDES, self.eigenvalues
        power = math.log(last / first) / math.log(large / small) if first else 0.0
        return first * float(side / small) ** power

    def traffic(self, held: float) -> float:
        """Return the seconds per byte in passes over `held` bytes. The cache size is that of a CPU: on a GPU the two
        rates are within a factor of two of each other."""
        return self.cached if held <= 4 * 8 * CACHED["cpu"] else self.large


def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure the rates of this machine under its present load."""

    def timed(call: Callable[[], object], times: int = 1) -> float:
        return _timed(call, times, device)

    def product(width: int, precision: torch.dtype) -> float:
        stack = STACKED[width] * (1 if device.type == "cpu" else FILLING)
        a = torch.ones(stack, INPUTS, width, dtype=precision, device=device)
        w = torch.ones(stack, width, width, dtype=precision, device=device)
        return timed(lambda: torch.bmm(a, w), 3) / (a.numel() * width)

    def traffic(numbers: int, times: int) -> float:
        a, b = (torch.ones(numbers, dtype=torch.float32, device=device) for _ in range(2))
        return timed(lambda: a.add_(b), times) / (3 * 4 * numbers)

    def eigenvalues(side: int) -> float:
        index = torch.arange(side, dtype=torch.float64)
        # The spectrum decays and has no equal eigenvalues, which would make the problem easier.
        matrix = 1 / (1 + (index[:, None] - index).abs())
        # Training on a GPU leaves its eigenvalues to all cores of the host.
        count = 2 if device.type == "cpu" else 2 * torch.get_num_threads()
        parts = torch.split(matrix.expand(count, side, side), 2)
        return timed(lambda: spread(torch.linalg.eigvalsh, parts)) / count

    small, replay = torch.ones(4, 4, device=device), Graphs() if device.type == "cuda" else without_graphs

    def additions() -> None:
        for _ in range(500):
            small + small

    draws = [(generator(0, k), np.empty(DRAWN)) for k in range(torch.get_num_threads())]
    return Rates(
        tuple(product(width, dtype) for width in WIDTHS),
        tuple(product(width, torch.float64) for width in WIDTHS),
        traffic(CACHED[device.type], 20),
        traffic(LARGE, 1),
        tuple(map(eigenvalues, SIDES)),
        timed(lambda: replay("additions", additions)) / 500 * (1 if device.type == "cpu" else LIGHTER),
        timed(additions) / 500,
        timed(lambda: spread(lambda draw: draw[0].standard_normal(out=draw[1]), draws)) / (DRAWN * len(draws)),
        timed(lambda: generator(0, 0, 0, 64, 64), 20),
    )


def _timed(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the seconds per call: the median over REPETITIONS of `times` calls in a row, after one warm-up."""
    seconds = []
    for _ in range(REPETITIONS + 1):
        started = time.perf_counter()
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - started) / times)
    return statistics.median(seconds[1:])


# ---------------------------------------------------------------- costs


DOUBLE = 8
# Passes over a tensor: z in a forward layer, δ in a backward layer, the weights in an update without the drift, the
# weights again for the drift, and a kernel in float64 for its numbers.
FORWARD, BACKWARD, UPDATE, DRIFT, NUMBERS = 45, 45, 2, 4, 120
# Numbers of small operations: per layer of a pass, of the kernel, of the update and of a detail step; for the numbers
# of a probed state, for its flows, for a step of the linearised network, and for reading a row.
PASS, KERNEL, MOVE, DETAIL, PROBE, FLOW, LINEAR, READ = 20, 100, 110, 1200, 600, 1000, 60, 450
KRYLOV = 8  # blocks used by the two norms of a layer together
EIGH = 4  # time of a decomposition with eigenvectors, relative to eigenvalues alone
A_NUMBER, A_FILE = 4e-7, 0.012  # seconds to bring a table's number from the device to the disk, and to flush a file


@dataclass(frozen=True)
class Cost:
    """The cost of the stacks of a task at these rates, for any seeds."""

    task: StackTask
    rates: Rates

    def seconds(self, runs: int) -> float:
        """Return the seconds of a stack of `runs` runs."""
        return sum(self.phases(runs).values())

    def phases(self, runs: int) -> dict[str, float]:
        """Return the seconds by phase of a stack of `runs` runs."""
        task = self.task
        probed, detailed = len(task.probed), len(task.detailed)
        plain, batch = task.steps + 1 - probed, task.batch or len(task.x)
        by_phase = {
            "initialisation": self._initialisation(runs),
            "forward": probed * self._forward(runs, len(task.x)) + plain * self._forward(runs, batch),
            "backward": probed * self._backward(runs, task.network.outputs, len(task.x))
            + plain * self._backward(runs, 1, batch),
            "kernel": (probed + 1) * self._kernel(runs),
            "update": min(task.steps, probed) * self._update(runs, len(task.x), measured=True)
            + max(0, task.steps - probed) * self._update(runs, batch, measured=False),
            "probes": probed * self._numbers(runs),
            "detail": (detailed and detailed + 1) * self._detail(runs),
            "flows": self._flows_begin(runs) + probed * self._flows(runs) + (task.steps + 1) * self._linear(runs),
            "reading back": probed * READ * self.rates.operation + self._table_numbers * runs * A_NUMBER / 2,
            "writing": 8 * A_FILE + self._table_numbers * runs * A_NUMBER / 2,
        }
        return {phase: by_phase[phase] for phase in PHASES}

    def _initialisation(self, runs: int) -> float:
        net, rates = self.task.network, self.rates
        copies = (4 + 3 * (self.task.steps > 0)) * self._item * rates.large
        return runs * (net.parameter_count * (rates.normal + copies) + 2 * net.depth * 1.5 * rates.generator)

    def _forward(self, runs: int, inputs: int, wide: bool = False) -> float:
        item = DOUBLE if wide else self._item
        products = sum(n * m * self._product(n, m, wide) for n, m in self._shapes)
        return runs * inputs * products + self._elements(FORWARD * item * runs * inputs * self._neurons, PASS)

    def _backward(self, runs: int, vectors: int, inputs: int, wide: bool = False) -> float:
        item = DOUBLE if wide else self._item
        products = sum(n * m * self._product(n, m, wide) for n, m in self._shapes[1:])
        moved = BACKWARD * item * runs * inputs * vectors * self._neurons
        return runs * inputs * vectors * products + self._elements(moved, PASS)

    def _kernel(self, runs: int, wide: bool = False, rows: int = 0) -> float:
        """Return the seconds for the kernel from `rows` inputs (0: all training inputs) to the training inputs."""
        n, o = len(self.task.x), self.task.network.outputs
        rows = rows or n
        products = sum(
            rows * n * (before * self._product(before, n, wide) + o * o * after * self._product(after, n, wide))
            for before, after in self._shapes
        )
        item = DOUBLE if wide else self._item
        moved = 8 * item * runs * rows * n * (o * o + 1) * self.task.network.depth
        return runs * products + self._elements(moved, KERNEL)

    def _update(self, runs: int, inputs: int, measured: bool) -> float:
        weights = sum(n * m for n, m in self._shapes)
        products = runs * inputs * sum(n * m * self._product(n, m) for n, m in self._shapes)
        held = self._item * runs * weights
        passes = UPDATE + DRIFT * measured + 2 * (self.task.momentum > 0)
        return products + passes * held * self.rates.traffic(2 * held) + self._elements(0, MOVE)

    def _numbers(self, runs: int) -> float:
        side = len(self.task.x) * self.task.network.outputs
        moved = NUMBERS * DOUBLE * runs * side**2
        values = runs * self.rates.eigen(side)
        test_pass = self._forward(runs, len(self.task.x_test))
        return test_pass + values + moved * self.rates.traffic(moved / 8) + PROBE * self.rates.operation

    def _flows_begin(self, runs: int) -> float:
        points, side = len(self.task.x) + len(self.task.x_test), len(self.task.x) * self.task.network.outputs
        passes = self._forward(runs, points, wide=True) + self._backward(runs, self.task.network.outputs, points, True)
        copied = runs * self.task.network.parameter_count * (DOUBLE + self._item) * self.rates.large
        modes = EIGH * runs * self.rates.eigen(side) * (self.task.loss == "squared")
        return passes + copied + self._kernel(runs, True, points) + modes

    def _flows(self, runs: int) -> float:
        squared = self.task.loss == "squared"
        moved = DOUBLE * runs * self._rows * squared
        return moved * self.rates.traffic(moved) + FLOW * self.rates.operation

    def _linear(self, runs: int) -> float:
        moved = DOUBLE * runs * self._rows
        return moved * self.rates.traffic(moved) + LINEAR * self.rates.operation

    def _detail(self, runs: int) -> float:
        """Return the seconds of a detail step: operator norms of weights and of their changes, sub-networks' kernels,
        Gram matrices."""
        n, total = len(self.task.x), 0.0
        for before, after in self._shapes:
            side, size = min(before, after), before * after
            if side <= DIRECT:
                work = 2 * size * side * self.rates.products(side, True)
                total += runs * (work + 2 * self.rates.eigen(side))
                continue
            products = 2 * KRYLOV * size * BLOCK * self.rates.products(side)
            small = KRYLOV * EIGH * self.rates.eigen(KRYLOV // 4 * BLOCK)
            bases = 8 * KRYLOV**2 * BLOCK**2 * (before + after) * self.rates.products(DIRECT)
            total += runs * (products + small + bases) + runs * size * self._item * 3 * self.rates.large
        sub = self.task.network.depth / 2 * (self._backward(runs, 1, n) + self._kernel(runs))
        total += DETAIL * self.task.network.depth * self.rates.called
        return total + sub + self._backward(runs, self.task.network.outputs, len(self.task.x_test))

    def _elements(self, moved: float, operations: int) -> float:
        """Return the seconds for reading and writing `moved` bytes and for `operations` small operations per layer."""
        return moved * self.rates.cached + operations * self.task.network.depth * self.rates.operation

    def _product(self, n: int, m: int, wide: bool = False) -> float:
        return self.rates.products(max(1, min(n, m)), wide)

    @property
    def _table_numbers(self) -> int:
        """Numbers in the tables of a run."""
        task, points = self.task, len(self.task.x) + len(self.task.x_test)
        modes = 3 * len(ranks(len(task.x) * task.network.outputs)) * len(task.detailed)
        outputs = 8 * points * task.network.outputs * len(task.keep_outputs)
        return len(task.probed) * (33 + 11 * task.network.depth) + modes + outputs

    @property
    def _rows(self) -> int:
        return (len(self.task.x) + len(self.task.x_test)) * len(self.task.x) * self.task.network.outputs**2

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return list(pairwise(self.task.network.widths))

    @property
    def _neurons(self) -> int:
        return sum(self.task.network.widths[1:])

    @property
    def _item(self) -> int:
        return self.task.dtype.itemsize
