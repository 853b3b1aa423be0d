"""A stack's folder in a store: its part of each table, as parquet."""

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

FAILED, LOG = "-failed", "log.txt"  # ends the name of the folder of a stack that failed; says why, within
PACK = "-pack"  # ends the name of a folder that holds what were many
FINGERPRINT = b"ntkrun.made_from"


def stack_name(run_ids: Iterable[str]) -> str:
    """Of the stack of these runs, in this order."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


def is_failed(folder: Path) -> bool:
    return folder.name.endswith(FAILED)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(file.stat().st_size for file in folder.iterdir())


def run_ids_in(folder: Path) -> list[str]:
    """The runs of a stack."""
    return list(read_table(inside(folder, "runs.parquet"), "stack", ["run_id"])["run_id"])


def joined_tables(folders: Iterable[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The stacks' parts of these tables (`runs` among them) put together; a run that is in several counts in the
    first. Raises UserError where a part is torn or missing."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
    taken: set[str] = set()
    for folder in folders:
        found = read_stack(folder, names)
        listed = list(found["runs"]["run_id"])
        own = set(listed) - taken
        taken |= own
        for name, part in found.items():
            parts[name].append(part[part["run_id"].isin(own)] if len(own) < len(listed) else part)
    return {name: concatenated(of_table, name) for name, of_table in parts.items()}


def already_packed(small: Iterable[Path], packs: Iterable[Path]) -> list[Path]:
    """Those of the small stacks whose runs are all in packs that are whole: what they hold is held twice."""
    own = {folder: _run_ids_if_whole(folder, run_ids_in) for folder in small}
    loose = set().union(*own.values())
    sharing = [pack for pack in packs if not loose.isdisjoint(_run_ids_if_whole(pack, run_ids_in))]
    packed = set[str]().union(
        *(_run_ids_if_whole(pack, lambda folder: read_stack(folder)["runs"]["run_id"]) for pack in sharing)
    )
    return [folder for folder, runs in own.items() if runs and runs <= packed]


def _run_ids_if_whole(folder: Path, read: Callable[[Path], Iterable[str]]) -> set[str]:
    """The runs of a stack by what reads them; none where it is torn."""
    try:
        return set(read(folder))
    except UserError:
        return set()


def write_parquet(frame: pd.DataFrame, path: Path, made_from: bytes | None = None) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if made_from is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), FINGERPRINT: made_from})
    with path.open("wb") as file:  # pyarrow takes a path for an address, and none that is no UTF-8
        pq.write_table(table, file, compression="zstd")


def write_npz(kernels: dict[int, np.ndarray], path: Path) -> None:
    """Kernels of a run by step: `steps` and `ntk`."""
    steps = sorted(kernels)
    with path.open("wb") as file:
        np.savez(file, steps=np.array(steps), ntk=np.stack([kernels[step] for step in steps]))
