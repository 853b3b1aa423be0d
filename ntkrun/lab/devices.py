"""Devices by the names that the command line gives them."""

import torch

from ntkrun.errors import UserError


def resolve_device(name: str) -> torch.device:
    """`auto` takes CUDA when there is one. float32 matrix products keep full precision (no tf32) on every device."""
    torch.set_float32_matmul_precision("highest")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:K")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: no such CUDA device here; choose auto or cpu")
    return torch.device(name)
