"""Runs the benchmarks, each on one thread and on all cores; prints what they print and writes it to results.md.

python benchmarks/run.py [step kernel ...]        TIMES by default
NTKRUN_BENCH_DEVICE=cuda python benchmarks/run.py        those of ON_CUDA, on a GPU; into results-cuda.md

bench_check.py and bench_coverage.py measure error rates of the statistics, a quarter of an hour each; they run by name.
"""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from common import DEVICE, where

HERE = Path(__file__).parent
TIMES = ("kernel", "limit", "step", "sweep", "door")
ON_CUDA = ("kernel", "step", "sweep", "peak")


def machine() -> str:
    """The processor's name where Linux tells, and the cores that there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit that was measured, and whether anything was changed since."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=HERE,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return told.stdout.strip() or "unknown"


def printed(script: Path, threads: int) -> str:
    """What a benchmark prints, shown as it comes. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-u", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"}
    lines = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return "".join(lines).strip()


def main() -> None:
    on_cuda = DEVICE.type == "cuda"
    names = sys.argv[1:] or (ON_CUDA if on_cuda else TIMES)
    cores = os.cpu_count() or 1
    gpu = f"{where()}. " if on_cuda else ""
    parts = [
        "# Benchmarks\n",
        f"{gpu}{machine()}. Python {platform.python_version()}, torch {torch.__version__}. "
        f"{datetime.date.today():%Y-%m-%d}, commit {commit()}.\n",
    ]
    for name in names:
        for threads in (cores,) if on_cuda else dict.fromkeys((1, cores)):
            print(f"\n== bench_{name}.py, {threads} thread(s)", flush=True)
            parts.append(f"## bench_{name}.py, {threads} thread{'s' * (threads > 1)}\n")
            parts.append(printed(HERE / f"bench_{name}.py", threads) + "\n")
    (HERE / ("results-cuda.md" if on_cuda else "results.md")).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
