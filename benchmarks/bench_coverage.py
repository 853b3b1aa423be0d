"""How often intervals that claim 95 % hold the truth: `python benchmarks/bench_coverage.py [repetitions]`.

Synthetic sweeps of five widths with a known exponent: log y = log c - 0.9 log n + s_n·noise, s_n equal or falling
tenfold with the width; noise normal, or skewed (a shifted exponential); all runs there, or each run of the two
narrowest widths missing with probability 0.3, as diverged ones would be (two at least are kept). The last column is the
slope of a variance over seeds by the jackknife: y ~ N(0, 1/n), whose variance falls with exponent -1.
"""

import sys

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.intervals import fit_exponent, fit_power_law, jackknife_logs, level

WIDTHS = np.array([64, 128, 256, 512, 1024])
SLOPE = -0.9
SEEDS = (3, 5, 10, 40)
EQUAL, FALLING = np.full(5, 0.1), np.geomspace(0.3, 0.03, 5)


def main(repetitions: int) -> None:
    draw = np.random.default_rng(0)
    print(f"coverage of 95 % intervals in percent, {repetitions} repetitions (standard error "
          f"{100 * np.sqrt(0.95 * 0.05 / repetitions):.1f})\n")  # fmt: skip
    print("| seeds | exponent | scatter falls | skewed | runs missing | level | exponent of a variance |")
    print("|---|---|---|---|---|---|---|")
    for seeds in SEEDS:
        cells = [
            covers(draw, repetitions, seeds, EQUAL, skewed=False, missing=False),
            covers(draw, repetitions, seeds, FALLING, skewed=False, missing=False),
            covers(draw, repetitions, seeds, FALLING, skewed=True, missing=False),
            covers(draw, repetitions, seeds, FALLING, skewed=False, missing=True),
            levels(draw, repetitions, seeds),
            variances(draw, repetitions, seeds),
        ]
        print(f"| {seeds} | " + " | ".join(f"{100 * share:.1f}" for share in cells) + " |")


def covers(
    draw: np.random.Generator, repetitions: int, seeds: int, scatter: np.ndarray, skewed: bool, missing: bool
) -> float:
    """The share of sweeps whose exponent's interval holds the true one."""
    hits = 0
    for _ in range(repetitions):
        widths, values = sample(draw, seeds, scatter, skewed, missing)
        low, high = fit_exponent(widths, values).interval
        hits += low <= SLOPE <= high
    return hits / repetitions


def sample(
    draw: np.random.Generator, seeds: int, scatter: np.ndarray, skewed: bool, missing: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Widths and values of a sweep's runs."""
    shape = (len(WIDTHS), seeds)
    noise = draw.exponential(size=shape) - 1 if skewed else draw.standard_normal(shape)
    values = np.exp(np.log(WIDTHS)[:, None] * SLOPE + scatter[:, None] * noise)
    kept = np.ones(shape, dtype=bool)
    if missing:
        kept[:2, 2:] = draw.random((2, seeds - 2)) > 0.3
    return np.repeat(WIDTHS, seeds)[kept.ravel()], values[kept]


def levels(draw: np.random.Generator, repetitions: int, seeds: int) -> float:
    hits = 0
    for _ in range(repetitions):
        low, high = level(1 + draw.standard_normal(seeds)).interval
        hits += low <= 1 <= high
    return hits / repetitions


def variances(draw: np.random.Generator, repetitions: int, seeds: int) -> float:
    """A mean of 4 inputs' variances, as Var K_0(x, x) is: 10 times as many seeds, for fewer say nothing of a
    variance."""
    hits, few = 0, repetitions // 10
    for _ in range(few):
        logs = {}
        for width in WIDTHS:
            values = draw.standard_normal((10 * seeds, 4)) / np.sqrt(width)
            frame = pd.DataFrame(values, index=pd.RangeIndex(10 * seeds))
            logs[float(width)] = jackknife_logs(frame, lambda part: float(part.var().mean()))
        low, high = fit_power_law(logs).interval
        hits += low <= -1 <= high
    return hits / few


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
