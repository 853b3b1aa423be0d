"""A small sweep on a quiet machine and beside three busy processes: CPU seconds and seconds on the clock of each.

python benchmarks/bench_neighbours.py [CHECKOUT ...]        further checkouts, such as an older one, in the same run

Three widths, four seeds, 60 steps, no figures: the whole command, the best of ROUNDS, checkouts by turns. Threads that
spin while they wait take CPU time from their neighbours and get none themselves.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 3
NEIGHBOURS = 3
HERE = Path(__file__).parents[1]
SWEEP = ("sweep={grid: {network.width: [64, 128, 256]}, seeds: 4}", "training.steps=60", "--no-plots", "--quiet")
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**5))"  # ends with this process


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def sweep(checkout: Path) -> tuple[float, float]:
    """CPU seconds and seconds of the sweep with the ntkrun of a checkout."""
    command = [sys.executable, "-c", "from ntkrun.cli import main; main()", "sweep", "configs/width.yaml", *SWEEP]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as results:
        began = time.perf_counter()
        process = subprocess.Popen([*command, "--results", results], cwd=checkout, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{checkout}: the sweep ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, seconds


def main() -> None:
    checkouts = [HERE, *(Path(each).resolve() for each in sys.argv[1:])]
    print("| checkout | neighbours | CPU s | s | CPU s / quiet |")
    print("|---|---|---|---|---|")
    quiet: dict[Path, float] = {}
    for count in (0, NEIGHBOURS):
        found: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
        with neighbours(count):
            for _ in range(ROUNDS):
                for checkout in checkouts:
                    found[checkout].append(sweep(checkout))
        for number, checkout in enumerate(checkouts):
            cpu, seconds = (min(values) for values in zip(*found[checkout], strict=True))
            quiet.setdefault(checkout, cpu)
            name = "this" if number == 0 else checkout.name
            print(f"| {name} | {count} | {cpu:.1f} | {seconds:.1f} | {cpu / quiet[checkout]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
