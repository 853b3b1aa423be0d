"""The installed command in a process of its own, and a config that it runs in a second."""

import os
import subprocess
import sys
from pathlib import Path

NTKRUN = str(Path(sys.executable).with_name("ntkrun"))
CONFIG = """\
name: tiny
network: {depth: 2, activation: erf}
data: {name: circle, samples: 4, test_samples: 4, targets: product}
training: {steps: 5}
sweep: {grid: {network.width: [32, 64]}, seeds: 2}
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def ntkrun_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NTKRUN, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
