"""Atomic writing: a file appears complete or not at all. It is written under a temporary name in its folder, flushed
and renamed, and then the folder is flushed."""

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from ntkrun.errors import UserError
from ntkrun.files import disk


def inside(root: Path, *parts: str) -> Path:
    """Return a path within `root`. Raises UserError where links on the way lead out of it."""
    path = root.joinpath(*parts)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError(f"{path}: a link out of {root}; put the file itself in its place, or remove the link")
    return path


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file of plain arrays, atomically. Raises UserError where it cannot be written."""
    if path.suffix != ".npz":
        raise UserError(f"{path}: the file must end in .npz")
    write_file(path, lambda temporary: save_arrays(temporary, arrays))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write plain arrays as npz, whatever the suffix of the path."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically. Bytes of file names that are not UTF-8 are written as `\\udcff`. Raises
    UserError where the file cannot be written."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_bytes(path: Path, raw: bytes) -> None:
    """Write a file, atomically. Raises UserError where it cannot be written."""
    write_file(path, lambda temporary: temporary.write_bytes(raw))


def write_file(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file atomically by calling `save` with a temporary path of the same suffix. Raises UserError where it
    cannot be written."""
    with errors_as_sentence(path, comfort=""):
        replace_file(path, save)


def write_folder(path: Path, save: Callable[[Path], object]) -> None:
    """Write a folder atomically by calling `save` with an empty temporary folder to fill. Raises UserError where `path`
    exists and is not an empty folder, or where it cannot be written."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; remove it, or name another folder")
    with errors_as_sentence(path, comfort=""), temporary_folder(path.parent) as temporary:
        disk.write(temporary, save)
        flush_tree(temporary)
        disk.rename(temporary, path)
        disk.flush(path.parent)


@contextmanager
def errors_as_sentence(where: Path, comfort: str = "; finished runs are kept") -> Iterator[None]:
    """Raise an OSError, such as a full disk or a missing permission, as a UserError with one sentence."""
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename or where))
        shown = where if path.name.startswith(TEMPORARY) else path
        raise UserError(f"{shown}: cannot be written ({error.strerror or error}){comfort}") from error


def replace_file(path: Path, write: Callable[[Path], object], lasting: bool = True) -> None:
    """Write a file atomically: write it under a temporary name, flush it, rename it to `path`, flush the folder. A file
    that need not survive a power failure is not flushed."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        disk.write(temporary, write)
        if lasting:
            disk.flush(temporary)
        disk.rename(temporary, path)
    except BaseException:
        disk.remove(temporary)
        raise
    if lasting:
        disk.flush(path.parent)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder to be filled and renamed within `parent`. It is removed if the caller does not rename
    it."""
    make_folder(parent)
    folder = temporary_name(parent / "folder")
    disk.make(folder)
    try:
        yield folder
    finally:
        if folder.exists():
            remove_tree(folder)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, and flush the parent of each."""
    if not path.is_dir():
        make_folder(path.parent)
        disk.make(path)
        disk.flush(path.parent)


def flush_tree(folder: Path) -> None:
    """Flush every file in a folder and its subfolders, then their names."""
    for path in folder.iterdir():
        flush_tree(path) if path.is_dir() else disk.flush(path)
    disk.flush(folder)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, if it is there. Links are not followed."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            remove_tree(inner)
        disk.remove_folder(path)
    else:
        disk.remove(path)


# ---------------------------------------------------------------- temporary names


TEMPORARY = ".tmp-"  # prefix of temporary names, followed by the writer's machine and process
_NAME = re.compile(rf"{re.escape(TEMPORARY)}([0-9a-f]{{12}})-([0-9]{{1,9}})-.*")


def temporary_name(path: Path) -> Path:
    """Return an unused name in the same folder, with the same suffix. It names the writer: this process."""
    return path.with_name(f"{TEMPORARY}{_this_machine()}-{os.getpid()}-{uuid.uuid4().hex}{path.suffix}")


def remove_strays(folders: Iterable[Path]) -> None:
    """Remove the temporary files and folders whose writers are dead for certain."""
    for folder in folders:
        for stray in folder.glob(f"{TEMPORARY}*"):
            if writer_is_dead(stray):
                with suppress(FileNotFoundError):  # another process removes it too
                    remove_tree(stray)


def writer_is_dead(temporary: Path) -> bool:
    """Return True if the writer of a temporary file has ended for certain: it was a process of this machine since its
    last start, in this container, and no process has its number. A number that was given to another process makes a
    dead writer look alive, never the reverse."""
    match = _NAME.fullmatch(temporary.name)
    return match is not None and match[1] == _this_machine() and not _process_exists(int(match[2]))


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's process; no process at all, but then not ours either
        return True
    return True


@lru_cache(maxsize=1)
def _this_machine() -> str:
    """Return 12 hexadecimal digits for the machine since its last start and the space of its process numbers."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    known = [socket.gethostname(), boot.read_text(encoding="ascii").strip() if boot.exists() else ""]
    known.append(str(namespace.readlink()) if namespace.is_symlink() else "")  # a container numbers its own processes
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]
