"""Files that appear whole or not at all: written beside, flushed, renamed over, their folder flushed."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ntkrun.errors import UserError

TEMPORARY = ".tmp-"  # begins the name of what is being written


def inside(root: Path, *parts: str) -> Path:
    """A path within `root`. Raises UserError where links on the way lead out of it."""
    path = root.joinpath(*parts)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError(f"{path}: a link out of {root}; put the file itself in its place, or remove the link")
    return path


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file of plain arrays, whole or not at all. Raises UserError where it cannot be written."""
    if path.suffix != ".npz":
        raise UserError(f"{path}: the file must end in .npz")

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_file(path, save)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all. Raises UserError where it cannot be written."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_file(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file by `save`, which is given a path of the same ending, whole or not at all. Raises UserError where it
    cannot be written."""
    with sentence_for(path, comfort=""):
        replace_file(path, save)


@contextmanager
def sentence_for(where: Path, comfort: str = "; finished runs are kept") -> Iterator[None]:
    """A full disk, a missing permission: one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or where}: cannot be written ({error.strerror or error}){comfort}") from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all: write beside, flush, rename over, flush the folder. The temporary name keeps the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}{path.suffix}"
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
