"""How fast this machine is at what a stack is made of, measured in about a second.

Each rate is the median of a few repetitions: the shortest flatters a machine that others use as well.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ntkrun.engine.network import generator
from ntkrun.engine.replay import Graphs, directly
from ntkrun.engine.threads import spread

WIDTHS = (64, 256, 1024)  # of the products that are timed; between them rates are interpolated, beyond them kept
STACKED = {64: 16, 256: 8, 1024: 1}
LIGHTER = 0.4  # replayed on a GPU, an operation as costs.py counts them: it counts Python's share on a CPU as well
FILLING = 16  # times as many on a GPU, where a smaller product takes as long as its launch
INPUTS = 64
CACHED = {"cpu": 2**18, "cuda": 2**22}  # numbers of float32 that stay in a cache,
LARGE = 2**24  # and that do not
DRAWN = 2**16
SIDES = (64, 256)  # of the matrices whose eigenvalues are timed; a power law between and beyond them
REPETITIONS = 5


@dataclass(frozen=True)
class Rates:
    """Seconds: a multiplication in products of each of WIDTHS, in the training's precision and in float64; a byte read
    or written, in the cache and beyond it; the eigenvalues of a float64 matrix of each of SIDES; a small operation of
    those that are replayed at every step, and one that is called; a normal number where all cores draw; the generator
    of a seed and layer.
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
        """Seconds a multiplication at a width, by a straight line in log n."""
        rates = self.wide_product if wide else self.product
        return float(np.interp(math.log(width), np.log(WIDTHS), rates))

    def eigen(self, side: int) -> float:
        """Seconds of the eigenvalues of a float64 matrix of this side."""
        (small, large), (first, last) = SIDES, self.eigenvalues
        power = math.log(last / first) / math.log(large / small) if first else 0.0
        return first * float(side / small) ** power

    def traffic(self, held: float) -> float:
        """Seconds a byte where this many bytes are gone through in turn. The cache is a CPU's: a GPU's two rates are
        within a factor of two of each other."""
        return self.cached if held <= 4 * 8 * CACHED["cpu"] else self.large


def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of this machine, as it is used by others at this moment."""

    def timed(call: Callable[[], object], times: int = 1) -> float:
        return _timed(call, times, device)

    def product(width: int, kind: torch.dtype) -> float:
        stack = STACKED[width] * (1 if device.type == "cpu" else FILLING)
        a = torch.ones(stack, INPUTS, width, dtype=kind, device=device)
        w = torch.ones(stack, width, width, dtype=kind, device=device)
        return timed(lambda: torch.bmm(a, w), 3) / (a.numel() * width)

    def traffic(numbers: int, times: int) -> float:
        a, b = (torch.ones(numbers, dtype=torch.float32, device=device) for _ in range(2))
        return timed(lambda: a.add_(b), times) / (3 * 4 * numbers)

    def eigenvalues(side: int) -> float:
        place = torch.arange(side, dtype=torch.float64)
        # A spectrum that falls off, without the equal eigenvalues that would make it easy.
        matrix = 1 / (1 + (place[:, None] - place).abs())
        at_once = 2 if device.type == "cpu" else 2 * torch.get_num_threads()  # what waits there is shared by all cores
        parts = torch.split(matrix.expand(at_once, side, side), 2)
        return timed(lambda: spread(torch.linalg.eigvalsh, parts)) / at_once

    small, replay = torch.ones(4, 4, device=device), Graphs() if device.type == "cuda" else directly

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
        timed(lambda: spread(lambda one: one[0].standard_normal(out=one[1]), draws)) / (DRAWN * len(draws)),
        timed(lambda: generator(0, 0, 0, 64, 64), 20),
    )


def _timed(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of a call: the median over REPETITIONS of `times` calls in a row, after one that warms up."""
    found = []
    for _ in range(REPETITIONS + 1):
        started = time.perf_counter()
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append((time.perf_counter() - started) / times)
    return statistics.median(found[1:])
