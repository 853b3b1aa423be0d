"""Files that appear whole or not at all: written beside, flushed, renamed over, their folder flushed."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
    """Write a text file in UTF-8, whole or not at all; bytes of file names that are no UTF-8 as `\\udcff`. Raises
    UserError where it cannot be written."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_bytes(path: Path, raw: bytes) -> None:
    """Write a file, whole or not at all. Raises UserError where it cannot be written."""
    write_file(path, lambda temporary: temporary.write_bytes(raw))


def write_file(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file by `save`, which is given a path of the same ending, whole or not at all. Raises UserError where it
    cannot be written."""
    with errors_as_sentence(path, comfort=""):
        replace_file(path, save)


def write_folder(path: Path, save: Callable[[Path], object]) -> None:
    """Make a folder by `save`, which is given an empty one to fill, whole or not at all. Raises UserError where there
    is one that is not empty, or where it cannot be written."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: is there already; remove it, or name another folder")
    with errors_as_sentence(path, comfort=""):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            save(temporary)
            for file in temporary.rglob("*"):
                flush(file)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        flush(path.parent)


@contextmanager
def errors_as_sentence(where: Path, comfort: str = "; finished runs are kept") -> Iterator[None]:
    """A full disk, a missing permission: one sentence."""
    try:
        yield
    except OSError as error:
        named = Path(str(error.filename or where))
        place = where if named.name.startswith(TEMPORARY) else named
        raise UserError(f"{place}: cannot be written ({error.strerror or error}){comfort}") from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all: write beside, flush, rename over, flush the folder."""
    with temporary_file(path, write) as temporary:
        temporary.replace(path)
    flush(path.parent)


@contextmanager
def temporary_file(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """A flushed file that is ready to be renamed to `path`, whose ending it keeps; if it is not, it is removed."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        write(temporary)
        flush(temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """An empty folder to be filled and renamed within `parent`; if it is not, it is removed."""
    make_folder(parent)
    folder = temporary_name(parent / "folder")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """A name beside, which nobody has, with the same ending."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}{path.suffix}")


def remove_strays(folders: Iterable[Path], before: float) -> None:
    """Remove what killed processes left under temporary names: what nobody has touched since `before`; others may be
    writing at this moment."""
    for folder in folders:
        for stray in folder.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):  # it was alive, and has just got its name
                is_folder = stray.is_dir() and not stray.is_symlink()
                parts = [stray, *stray.iterdir()] if is_folder else [stray]
                if max(part.lstat().st_mtime for part in parts) < before:
                    shutil.rmtree(stray) if is_folder else stray.unlink()


def make_folder(path: Path) -> None:
    """A folder and those above it, each flushed into the one that it is in."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def flush(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
