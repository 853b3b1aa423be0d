"""CPU seconds of whole commands, from their start to their end: what a user waits for beside the training itself.

Each command runs in processes of its own, the checkouts taking turns, and the best of ROUNDS counts, user and system
time together. The sweep has 3 widths, 4 seeds and 60 steps. `status`, `claims`, `plot` and `report` read what the
first checkout's sweep left, a copy for each.

    python benchmarks/bench_door.py [CHECKOUT ...]        other checkouts beside this one, with this Python
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 3
HERE = Path(__file__).resolve().parents[1]
CONFIG = """
name: small
network: {depth: 3, activation: relu, beta: 0.1}
data: {name: digits, samples: 16, test_samples: 16, targets: signed}
training: {steps: 60, step_size: {relative: 1.0}}
probes: {kernels: [first, last]}
sweep: {grid: {network.width: [32, 64, 128]}, seeds: 4}
claims: [frozen-kernel, lazy-weights, deterministic-kernel, linear-dynamics, exponential-convergence, global-minimum]
"""
COMMANDS = {
    "list losses": ("list", "losses"),
    "validate width.yaml": ("validate", "{checkout}/configs/width.yaml"),
    "status": ("status", "{results}/small"),
    "claims": ("claims", "{results}/small"),
    "plot": ("plot", "{results}/small"),
    "report": ("report", "{results}/small"),
    "sweep": ("sweep", "{config}", "--results", "{fresh}", "-q"),
}
FINE = (0, 5)  # so few widths leave verdicts open


def seconds(checkout: Path, arguments: Sequence[str]) -> float:
    """CPU seconds of a command of a checkout. Raises RuntimeError where it fails."""
    code = "import sys; from ntkrun.cli import main; sys.argv[0] = 'ntkrun'; main()"  # -P: not of this folder
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-P", "-c", code, *arguments]
    _, status, used = os.wait4(os.posix_spawn(command[0], command, environment, file_actions=silent), 0)
    if os.waitstatus_to_exitcode(status) not in FINE:
        raise RuntimeError(f"{checkout}: ntkrun {' '.join(arguments)}: {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def measured(checkouts: Sequence[Path], folder: Path) -> dict[str, list[float]]:
    """The best time of each command in each checkout."""
    config = folder / "small.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    first = folder / "0"
    seconds(checkouts[0], ("sweep", str(config), "--results", str(first), "-q"))
    for k in range(1, len(checkouts)):
        shutil.copytree(first, folder / str(k))
    best = {name: [float("inf")] * len(checkouts) for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            for k, checkout in enumerate(checkouts):
                fresh = folder / "fresh"
                places = {"checkout": checkout, "results": folder / str(k), "config": config, "fresh": fresh}
                taken = seconds(checkout, [argument.format(**places) for argument in arguments])
                best[name][k] = min(best[name][k], taken)
                shutil.rmtree(fresh, ignore_errors=True)
    return best


def main() -> None:
    checkouts = [HERE, *(Path(name).resolve() for name in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        best = measured(checkouts, Path(folder))
    others = "".join(f" | {path.name}, s | this / {path.name}" for path in checkouts[1:])
    print(f"\nCPU seconds of a command, best of {ROUNDS}\n")
    print(f"| command | this, s{others} |\n|---|---{'|---|---' * (len(checkouts) - 1)}|")
    for name, (ours, *theirs) in best.items():
        print(f"| {name} | {ours:.2f}" + "".join(f" | {other:.2f} | {ours / other:.2f}" for other in theirs) + " |")


if __name__ == "__main__":
    main()
