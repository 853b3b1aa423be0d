"""Parquet files from untrusted sources: columns of numbers, booleans and text. Metadata that other tools add (pandas'
types and indices, Arrow's extensions) is ignored."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ntkrun.files.reading import Unreadable, open_plain_file

LARGEST_FILE = 2**36  # bytes
LARGEST_TABLE = 2**31  # values: a small file can hold one value repeated a billion times
_DAMAGED = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


def read_parquet(path: str | Path, columns: Collection[str] | None = None, most: int = LARGEST_FILE) -> pa.Table:
    """Read the table, or some of its columns, from a file of at most `most` bytes. Columns of other types are skipped.
    Raises Unreadable."""
    return read_with_metadata(path, columns, most)[0]


def read_with_metadata(
    path: str | Path, columns: Collection[str] | None = None, most: int = LARGEST_FILE
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Read the table as `read_parquet` does, together with the metadata of the file's schema."""
    with open_plain_file(path, most) as file:
        try:
            parquet = pq.ParquetFile(file)
            fields = [field for field in parquet.schema_arrow if columns is None or field.name in columns]
            names = [field.name for field in fields if _supported(field.type)]
            values = parquet.metadata.num_rows * len(names)
            if values > LARGEST_TABLE or len(set(names)) < len(names):
                raise Unreadable(
                    "two columns have the same name"
                    if values <= LARGEST_TABLE
                    else f"{values} values; at most {LARGEST_TABLE}"
                )
            table = parquet.read(names)
            table.validate(full=True)  # detects invalid text and invalid offsets
        except _DAMAGED as error:
            raise Unreadable(_reason(error)) from None
        return table.replace_schema_metadata(None), dict(parquet.schema_arrow.metadata or {})


def save_parquet(frame: pd.DataFrame, path: Path, metadata: dict[bytes, bytes] | None = None) -> None:
    """Write a table, compressed, with these entries in the metadata of its schema."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with path.open("wb") as file:  # not a path: pyarrow reads a path as an address and refuses one that is not UTF-8
        pq.write_table(table, file, compression="zstd")


def _supported(kind: Any) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(text or number or pa.types.is_null(kind))


def _reason(error: BaseException) -> str:
    return (str(error) or "it does not fit into memory").splitlines()[0]
