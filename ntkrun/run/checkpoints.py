"""Checkpoints of stacks in mid-run, so that a kill costs minutes: when they are written and which files are usable.

A file is used only if its checksum is right and it was made for the same runs, the same kind of device and the same
versions. Otherwise the stack starts over, and its next checkpoint replaces the file: a checkpoint saves time and is
never needed for a correct number.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import ntkrun
from ntkrun.engine.checkpoint import Checkpoint
from ntkrun.errors import UserError
from ntkrun.files import disk
from ntkrun.files.parquet import LARGEST_FILE
from ntkrun.files.reading import Unreadable, open_plain_file
from ntkrun.files.writing import inside, replace_file
from ntkrun.plan.runs import Run, Stack, stacks
from ntkrun.plan.stacks import fits, stacks_within

INTERVAL = 300.0  # seconds between checkpoints of a stack: the most that a kill costs. Shorter stacks write none
AT_ONCE = 2**29  # largest checkpoint in bytes that is still written after Ctrl-C: about three seconds
SHARE = 0.01  # largest share of a stack's time that checkpoints may take: slow checkpoints are written less often
FORMAT = 2  # raised when older files cannot be read
KEY = "ntkrun"  # key in the file's metadata
ENDING = ".safetensors"
# Errors that reading raises if something other than ntkrun wrote or changed the file.
UNREADABLE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class UnusableCheckpoint(Exception):
    """A checkpoint that cannot be used, with the reason as text."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a sweep's stacks on a device, in `folder`.

    `note` receives messages for the user. `stopping` returns True if the sweep is to end.
    """

    folder: Path
    device: torch.device
    note: Callable[[Stack, str], None] = lambda stack, text: None
    stopping: Callable[[], bool] = lambda: False

    def load(self, stack: Stack) -> Checkpoint | None:
        """Return the checkpoint of this stack, or None if there is none that can be used."""
        path = path_of(self.folder, stack)
        if not os.path.lexists(path):
            return None
        try:
            checkpoint = read(path, self._made_for(stack))
        except UnusableCheckpoint as error:
            self.note(stack, f"its checkpoint {error}; the stack starts over ({path})")
            return None
        self.note(stack, f"continues from step {checkpoint.step} of {stack.point.training.steps}")
        return checkpoint

    def keeper(self, stack: Stack) -> "Keeper":
        """Return the keeper for an attempt at this stack that starts now."""
        return Keeper(self, stack)

    def keep(self, stack: Stack, checkpoint: Checkpoint) -> None:
        """Write a checkpoint in place of the previous one. If the disk has no room, note it and continue without."""
        path, made_for = path_of(self.folder, stack), self._made_for(stack)
        try:
            replace_file(path, lambda temporary: write(temporary, checkpoint, made_for))
        except (OSError, SafetensorError) as error:
            self.note(stack, f"no checkpoint at step {checkpoint.step}: {path} cannot be written ({error})")

    def stacked(self, missing: Sequence[Run], budget: int) -> list[Stack]:
        """Return the missing runs as stacks that fit `budget` bytes.

        Stacks that have a checkpoint come first and stay as they were if they still fit. `stacks_within` groups the
        other runs.
        """
        remaining, resumed = {run.run_id: run for run in missing}, list[Stack]()
        for path in sorted(self.folder.glob(f"[!.]*{ENDING}")):
            ids = run_ids_in(path)
            checkpointed = stacks([remaining[run_id] for run_id in ids]) if remaining.keys() >= set(ids) else []
            if all(fits(stack, budget) for stack in checkpointed):
                resumed += checkpointed
                for run in (run for stack in checkpointed for run in stack.runs):
                    del remaining[run.run_id]
        return resumed + stacks_within(remaining.values(), budget, self.device)

    def remove_stale(self, finished: set[str]) -> None:
        """Remove the checkpoints that contain a run which has since finished in another stack."""
        for path in self.folder.glob("[!.]*"):
            if finished.intersection(run_ids_in(path)):
                disk.remove(path)

    def _made_for(self, stack: Stack) -> dict[str, Any]:
        """Return everything that must match for the numbers to be the same.

        A run's id already covers its config, its precision and the version of its identity.
        """
        versions = {"ntkrun": ntkrun.__version__, "torch": torch.__version__, "numpy": np.__version__}
        runs = [run.run_id for run in stack.runs]
        return {"format": FORMAT, "device": self.device.type, "versions": versions, "runs": runs}


def path_of(folder: Path, stack: Stack) -> Path:
    """Return the path of a stack's checkpoint. Its name depends on the runs and their order."""
    run_ids = " ".join(run.run_id for run in stack.runs)
    return folder / (hashlib.sha256(run_ids.encode()).hexdigest()[:16] + ENDING)


