"""Stacks in mid-run on disk, so that a kill costs minutes: what is due when, and which file may be trusted.

A file is used if its checksum holds, and it is of the very runs, of the same kind of device and of the same versions.
Any other is set aside and the stack starts anew: a checkpoint saves time, and is never needed for a right number.
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
from ntkrun.files.parquet import LARGEST_FILE
from ntkrun.files.reading import Unreadable, open_plain_file
from ntkrun.files.writing import inside, replace_file
from ntkrun.plan.runs import Run, Stack, stacks
from ntkrun.plan.stacks import fits, stacks_within
from ntkrun.store.stack_folders import stack_name

INTERVAL = 300.0  # seconds between checkpoints of a stack: what a kill costs at most. Shorter stacks write none
AT_ONCE = 2**29  # bytes that are written while someone waits who has pressed Ctrl-C: about three seconds
SHARE = 0.01  # of a stack's time that checkpoints take at most: where one takes long they come less often
FORMAT = 1  # raised when older files cannot be read
KEY = "ntkrun"  # of the file's metadata
ENDING, UNUSABLE = ".safetensors", ".unusable"  # of what is kept, and of a file that was set aside
# What a file raises that another hand wrote, or wrote into.
UNREADABLE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class UnusableCheckpoint(Exception):
    """A checkpoint that cannot be used; the text says why."""


@dataclass(frozen=True)
class Checkpoints:
    """Those of a sweep's stacks on a device, in `folder`. `note` is told what becomes of them; `stopping` says whether
    the sweep is to end."""

    folder: Path
    device: torch.device
    note: Callable[[Stack, str], None] = lambda stack, text: None
    stopping: Callable[[], bool] = lambda: False

    def load(self, stack: Stack) -> Checkpoint | None:
        """The one of this stack, if there is one that fits; one that does not is set aside."""
        path = self._path(stack)
        if not os.path.lexists(path):
            return None
        try:
            checkpoint = read(path, self._made_for(stack))
        except UnusableCheckpoint as error:
            aside = path.replace(path.with_suffix(UNUSABLE))
            self.note(stack, f"its checkpoint {error}; it starts anew, and the file is set aside as {aside}")
            return None
        self.note(stack, f"goes on from step {checkpoint.step} of {stack.point.training.steps}")
        return checkpoint

    def keeper(self, stack: Stack) -> "Keeper":
        """For an attempt at this stack that begins now."""
        return Keeper(self, stack)

    def keep(self, stack: Stack, checkpoint: Checkpoint) -> None:
        """In place of the last one. Where the disk has no room for it the stack goes on without."""
        path, made_for = self._path(stack), self._made_for(stack)
        try:
            replace_file(path, lambda temporary: write(temporary, checkpoint, made_for))
        except (OSError, SafetensorError) as error:
            self.note(stack, f"no checkpoint at step {checkpoint.step}: {path} cannot be written ({error})")

    def stacked(self, missing: Sequence[Run], budget: int) -> list[Stack]:
        """Missing runs as stacks: those under way, cut as they were, if `budget` bytes still hold them; then the others
        as stacks_within does."""
        left, begun = {run.run_id: run for run in missing}, list[Stack]()
        for path in sorted(self.folder.glob(f"[!.]*{ENDING}")):
            ids = run_ids_in(path)
            kept = stacks([left[run_id] for run_id in ids]) if left.keys() >= set(ids) else []
            if all(fits(stack, budget) for stack in kept):
                begun += kept
                for run in (run for stack in kept for run in stack.runs):
                    del left[run.run_id]
        return begun + stacks_within(left.values(), budget, self.device)

    def remove(self, stack: Stack) -> None:
        """Whatever there is of this stack: its outcome is on record."""
        for path in (self._path(stack), self._path(stack).with_suffix(UNUSABLE)):
            if path.is_symlink() or not path.is_dir():  # a folder is nothing of ours
                path.unlink(missing_ok=True)

    def remove_stale(self, finished: set[str]) -> None:
        """Those of which a run has finished since, in another stack."""
        for path in self.folder.glob("[!.]*"):
            if finished.intersection(run_ids_in(path)):
                path.unlink(missing_ok=True)

    def _path(self, stack: Stack) -> Path:
        return self.folder / (stack_name([run.run_id for run in stack.runs]) + ENDING)

    def _made_for(self, stack: Stack) -> dict[str, Any]:
        """All that must be the same for the numbers to be the same; what a run is, its precision and the version of its
        identity are in its id."""
        versions = {"ntkrun": ntkrun.__version__, "torch": torch.__version__, "numpy": np.__version__}
        runs = [run.run_id for run in stack.runs]
        return {"format": FORMAT, "device": self.device.type, "versions": versions, "runs": runs}


@dataclass
class Keeper:
    """Keeps a stack's checkpoints as time goes by, and a last one where the sweep is to end, which it then does by
    KeyboardInterrupt. Implements engine.checkpoint.Keeper."""

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
    """A safetensors file; its metadata say what it was made for, and hold the header and a checksum of all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    content = {"made_for": made_for, "header": checkpoint.header}
    text = json.dumps({**content, "sha256": _checksum(content, tensors)})
    save_file(tensors, path, {KEY: text})


def read(path: Path, made_for: dict[str, Any]) -> Checkpoint:
    """The checkpoint in a file that was made for just this. Raises Unfit."""
    try:
        with _opened(path) as file:
            content = _content(file)
            names = file.keys()
            tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in names}
        if content.pop("sha256") != _checksum(content, tensors):
            raise UnusableCheckpoint("is damaged")
        header, found = dict(content["header"]), dict(content["made_for"])
    except UNREADABLE as error:
        raise UnusableCheckpoint(f"cannot be read ({error})") from error
    if differing := [name for name in made_for if found.get(name) != made_for[name]]:
        raise UnusableCheckpoint(f"was made with other {' and '.join(differing)}")
    return Checkpoint(header, tensors)


def run_ids_in(path: Path) -> list[str]:
    """The ids of the runs in a checkpoint's stack; none where the file does not say."""
    try:
        with _opened(path) as file:
            return list(dict.fromkeys(map(str, _content(file)["made_for"]["runs"])))
    except (UnusableCheckpoint, *UNREADABLE):
        return []


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A plain file that lies in its very folder, opened by safetensors, which itself would follow a link and wait for a
    pipe. As arrays of NumPy: as tensors of torch it refuses a path that is no UTF-8. Raises Unfit."""
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
