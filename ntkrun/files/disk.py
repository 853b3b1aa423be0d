"""The operations by which ntkrun changes what is on disk.

Everything that a results directory holds is written through these functions, called as `disk.rename(...)`. A test can
therefore replace them in one place: let one fail, end the process at one, or record them all and rebuild what a power
failure would have left.
"""

import os
from collections.abc import Callable
from pathlib import Path

OPERATIONS = ("make", "write", "flush", "rename", "link", "remove", "remove_folder")


def make(folder: Path) -> None:
    """Create an empty folder; its parent must exist."""
    folder.mkdir(exist_ok=True)


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a new file by calling `save` with its path. It may be lost in a power failure until it is flushed."""
    save(path)


def flush(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Rename a file, in place of the one of that name, or a folder. Raises OSError where a folder is to replace a
    folder that is not empty."""
    old.replace(new)


def link(old: Path, new: Path) -> None:
    """Give a file a second name."""
    new.hardlink_to(old)


def remove(path: Path) -> None:
    """Remove a file or a link, if it is there."""
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove an empty folder."""
    path.rmdir()
