"""Parquet files from anywhere: columns of numbers, truth values and text. What other tools noted beside them (pandas'
types and indices, Arrow's extensions) is not looked at."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ntkrun.files.reading import Unreadable, open_plain_file

LARGEST_FILE = 2**36  # bytes
LARGEST_TABLE = 2**31  # values: a small file may say that one value stands there a billion times
_TORN = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


def read_parquet(path: str | Path, columns: Collection[str] | None = None, most: int = LARGEST_FILE) -> pa.Table:
    """The table in a file of at most so many bytes, or some of its columns; columns of other kinds are left out. Raises
    Unreadable."""
    return read_with_metadata(path, columns, most)[0]


def read_with_metadata(
    path: str | Path, columns: Collection[str] | None = None, most: int = LARGEST_FILE
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """The same, and what is noted in the file's schema."""
    with open_plain_file(path, most) as file:
        try:
            packed = pq.ParquetFile(file)
            fields = [field for field in packed.schema_arrow if columns is None or field.name in columns]
            names = [field.name for field in fields if _plain(field.type)]
            values = packed.metadata.num_rows * len(names)
            if values > LARGEST_TABLE or len(set(names)) < len(names):
                raise Unreadable("two columns of one name" if values <= LARGEST_TABLE else f"{values} values")
            table = packed.read(names)
            table.validate(full=True)  # text that is no text, offsets that point nowhere
        except _TORN as error:
            raise Unreadable(_said(error)) from None
        return table.replace_schema_metadata(None), dict(packed.schema_arrow.metadata or {})


def _plain(kind: Any) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(text or number or pa.types.is_null(kind))


def _said(error: BaseException) -> str:
    return (str(error) or "it does not fit into memory").splitlines()[0]
