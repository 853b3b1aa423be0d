"""The provenance of a run: versions, commit, hardware. It is reported with the numbers and never part of a run's id."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("ntkrun", "torch", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn")


def provenance(device: torch.device) -> dict[str, Any]:
    """Return the versions, the commit and dirty flag of the code, the machine, and how much of it is used."""
    commit, dirty = commit_of_code()
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "commit": commit,
        "dirty": dirty,
        "system": f"{platform.system()} {platform.machine()}",  # may affect the numbers; does not name a host
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def commit_of_code() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that ntkrun runs from, and True if it has changes outside results/, where
    ntkrun writes itself. Return None, None if it is not a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()

    try:
        # An installed copy may lie inside another project's checkout, so check that git knows this file.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ":(top)", ":(top,exclude)results"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
