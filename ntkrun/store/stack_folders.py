"""The folder of a stack in a results directory: its part of each table, as parquet."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ntkrun.errors import UserError
from ntkrun.files.writing import inside
from ntkrun.store.readers import read_stack, read_table
from ntkrun.store.tables import concatenated

FAILED, LOG = "-failed", "log.txt"  # suffix of the folder of a failed stack, and the file in it with the reason
PACK = "-pack"  # suffix of a folder into which many stacks were merged
FINGERPRINT = b"ntkrun.made_from"


def stack_name(run_ids: Iterable[str]) -> str:
    """Return the name of the stack of these runs, in this order."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


def is_failed(folder: Path) -> bool:
    return folder.name.endswith(FAILED)


def folder_bytes(folder: Path) -> int:
    """Return the total bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def run_ids_in(folder: Path) -> list[str]:
    """Return the ids of the runs in a stack's folder."""
    return list(read_table(inside(folder, "runs.parquet"), "stack", ["run_id"])["run_id"])


def joined_tables(folders: Iterable[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Concatenate the stacks' parts of these tables, `runs` among them. A run that is in several stacks is taken from
    the first. Raises UserError where a part is damaged or missing."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
    seen: set[str] = set()
    for folder in folders:
        tables = read_stack(folder, names)
        run_ids = list(tables["runs"]["run_id"])
        new = set(run_ids) - seen
        seen |= new
        for name, part in tables.items():
            parts[name].append(part[part["run_id"].isin(new)] if len(new) < len(run_ids) else part)
    return {name: concatenated(table_parts, name) for name, table_parts in parts.items()}


def already_packed(small: Iterable[Path], packs: Iterable[Path]) -> list[Path]:
    """Return the small stacks whose runs are all in readable packs too, so that they are stored twice."""
    runs_by_stack = {folder: _run_ids_if_readable(folder, run_ids_in) for folder in small}
    loose = set().union(*runs_by_stack.values())
    overlapping = [pack for pack in packs if not loose.isdisjoint(_run_ids_if_readable(pack, run_ids_in))]
    packed = set[str]().union(
        *(_run_ids_if_readable(pack, lambda folder: read_stack(folder)["runs"]["run_id"]) for pack in overlapping)
    )
    return [folder for folder, runs in runs_by_stack.items() if runs and runs <= packed]


def _run_ids_if_readable(folder: Path, read: Callable[[Path], Iterable[str]]) -> set[str]:
    """Return the run ids that `read` gives for a stack, or an empty set if the stack is damaged."""
    try:
        return set(read(folder))
    except UserError:
        return set()


def write_parquet(frame: pd.DataFrame, path: Path, made_from: bytes | None = None) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if made_from is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), FINGERPRINT: made_from})
    with path.open("wb") as file:  # not a path: pyarrow reads a path as an address and refuses one that is not UTF-8
        pq.write_table(table, file, compression="zstd")


def write_npz(kernels: dict[int, np.ndarray], path: Path) -> None:
    """Write the kernels of a run, given by step, as arrays `steps` and `ntk`."""
    steps = sorted(kernels)
    with path.open("wb") as file:
        np.savez(file, steps=np.array(steps), ntk=np.stack([kernels[step] for step in steps]))
