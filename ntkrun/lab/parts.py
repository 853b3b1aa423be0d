"""A stack's folder in a store: its part of each table, as parquet."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ntkrun.errors import UserError
from ntkrun.lab.tables import concatenated

FAILED, LOG = "-failed", "log.txt"  # ends the name of the folder of a stack that failed; says why, within
PACK = "-pack"  # ends the name of a folder that holds what were many
FINGERPRINT = b"ntkrun.made_from"


def stack_name(run_ids: Iterable[str]) -> str:
    """Of the stack of these runs, in this order."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


def is_failed(folder: Path) -> bool:
    return folder.name.endswith(FAILED)


def size(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(file.stat().st_size for file in folder.iterdir())


def ids(folder: Path) -> list[str]:
    """The runs of a stack."""
    return list(read_part(folder / "runs.parquet", ["run_id"])["run_id"])


def tables_of(folders: Iterable[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The stacks' parts of these tables (`runs` the first of them) put together; a run that is in several counts in the
    first."""
    parts: dict[str, list[pd.DataFrame | None]] = {name: [] for name in names}
    taken: set[str] = set()
    for folder in folders:
        found = {name: _part(folder, name) for name in names}
        runs = found["runs"]
        listed = [] if runs is None else list(runs["run_id"])
        own = set(listed) - taken
        taken |= own
        for name, part in found.items():
            if part is not None and len(own) < len(listed):
                part = part[part["run_id"].isin(own)]
            parts[name].append(part)
    return {name: concatenated(of_table, name) for name, of_table in parts.items()}


def _part(folder: Path, table: str) -> pd.DataFrame | None:
    """A finished stack's part of a table; None of a table that the version which wrote it did not know."""
    path = folder / f"{table}.parquet"
    return read_part(path) if path.exists() else None


def read_part(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """A table's file. Raises UserError where it cannot be read."""
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]}); move its folder away to run it again"
        ) from None


def to_parquet(frame: pd.DataFrame, path: Path, made_from: bytes | None = None) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if made_from is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), FINGERPRINT: made_from})
    pq.write_table(table, path, compression="zstd")


def to_npz(kernels: dict[int, np.ndarray], path: Path) -> None:
    """Kernels of a run by step: `steps` and `ntk`."""
    steps = sorted(kernels)
    with path.open("wb") as file:
        np.savez(file, steps=np.array(steps), ntk=np.stack([kernels[step] for step in steps]))
