"""The limit kernel: relu and erf at N=2000, L=10 against the bare elementwise operations that it cannot do without;
tanh, which has no closed form, against erf at N=1000, L=4.

The bare operations are those of the closed form on every pair of inputs and layer, on as many numbers as the symmetric
half holds, in pieces that fit a core's cache: relu takes an arccosine, two roots, two divisions and a dozen products.
Routes are timed by turns in one process; medians of ROUNDS. Memory is the growth of a fresh process's peak.

    python benchmarks/bench_limit.py
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable

import torch
from common import medians
from torch import Tensor

import ntkrun
from ntkrun.theory.limit import BLOCK

ROUNDS = 5


def _points(count: int, same_norm: bool) -> Tensor:
    x = torch.randn(count, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x / x.norm(dim=1, keepdim=True) * 10**0.5 if same_norm else x


def _limit(activation: str, depth: int, x: Tensor) -> Callable[[], object]:
    net = ntkrun.DenseNetwork(10, 1, depth, 1, activation)
    return lambda: ntkrun.limit_kernels(net, x)


def _bare(activation: str, count: int, depth: int) -> Callable[[], object]:
    """The closed form's own elementwise work on count(count+1)/2 pairs, depth - 1 times."""
    size = BLOCK["cpu"]
    rho, q, kernel = (torch.rand(size, dtype=torch.float64) for _ in range(3))
    pieces = max(1, count * (count + 1) // 2 // size) * (depth - 1)

    def relu() -> None:
        c = (q * q).sqrt()
        r = rho / c
        theta, sine = r.clamp(-1, 1).acos(), (1 - r * r).clamp(min=0).sqrt()
        slopes = 0.5 - theta * 0.159
        values = c * (sine * 0.159 + r * slopes)
        torch.addcmul(values + 0.01, kernel, slopes)

    def erf() -> None:
        c = (q * q).sqrt()
        r = rho / c
        root = (1 + 2 * (q + q) + 4 * q * q * (1 - r * r)).sqrt()
        values, slopes = 0.637 * torch.atan2(2 * r * c, root), 1.27 / root
        torch.addcmul(values + 0.01, kernel, slopes)

    work = {"relu": relu, "erf": erf}[activation]

    def run() -> None:
        for _ in range(pieces):
            work()

    return run


def _growth(activation: str, count: int, depth: int) -> float:
    """MiB by which the peak of this process grows."""
    route = _limit(activation, depth, _points(count, same_norm=False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    route()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def main() -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        growth = {name: pool.apply(_growth, (name, 2000, 10)) for name in ("relu", "erf")}
    print(f"limit kernels, float64, {torch.get_num_threads()} threads\n")
    print("| what | seconds | ratio | MiB beyond the inputs (61 MiB are the two results) |\n|---|---|---|---|")
    for name in ("relu", "erf"):
        found = medians({"limit": _limit(name, 10, _points(2000, False)), "bare": _bare(name, 2000, 10)}, ROUNDS)
        ratio = found["limit"] / found["bare"]
        print(f"| {name}, N=2000, L=10 / bare operations | {found['limit']:.3f} | {ratio:.2f} | {growth[name]:.0f} |")
    for same_norm in (False, True):
        x = _points(1000, same_norm)
        found = medians({name: _limit(name, 4, x) for name in ("tanh", "erf")}, ROUNDS)
        kind = "one norm" if same_norm else "Gaussian"
        print(
            f"| tanh / erf, N=1000, L=4, {kind} inputs | {found['tanh']:.3f} | {found['tanh'] / found['erf']:.1f} | |"
        )


if __name__ == "__main__":
    main()
