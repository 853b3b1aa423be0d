"""What share of a GPU's float32 peak its largest products reach: those of a training step, from 64 inputs.

The peak is that of the chip's float32 units, SMs x 128 x 2 x clock: no tf32, as everywhere in ntkrun. Beside it the
share of the time that reading and writing memory alone would take.

    NTKRUN_BENCH_DEVICE=cuda python benchmarks/bench_peak.py
"""

import sys
from collections.abc import Callable

import torch
from common import AHEAD, DEVICE, medians, where

INPUTS, ROUNDS = 64, 20
STACKS = {64: 512, 256: 128, 1024: 32, 2048: 8, 4096: 2, 8192: 1}  # width: runs


def products(width: int, runs: int) -> dict[str, Callable[[], object]]:
    """Forward, backward and update of a hidden layer, without σ."""
    a, d = (torch.randn(runs, INPUTS, width, device=DEVICE) for _ in range(2))
    w, out = torch.randn(runs, width, width, device=DEVICE), torch.empty(runs, INPUTS, width, device=DEVICE)
    return {
        "forward": lambda: torch.baddbmm(out, a, w.mT, beta=0, alpha=0.5),
        "backward": lambda: torch.baddbmm(out, d, w, beta=0, alpha=0.5),
        "update": lambda: w.baddbmm_(d.mT, a, alpha=1e-9),
    }


def main() -> None:
    if DEVICE.type != "cuda":
        sys.exit("the peak of a GPU is what is compared with: set NTKRUN_BENCH_DEVICE=cuda")
    chip = torch.cuda.get_device_properties(DEVICE)
    peak = chip.multi_processor_count * 128 * 2 * chip.clock_rate * 1e3
    bandwidth = 2 * chip.memory_clock_rate * 1e3 * chip.memory_bus_width / 8
    print(f"{where()}, float32 peak {peak / 1e12:.1f} TFLOP/s, memory {bandwidth / 1e12:.2f} TB/s, {INPUTS} inputs\n")
    print("| n | runs | product | TFLOP/s | of the peak | of the memory's |\n|---|---|---|---|---|---|")
    for width, runs in STACKS.items():
        operations, passes = 2 * runs * INPUTS * width**2, {"update": 2}
        for name, seconds in medians(products(width, runs), ROUNDS, ahead=AHEAD).items():
            moved = 4 * runs * (passes.get(name, 1) * width**2 + 2 * INPUTS * width)
            rate, share = operations / seconds, moved / seconds / bandwidth
            print(f"| {width} | {runs} | {name} | {rate / 1e12:.1f} | {rate / peak:.2f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