@dataclass
class Keeper:
    """Writes a stack's checkpoints at intervals. Implements engine.checkpoint.Keeper.

    If the sweep is to end, it writes a last checkpoint and raises KeyboardInterrupt.
    """

    checkpoints: Checkpoints
    stack: Stack

    def __post_init__(self) -> None:
        self.last, self.took = time.monotonic(), 0.0

    def due(self) -> bool:
        return self.checkpoints.stopping() or time.monotonic() - self.last >= max(INTERVAL, self.took / SHARE)

    def keep(self, checkpoint: Checkpoint) -> None:
        started, stopping = time.monotonic(), self.checkpoints.stopping()
        if not stopping or checkpoint.bytes <= AT_ONCE:
            self.checkpoints.keep(self.stack, checkpoint)
        if stopping:
            raise KeyboardInterrupt
        self.last = time.monotonic()
        self.took = self.last - started


def write(path: Path, checkpoint: Checkpoint, made_for: dict[str, Any]) -> None:
    """Write a safetensors file whose metadata hold `made_for`, the header and a checksum of everything."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    content = {"made_for": made_for, "header": checkpoint.header}
    text = json.dumps({**content, "sha256": _checksum(content, tensors)})
    save_file(tensors, path, {KEY: text})


def read(path: Path, made_for: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint in a file. Raises UnusableCheckpoint where it is damaged or was not made for `made_for`."""
    try:
        with _open(path) as file:
            content = _content(file)
            names = file.keys()
            tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in names}
        if content.pop("sha256") != _checksum(content, tensors):
            raise UnusableCheckpoint("is damaged")
        header, recorded = dict(content["header"]), dict(content["made_for"])
    except UNREADABLE as error:
        raise UnusableCheckpoint(f"cannot be read ({error})") from error
    if differing := [name for name in made_for if recorded.get(name) != made_for[name]]:
        raise UnusableCheckpoint(f"was made with other {' and '.join(differing)}")
    return Checkpoint(header, tensors)


def run_ids_in(path: Path) -> list[str]:
    """Return the ids of the runs in a checkpoint's stack, or an empty list if the file cannot be read."""
    try:
        with _open(path) as file:
            return list(dict.fromkeys(map(str, _content(file)["made_for"]["runs"])))
    except (UnusableCheckpoint, *UNREADABLE):
        return []


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a plain file that lies in this very folder with safetensors. Raises UnusableCheckpoint for anything else.

    The check comes first because safetensors itself follows a link and waits for a pipe. The tensors are read as NumPy
    arrays because safetensors' torch reader refuses a path that is not UTF-8.
    """
    try:
        with open_plain_file(inside(path.parent, path.name), LARGEST_FILE):
            pass
    except (Unreadable, UserError) as error:
        raise UnusableCheckpoint(f"cannot be read ({error})") from None
    with safe_open(path, framework="np") as file:
        yield file


def _content(file: Any) -> dict[str, Any]:
    return dict(json.loads(file.metadata()[KEY]))


def _checksum(content: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
