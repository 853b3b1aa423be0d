"""Atomic writing: a file appears complete or not at all. It is written under a temporary name in its folder, flushed
and renamed, and then the folder is flushed."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ntkrun.errors import UserError

TEMPORARY = ".tmp-"  # prefix of temporary names


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

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_file(path, save)


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
    """Raise an OSError, such as a full disk or a missing permission, as a UserError with one sentence."""
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename or where))
        shown = where if path.name.startswith(TEMPORARY) else path
        raise UserError(f"{shown}: cannot be written ({error.strerror or error}){comfort}") from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: write it under a temporary name, flush it, rename it to `path`, flush the folder."""
    with temporary_file(path, write) as temporary:
        temporary.replace(path)
    flush(path.parent)


@contextmanager
def temporary_file(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a flushed temporary file with the suffix of `path`, ready to be renamed to `path`. It is removed if the
    caller does not rename it."""
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
    """Yield an empty folder to be filled and renamed within `parent`. It is removed if the caller does not rename
    it."""
    make_folder(parent)
    folder = temporary_name(parent / "folder")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """Return an unused name in the same folder, with the same suffix."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}{path.suffix}")


def remove_strays(folders: Iterable[Path], before: float) -> None:
    """Remove temporary files and folders that killed processes have left. Only those not modified since `before` are
    removed, because other processes may be writing at this moment."""
    for folder in folders:
        for stray in folder.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):  # another process has just renamed it
                is_folder = stray.is_dir() and not stray.is_symlink()
                parts = [stray, *stray.iterdir()] if is_folder else [stray]
                if max(part.lstat().st_mtime for part in parts) < before:
                    shutil.rmtree(stray) if is_folder else stray.unlink()


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, and flush the parent of each."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def flush(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
