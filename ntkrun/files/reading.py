"""Reading of untrusted files: plain files only, so that no pipe blocks, with a limit on their size."""

import io
import json
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class Unreadable(Exception):
    """A file that cannot be read. The message is the reason, worded to fit into a longer sentence."""


@contextmanager
def open_plain_file(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """Open a plain file of at most `most` bytes for reading. Raises Unreadable."""
    try:
        descriptor = os.open(_encoded(path), os.O_RDONLY | os.O_NONBLOCK)  # else a pipe without a writer would block
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    except ValueError:
        raise Unreadable("not a valid file name") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a plain file")
        if status.st_size > most:
            raise Unreadable(f"{status.st_size} bytes; at most {most}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _encoded(path: str | Path) -> bytes:
    """Return the bytes of a file name. Characters that the locale lacks are encoded in UTF-8, as in a config."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return str(path).encode("utf-8", "surrogateescape")


def read_bytes(path: str | Path, most: int) -> bytes:
    """Read a plain file of at most `most` bytes. Raises Unreadable."""
    with open_plain_file(path, most) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)
        except (OSError, MemoryError) as error:
            raise Unreadable(getattr(error, "strerror", None) or "it does not fit into memory") from None


def holds(path: str | Path, raw: bytes) -> bool:
    """Return whether a plain file holds exactly these bytes."""
    try:
        return read_bytes(path, len(raw)) == raw
    except Unreadable:
        return False


def read_text(path: str | Path, most: int) -> str:
    """Read the text of a plain UTF-8 file of at most `most` bytes. Raises Unreadable."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not a text file in UTF-8, {error.reason} at byte {error.start}") from None


def read_json(path: str | Path, most: int) -> Any:
    """Read a JSON file of at most `most` bytes. Raises Unreadable."""
    try:
        return json.loads(read_text(path, most))
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None


# ---------------------------------------------------------------- npz


_DAMAGED = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, struct.error)
# Unsupported compression, a password, impossible sizes.
_UNSUPPORTED = (NotImplementedError, RuntimeError, OverflowError, MemoryError)


def read_npz(raw: bytes, most: int) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file by name, at most `most` bytes once unpacked. Raises Unreadable."""
    if raw.startswith(b"\x93NUMPY"):
        raise Unreadable("a single array without a name; save it with numpy.savez")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > most:
            raise Unreadable(f"unpacks to {size} bytes; at most {most}")
        with warnings.catch_warnings(), np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            warnings.simplefilter("ignore")  # NumPy warns about files written by Python 2
            return {name: _array(arrays, name) for name in arrays.files}
    except (*_DAMAGED, *_UNSUPPORTED) as error:
        raise Unreadable(f"not an npz of plain arrays: {error}") from None


def _array(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # NumPy returns the raw bytes of an entry that is not an array
        raise Unreadable(f"not an npz of plain arrays: {name!r} is not an array")
    return array
