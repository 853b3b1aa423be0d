"""Devices by their names on the command line, and their free memory."""

import os
from pathlib import Path

import torch

from ntkrun.errors import TooLarge, UserError


def resolve_device(name: str) -> torch.device:
    """Return the device of this name. `auto` is CUDA if available, else the CPU.

    Also sets float32 matrix products to full precision (no tf32) on every device. Raises UserError for an unknown name.
    """
    torch.set_float32_matmul_precision("highest")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:K")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has no such CUDA device; choose auto or cpu")
    return torch.device(name)


# ---------------------------------------------------------------- memory


GIB = 2**30
SHARE = 0.5  # of the free memory: the default limit for a kernel's temporaries


def budget(memory: float | None, result: int, device: torch.device) -> int:
    """Return the bytes for temporaries: `memory` GiB, or SHARE of the memory that `result` bytes leave free.

    Raises UserError where the result alone exceeds the free memory, or `memory` is not positive.
    """
    if memory is not None and not memory > 0:
        raise UserError(f"memory {memory}: give the GiB that temporaries may take, more than 0")
    free = free_bytes(device)
    if result > free:
        raise UserError(
            f"the kernel itself takes {result / GIB:.3g} GiB and {free / GIB:.3g} GiB are free; choose "
            "outputs='diagonal' or 'trace', or fewer inputs at a time"
        )
    return int(memory * GIB) if memory is not None else int(SHARE * (free - result))


def check_free(needed: int, device: torch.device, field: str, what: str, todo: str) -> None:
    """Check that `what` fits into the free memory of the device. Raises TooLarge for the config `field` otherwise."""
    free = free_bytes(device)
    if needed > free:
        where = "" if device.type == "cpu" else f" on {device.type}"
        raise TooLarge(field, f"{what} take {needed / GIB:.3g} GiB and {free / GIB:.3g} GiB are free{where}; {todo}")


def free_bytes(device: torch.device) -> int:
    """Return the bytes that could be allocated on the device now."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min(_machine(), _container())


def _machine() -> int:
    """Return the memory that Linux reports as available; half of all memory where it is not reported (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fields = dict(line.split(":", 1) for line in lines)
    return 1024 * int(fields["MemAvailable"].split()[0])


def _container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory left under a Linux container's limit. File caches can be freed and do not count as used."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
    except (FileNotFoundError, PermissionError):
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
