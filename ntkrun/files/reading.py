"""Files from anywhere, read with a limit: no pipe to wait for, no more bytes than their kind can have."""

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
    """Why a file cannot be read, in words that go into a sentence."""


@contextmanager
def open_plain_file(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """A plain file of at most so many bytes, to be read. Raises Unreadable."""
    try:
        descriptor = os.open(_encoded(path), os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would be waited for
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    except ValueError:
        raise Unreadable("no file can have this name") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("not a plain file")
        if found.st_size > most:
            raise Unreadable(f"{found.st_size} bytes; at most {most}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _encoded(path: str | Path) -> bytes:
    """The name of a file; in UTF-8, as the config that names it, where the locale lacks a letter of it."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return str(path).encode("utf-8", "surrogateescape")


def read_bytes(path: str | Path, most: int) -> bytes:
    """The bytes of a plain file, at most so many. Raises Unreadable."""
    with open_plain_file(path, most) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)
        except (OSError, MemoryError) as error:
            raise Unreadable(getattr(error, "strerror", None) or "it does not fit into memory") from None


def holds(path: str | Path, raw: bytes) -> bool:
    """Whether just these bytes stand in a plain file."""
    try:
        return read_bytes(path, len(raw)) == raw
    except Unreadable:
        return False


def read_text(path: str | Path, most: int) -> str:
    """The text of a plain file in UTF-8. Raises Unreadable."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not a text file in UTF-8, {error.reason} at byte {error.start}") from None


def read_json(path: str | Path, most: int) -> Any:
    """What a JSON file says. Raises Unreadable."""
    try:
        return json.loads(read_text(path, most))
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None


# ---------------------------------------------------------------- npz


_TORN = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, struct.error)
_REFUSED = (NotImplementedError, RuntimeError, OverflowError, MemoryError)  # strange packing, a password, absurd sizes


def read_npz(raw: bytes, most: int) -> dict[str, np.ndarray]:
    """The arrays by name; unpacked, at most so many bytes. Raises Unreadable."""
    if raw.startswith(b"\x93NUMPY"):
        raise Unreadable("a single array without a name; save it with numpy.savez")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > most:
            raise Unreadable(f"unpacks to {size} bytes; at most {most}")
        with warnings.catch_warnings(), np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            warnings.simplefilter("ignore")  # NumPy's, about files of Python 2
            return {name: _array(arrays, name) for name in arrays.files}
    except (*_TORN, *_REFUSED) as error:
        raise Unreadable(f"not an npz of plain arrays: {error}") from None


def _array(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    found = arrays[name]
    if not isinstance(found, np.ndarray):  # NumPy hands back the bytes of an entry that is no array
        raise Unreadable(f"not an npz of plain arrays: {name!r} is none")
    return found
