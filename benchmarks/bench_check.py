"""The regression check's rates: false alarms between fresh seeds of one engine, and how often a change of 5 % is found.

Small networks are trained by the engine, in a pool; repeats draw disjoint sets of seeds from it. Up to POOL/200 seeds a
side the 100 repeats share no seed; beyond, they are random splits of the pool and so not independent. A change is
injected into all quantities at once, and each is judged at the level it would face alone, which is the same as
injecting it into one after the other.

    OMP_NUM_THREADS=1 python benchmarks/bench_check.py [pool]
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

import ntkrun
from ntkrun.config.reader import parse_config
from ntkrun.evidence.regression.baseline import RunRecord, records
from ntkrun.evidence.regression.comparison import ALPHA, Check, compare
from ntkrun.store.results_directory import Store

POOL, CHUNK, REPEATS = 8000, 1000, 100
SEEDS_AT_MOST = 16000  # in all repeats of a row: large samples are repeated less often
CHANGE = 1.05
CONFIG = """
name: pool
network: {depth: 2, activation: erf, weight_scale: 0.3}
data: {name: digits, samples: 8, test_samples: 4}
training: {steps: 20, step_size: {relative: 0.5}}
probes: {every: {log_spaced: 8}, kernels: []}
sweep: {grid: {network.width: [32, 64, 128]}, seeds: 1}
"""

Pool = Mapping[int, Sequence[RunRecord]]  # by seed, a record a width


def make_pool(seeds: int, config: str = CONFIG) -> Pool:
    """Trains the networks of that many seeds."""
    found: dict[int, list[RunRecord]] = {}
    for first in range(0, seeds, CHUNK):
        chosen = list(range(first, min(first + CHUNK, seeds)))
        with tempfile.TemporaryDirectory() as results:
            sweep = parse_config(config, overrides=[f"sweep.seeds={chosen}"])
            tables = ntkrun.run_sweep(sweep, results, "cpu")
            plan = Store(Path(results) / sweep.name).plan()
        for record in records(plan, tables.runs, tables.steps, tables.layers):
            found.setdefault(record.seed, []).append(record)
    return found


def splits(pool: Pool, seeds: int, repeats: int) -> Iterator[tuple[list[RunRecord], list[RunRecord]]]:
    """Two disjoint sets of `seeds` seeds, `repeats` times; disjoint between the repeats too where the pool is large
    enough."""
    draw, order, at = np.random.default_rng(0), np.arange(len(pool)), 0
    draw.shuffle(order)
    for _ in range(repeats):
        if at + 2 * seeds > len(order):
            draw.shuffle(order)
            at = 0
        chosen = order[at : at + 2 * seeds]
        at += 2 * seeds
        halves = (chosen[:seeds], chosen[seeds:])
        now, then = ([record for seed in half for record in pool[int(seed)]] for half in halves)
        yield now, then


def changed(runs: Sequence[RunRecord], factor: float, noise: float = 0.0, seed: int = 0) -> list[RunRecord]:
    """Every number times `factor`, and times exp(noise·N(0,1)) of its own."""
    draw = np.random.default_rng(seed)

    def moved(value: float | None) -> float | None:
        return None if value is None else value * factor * float(np.exp(noise * draw.standard_normal()))

    return [
        run.model_copy(
            update={
                "estimates": {name: moved(value) for name, value in run.estimates.items()},
                "curves": {name: tuple(map(moved, values)) for name, values in run.curves.items()},
            }
        )
        for run in runs
    ]


def found_alone(check: Check) -> dict[str, bool]:
    """Which quantities would be found had each moved alone: Holm's first level."""
    rows = [row for row in check.comparisons if row.place == "all widths"]
    return {row.name: row.p <= ALPHA / 2 / len(rows) for row in rows}


def main() -> None:
    pool = make_pool(int(sys.argv[1]) if len(sys.argv) > 1 else POOL)
    print(f"\npool of {len(pool)} seeds, widths 32, 64, 128\n")
    print("| seeds a side | repeats | false alarms | passes | inconclusive |\n|---|---|---|---|---|")
    for seeds, repeats in _sizes(3, 10, 40, len(pool) // 8, len(pool) // 2):
        codes = Counter(compare(now, then).code for now, then in splits(pool, seeds, repeats))
        print(f"| {seeds}, fresh | {repeats} | {codes[3]} | {codes[0]} | {codes[5]} |", flush=True)
    paired = [now for now, _ in splits(pool, 3, REPEATS)]
    codes = Counter(compare(changed(now, 1.0, 0.01, k), now).code for k, now in enumerate(paired))
    print(f"| 3, paired, 1 % noise a number | {REPEATS} | {codes[3]} | {codes[0]} | {codes[5]} |")

    print(f"\nHow often a change of {CHANGE - 1:.0%} is found: the least of all quantities, and which.\n")
    print("| seeds a side | repeats | least | of | mean of all | seeds asked for |\n|---|---|---|---|---|---|")
    for seeds, repeats in _sizes(len(pool) // 8, len(pool) // 4, len(pool) // 2):
        checks = [compare(changed(now, CHANGE), then) for now, then in splits(pool, seeds, repeats)]
        asked = max(compare(now, then).seeds_needed for now, then in splits(pool, seeds, 1))
        print(f"| {seeds}, fresh | {repeats} | {_detected(checks)} | {asked or 'no more'} |", flush=True)
    for noise in (0.0, 0.001, 0.01):
        checks = [compare(changed(now, CHANGE, noise, k), now) for k, now in enumerate(paired)]
        print(f"| 3, paired, {noise:.1%} noise a number | {REPEATS} | {_detected(checks)} | |", flush=True)


def _sizes(*seeds: int) -> Iterator[tuple[int, int]]:
    """Seeds a side, and how often it is repeated."""
    for count in seeds:
        yield count, max(5, min(REPEATS, SEEDS_AT_MOST // count))


def _detected(checks: Sequence[Check]) -> str:
    found = [found_alone(check) for check in checks]
    rates = {name: sum(one.get(name, False) for one in found) / len(found) for name in found[0]}
    least = min(rates, key=lambda name: rates[name])
    return f"{rates[least]:.2f} | {least} | {np.mean(list(rates.values())):.3f}"


if __name__ == "__main__":
    main()
