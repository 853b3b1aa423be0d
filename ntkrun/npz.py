"""Arrays in npz files from anywhere: plain arrays alone, nothing that would have to be unpickled, no bombs."""

import io
import struct
import warnings
import zipfile
import zlib

import numpy as np

from ntkrun.reading import Unreadable

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
