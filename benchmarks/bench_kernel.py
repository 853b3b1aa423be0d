"""The layerwise kernel against the contraction of a torch.func Jacobian: N=64 inputs, width 1024, L=4, one output.

Both are timed in one process by turns, so that the ratio does not depend on what else the machine does; the median of
each over ROUNDS. Memory is the growth of the process's peak, each route in a fresh process.

    python benchmarks/bench_kernel.py
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

import ntkrun
from ntkrun.engine.kernel import jacobian_ntk

INPUTS, WIDTH, DEPTH, DIMENSION = 64, 1024, 4, 64
ROUNDS = 7

Route = Callable[[ntkrun.DenseNetwork, ntkrun.Parameters, Tensor], Tensor]
ROUTES: dict[str, Route] = {"layerwise": ntkrun.empirical_ntk, "Jacobian contraction": jacobian_ntk}


def _problem() -> tuple[ntkrun.DenseNetwork, ntkrun.Parameters, Tensor]:
    net = ntkrun.DenseNetwork(DIMENSION, 1, DEPTH, WIDTH, "relu")
    return net, net.init([0]), torch.randn(INPUTS, DIMENSION, generator=torch.Generator().manual_seed(0))


def _seconds(route: Route, problem: tuple[ntkrun.DenseNetwork, ntkrun.Parameters, Tensor]) -> float:
    started = time.perf_counter()
    route(*problem)
    return time.perf_counter() - started


def _peak() -> float:
    """MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _growth(name: str) -> float:
    problem = _problem()
    before = _peak()
    ROUTES[name](*problem)
    return _peak() - before


def main() -> None:
    # First, while this process is small: a child starts from its parent's peak.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        growth = {name: pool.apply(_growth, (name,)) for name in ROUTES}
    problem = _problem()
    results = [route(*problem) for route in ROUTES.values()]  # warms both up
    difference = float((results[0] - results[1]).norm() / results[1].norm())
    times: dict[str, list[float]] = {name: [] for name in ROUTES}
    for _ in range(ROUNDS):
        for name, route in ROUTES.items():
            times[name].append(_seconds(route, problem))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"empirical NTK, N={INPUTS}, n={WIDTH}, L={DEPTH}, O=1, float32, {torch.get_num_threads()} threads")
    for name, median in medians.items():
        print(f"  {name:<22}{1e3 * median:9.2f} ms   {growth[name]:8.0f} MiB on top of the weights")
    print(f"  ratio {medians['Jacobian contraction'] / medians['layerwise']:.0f}; difference {difference:.1e} relative")


if __name__ == "__main__":
    main()
