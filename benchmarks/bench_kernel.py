"""The layerwise kernel: against a torch.func Jacobian, against its own matrix products run bare; its memory and growth.

Times are medians of turns in one process, so that ratios do not depend on what else the machine does. Memory is the
growth of the process's peak, each kernel in a fresh process.

    python benchmarks/bench_kernel.py
"""

import math
import multiprocessing
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import AHEAD, DEVICE, medians, where
from torch import Tensor

import ntkrun
from ntkrun.engine.calls import calls
from ntkrun.engine.clock import NO_CLOCK
from ntkrun.engine.kernel import jacobian_ntk

DIMENSION, DEPTH = 64, 4
SMALL = (64, 1024, 1)  # N, n, O
LARGE = (256, 4096, 10)
ROUNDS = 5
# The kernel where one of N, n and O doubles: in the range where its term of the operation count leads, and on a GPU
# where it takes longer than its launches.
GROWTH = {
    "cpu": {
        "N": ((2048, 128, 1), (4096, 128, 1)),
        "n": ((64, 1024, 1), (64, 2048, 1)),
        "O": ((256, 128, 8), (256, 128, 16)),
    },
    "cuda": {
        "N": ((8192, 256, 1), (16384, 256, 1)),
        "n": ((256, 8192, 1), (256, 16384, 1)),
        "O": ((1024, 256, 8), (1024, 256, 16)),
    },
}[DEVICE.type]

Problem = tuple[ntkrun.DenseNetwork, ntkrun.Parameters, Tensor]


def _problem(inputs: int, width: int, outputs: int) -> Problem:
    net = ntkrun.DenseNetwork(DIMENSION, outputs, DEPTH, width, "relu")
    x = torch.randn(inputs, DIMENSION, generator=torch.Generator().manual_seed(0))
    return net, net.init([0], device=DEVICE), x.to(DEVICE)


def _bare_products(problem: Problem) -> Callable[[], None]:
    """The matrix products that the kernel cannot do without: forward, backward, and two Gram matrices a layer."""
    net, params, x = problem
    o = net.outputs
    weights = [w[0] for w in params.weights]
    a = [torch.randn(len(x), n, device=DEVICE) for n in net.widths[:-1]]
    d = [torch.randn(len(x) * o, n, device=DEVICE) for n in net.widths[1:]]

    def run() -> None:
        for layer, w in enumerate(weights):
            a[layer] @ w.T
            a[layer] @ a[layer].T
            d[layer] @ d[layer].T
            if layer > 0:
                d[layer] @ w

    return run


def _operations(inputs: int, width: int, outputs: int) -> float:
    """Multiplications of the kernel of x alone: forward and backward passes, and half of the Gram matrices."""
    passes = (1 + outputs) * inputs * ((DEPTH - 2) * width**2 + (DIMENSION + outputs) * width)
    return passes + (inputs**2 / 2) * (1 + outputs**2) * (DEPTH - 1) * width


def _peak() -> float:
    """MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _now() -> float:
    """MiB held at this moment, where Linux tells; elsewhere the peak so far, which drawing the weights has raised."""
    status = Path("/proc/self/statm")
    return (
        int(status.read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 2**20
        if status.exists()
        else _peak()
    )


def _growth_of_peak(task: tuple[str, tuple[int, int, int]]) -> float:
    route, sizes = task
    problem = _problem(*sizes)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = _now()
    {"layerwise": ntkrun.empirical_ntk, "jacobian": jacobian_ntk}[route](*problem)
    peak = torch.cuda.max_memory_allocated() / 2**20 if DEVICE.type == "cuda" else _peak()
    return peak - before


def _against_others(peaks: dict[str, float]) -> None:
    problem = _problem(*SMALL)
    results = [ntkrun.empirical_ntk(*problem), jacobian_ntk(*problem)]
    difference = float((results[0] - results[1]).norm() / results[1].norm())
    routes = {
        "layerwise": lambda: ntkrun.empirical_ntk(*problem),
        "its matrix products, bare": _bare_products(problem),
        "Jacobian contraction": lambda: jacobian_ntk(*problem),
    }
    if DEVICE.type == "cuda":
        call = calls(problem[0], DEVICE, NO_CLOCK)
        routes["layerwise, replayed as in a training"] = lambda: call("kernel", ntkrun.empirical_ntk, *problem)
    found = medians(routes, rounds=3, often={name: 8 for name in routes if "Jacobian" not in name}, ahead=AHEAD)
    inputs, width, outputs = SMALL
    print(f"empirical NTK, N={inputs}, n={width}, L={DEPTH}, O={outputs}, float32, {where()}")
    for name, median in found.items():
        memory = f"{peaks[name]:8.0f} MiB on top of the weights" if name in peaks else ""
        print(f"  {name:<36}{1e3 * median:9.2f} ms   {memory}".rstrip())
    for name in (name for name in found if name.startswith("layerwise")):
        times, over = found["Jacobian contraction"] / found[name], found[name] / found["its matrix products, bare"]
        print(f"  {name}: {times:.0f} times faster than the Jacobian, {over:.2f} times its own products")
    print(f"  difference {difference:.1e} relative")


def _growth() -> None:
    print("growth where one size doubles: time, with the operations counted")
    for name, (small, large) in GROWTH.items():
        problems = _problem(*small), _problem(*large)
        found = medians(
            {str(k): partial(ntkrun.empirical_ntk, *p) for k, p in enumerate(problems)}, ROUNDS, ahead=AHEAD
        )
        exponent = math.log2(found["1"] / found["0"])
        expected = math.log2(_operations(*large) / _operations(*small))
        print(f"  {name}: {small} to {large} (N, n, O)   exponent {exponent:.2f}, of operations {expected:.2f}")


def main() -> None:
    # First, while this process is small: a child starts from its parent's peak.
    tasks = {
        "layerwise": ("layerwise", SMALL),
        "Jacobian contraction": ("jacobian", SMALL),
        "large": ("layerwise", LARGE),
    }
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {name: pool.apply(_growth_of_peak, (task,)) for name, task in tasks.items()}
    _against_others(peaks)
    inputs, width, outputs = LARGE
    print(f"N={inputs}, n={width}, O={outputs}: {peaks['large'] / 1024:.2f} GiB on top of the weights, result included")
    _growth()


if __name__ == "__main__":
    main()
