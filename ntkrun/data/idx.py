"""The data set `idx`: the file format of MNIST, gzipped or not."""

import gzip
import io
import math
import struct
import zlib
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ntkrun.data.base import Array
from ntkrun.data.labelled import Labelled
from ntkrun.data.tabular import content_hash, contents
from ntkrun.errors import FieldError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LARGEST = 2**32  # bytes of one array once unpacked


class Idx(Labelled):
    """Images and labels in two idx files, as MNIST and Fashion-MNIST are distributed."""

    statement: ClassVar[str] = "images and labels in the file format of MNIST, gzipped or not: images, labels (paths)"
    name: Literal["idx"]
    """Name of the data set, from `ntkrun list data`."""
    images: str = Field(min_length=1)
    """Path of the file with the images, gzipped or not."""
    labels: str = Field(min_length=1)
    """Path of the file with their labels, gzipped or not."""

    def identity(self) -> dict[str, Any]:
        """Return the values that identify the data, with hashes of the files' contents in place of their paths."""
        return super().identity() | {field: content_hash(field, getattr(self, field)) for field in ("images", "labels")}

    def examples(self) -> tuple[Array, Array]:
        images, labels = read_idx("images", self.images), read_idx("labels", self.labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise FieldError(
                "labels", f"{self.labels} holds an array of shape {labels.shape}; it must hold one integer per image"
            )
        if images.ndim < 2 or len(images) != len(labels):
            raise FieldError("images", f"{self.images} has shape {images.shape}, but there are {len(labels)} labels")
        images = images.reshape(len(images), -1)
        if not np.isfinite(images).all():
            image = np.argwhere(~np.isfinite(images))[0][0]
            raise FieldError("images", f"{self.images}, image {image} holds a number that is not finite")
        return images, labels.astype(int)


def read_idx(field: str, path: str) -> Array:
    """Read the array in an idx file: two zero bytes, type, number of dimensions, the sizes (big-endian), the values.
    Raises FieldError where it is not such a file."""
    raw = _decompressed(field, path, contents(field, path))
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise FieldError(field, f"{path} is not an idx file (it does not begin with two zero bytes and a known type)")
    kind, rank = np.dtype(_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", raw[4:start]) if len(raw) >= start else ()
    size = start + math.prod(shape) * kind.itemsize
    if len(raw) != size or not rank:
        raise FieldError(field, f"{path} is damaged: it has {len(raw)} bytes, but its header says {size}")
    return np.frombuffer(raw, kind, offset=start).reshape(shape)


def _decompressed(field: str, path: str, raw: bytes) -> bytes:
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            unpacked = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FieldError(field, f"{path} is a damaged gzip file ({error})") from None
    if len(unpacked) > LARGEST:
        raise FieldError(field, f"{path} unpacks to more than {LARGEST} bytes")
    return unpacked
