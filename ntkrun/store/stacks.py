"""The finished stacks of a results directory: the commit protocol.

    stacks/00000007/             one commit: one or several stacks, their part of each table and kernels/<run_id>.npz
    stacks/00000008-failed/      runs that failed: runs.parquet and log.txt
    stacks/00000003-00000404/    several commits, merged into one folder
    stacks/<hash>, <hash>-pack   what earlier versions committed; it counts as number 0

A commit writes a folder under a temporary name, flushes all of it, and renames it to the next number. The rename is the
commit: before it none of its runs is finished, after it all are. A folder never changes; it is only merged with others.
A run that is in several folders counts once: finished rather than failed, then in the folder of the lowest number.
"""

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from ntkrun.columns import TABLES
from ntkrun.errors import UserError
from ntkrun.files import disk
from ntkrun.files.parquet import save_parquet
from ntkrun.files.reading import Unreadable, read_text
from ntkrun.files.writing import (
    flush_tree,
    inside,
    remove_tree,
    save_arrays,
    temporary_folder,
    temporary_name,
)
from ntkrun.store.folder_names import FAILED, is_failed, is_merged, numbers, order
from ntkrun.store.locks import commit_lock, merge_lock, no_merge
from ntkrun.store.readers import check_id, read_kernels, read_stack, read_table
from ntkrun.store.tables import concatenated

LOG = "log.txt"  # the file with the reasons in a folder of failed runs
MOST = 400  # folders of a kind (single, merged, failed) before they are merged: each costs a reader 11 ms
FULL = 2**26  # bytes of tables that a merged folder holds at most, since merging holds them in memory
WORTHWHILE = 8  # folders that one merge replaces at least
LARGEST_LOG = 2**26  # bytes

T = TypeVar("T")


class Stacks:
    """The folders of finished stacks in a results directory. It remembers which runs a folder holds."""

    def __init__(self, root: Path):
        self.root = root
        self._runs: dict[str, frozenset[str]] = {}  # ids of the runs in each folder that has been read

    # ---------------------------------------------------------------- committing

    def commit(self, frames: Mapping[str, pd.DataFrame], kernels: Mapping[str, Mapping[int, np.ndarray]]) -> None:
        """Commit stacks that ended, all together: their part of each table, and each run's kernels by step. Runs that
        are here already are left out."""
        self._ids()  # most folders are read before the lock is taken
        while len(frames["runs"]):
            with temporary_folder(self._folder) as folder:
                _save(folder, frames, kernels)
                flush_tree(folder)
                with commit_lock(self.root):
                    present = self._present(frames["runs"]["run_id"])
                    if not present:
                        self._publish(folder, frames["runs"]["run_id"])
                        break
            frames = {table: frame[~frame["run_id"].isin(present)] for table, frame in frames.items()}
        self.merge()

    def commit_failed(self, runs: pd.DataFrame, log: str) -> Path:
        """Record runs that failed: their rows of `runs`, and a text file with the reasons. Return that file's path."""
        log_file = self._commit_failed(runs, log)
        self.merge()
        return log_file

    def _commit_failed(self, runs: pd.DataFrame, log: str) -> Path:
        with temporary_folder(self._folder) as folder:
            _save(folder, {"runs": runs}, {}, log)
            flush_tree(folder)
            with commit_lock(self.root):
                return self._publish(folder, runs["run_id"], "{:08}" + FAILED) / LOG

    def _publish(self, folder: Path, run_ids: Iterable[str], name: str = "{:08}") -> Path:
        """Rename a complete, flushed folder to the next number. Return its path."""
        number = 1 + max((numbers(name)[1] for name in self._names()), default=0)
        while not _renamed(folder, final := self._folder / name.format(number)):
            number += 1  # a process on another machine was faster, and locks do not reach it
        self._runs[final.name] = frozenset(run_ids)
        disk.flush(self._folder)
        return final

    def forget_failed(self, run_ids: Collection[str]) -> None:
        """Make these runs missing again, if they have failed. The other failed runs go into a new folder, even if there
        are none: so no number is ever used twice."""
        with no_merge(self.root):
            failed = {folder: read_table(inside(folder, "runs.parquet"), "stack") for folder in self._failed_folders()}
            forgotten = [folder for folder, runs in failed.items() if runs["run_id"].isin(run_ids).any()]
            if forgotten:
                rows = concatenated([failed[folder] for folder in forgotten], "runs")
                log = "\n".join(map(_log, forgotten))
                self._commit_failed(rows[~rows["run_id"].isin(run_ids)], log)
                self._remove(forgotten)

    def _failed_folders(self) -> list[Path]:
        return [self.folder(name) for name in self.names() if is_failed(name)]

    def _remove(self, folders: Iterable[Path]) -> None:
        """Remove folders. Each disappears as a whole, and on the disk too, before its files do."""
        renamed = {folder: temporary_name(folder) for folder in folders}
        for folder, temporary in renamed.items():
            with suppress(FileNotFoundError):  # a process on another machine removes it, and locks do not reach it
                disk.rename(folder, temporary)
        disk.flush(self._folder)
        for temporary in renamed.values():
            remove_tree(temporary)

    # ---------------------------------------------------------------- merging

    def merge(self) -> None:
        """Merge folders of a kind where there are many. Readers see the same runs before, meanwhile and afterwards."""
        kinds: dict[tuple[bool, bool], list[str]] = {}
        for name in self._names():
            failed = is_failed(name)
            kinds.setdefault((failed, failed or is_merged(name)), []).append(name)
        for names in kinds.values():
            if len(names) > MOST:
                with merge_lock(self.root) as free:
                    if free:
                        self._merge(_smallest(list(map(self.folder, names))))

    def _merge(self, members: Sequence[Path]) -> None:
        """Write one folder in place of these. It begins with their lowest number: their runs count as before."""
        if len(members) < WORTHWHILE:
            return
        parts = {folder: tables for folder in members if (tables := _intact(folder)) is not None}
        ids = self._ids()
        if len(parts) < WORTHWHILE or not all(folder.name in ids for folder in parts):
            return  # damaged, or merged by a process on another machine, if locks do not reach it
        kept = self._counting(parts)
        if not any(kept.values()):  # left by a process that was killed after it had merged them
            self._remove(parts)
            return
        ending, names = (FAILED, ("runs",)) if is_failed(members[0].name) else ("", TABLES)
        with temporary_folder(self._folder) as folder:
            tables = {
                name: concatenated([_counted(parts[member], name, kept[member]) for member in kept], name)
                for name in names
            }
            _save(folder, tables, {}, "\n".join(map(_log, parts)) if ending else None)
            _link_kernels(kept, folder)
            flush_tree(folder)
            if not all(member.exists() for member in parts):
                return
            first = min(numbers(member.name)[0] for member in parts)
            merged = self._publish(folder, tables["runs"]["run_id"], f"{first:08}-{{:08}}{ending}")
        if _intact(merged) is not None:  # else the disk did not keep it
            self._remove(parts)

    def _counting(self, members: Collection[Path]) -> dict[Path, frozenset[str]]:
        """Return for each of these folders, in their order, the runs that count in it: no intact folder before it has
        them."""
        ids, seen, counting = self._ids(), set[str](), dict[Path, frozenset[str]]()
        mine = set[str]().union(*(ids[folder.name] for folder in members))
        for name, runs in ids.items():
            folder = self.folder(name)
            if folder in members:
                counting[folder] = runs - seen
            if folder in members or (not mine.isdisjoint(runs) and _intact(folder) is not None):
                seen |= runs
        return counting

    # ---------------------------------------------------------------- reading

    def names(self) -> list[str]:
        """Return the names of the folders of stacks that ended, in the order in which they count."""
        return sorted(self._names(), key=order)

    def folder(self, name: str) -> Path:
        """Return the folder of this name. Raises UserError where it is a link out of the directory."""
        return inside(self._folder, name)

    def stack_folders(self) -> list[Path]:
        """Return the folders of stacks that ended, in the order in which they count."""
        return list(map(self.folder, self.names()))

    def finished(self) -> set[str]:
        """Return the ids of all runs that ended as done or diverged, in this plan or another."""
        return set[str]().union(*(ids for name, ids in self._ids().items() if not is_failed(name)))

    def failed(self) -> dict[str, Path]:
        """Return the ids of all runs that failed and never finished, with the file that says why."""
        ids, finished = self._ids(), self.finished()
        names = [name for name in sorted(ids, key=order, reverse=True) if is_failed(name)]
        return {run_id: self._folder / name / LOG for name in names for run_id in ids[name] - finished}

    def joined(self, names: Iterable[str], tables: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Concatenate the parts of these tables, `runs` among them, in the folders of these names. Raises UserError
        where one is damaged or missing."""
        parts: dict[str, list[pd.DataFrame]] = {table: [] for table in tables}
        seen: set[str] = set()
        for name in names:
            frames = read_stack(self.folder(name), tables)
            runs = set(frames["runs"]["run_id"])
            for table, frame in frames.items():
                parts[table].append(frame if seen.isdisjoint(runs) else frame[~frame["run_id"].isin(seen)])
            seen |= runs
        return {table: concatenated(table_parts, table) for table, table_parts in parts.items()}

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        """Return the kernels that are kept of a run, None if there are none."""
        file = f"kernels/{check_id(run_id)}.npz"  # earlier versions wrote it beside stacks/

        def read(names: list[str]) -> dict[str, np.ndarray] | None:
            paths = [*(f"stacks/{name}/{file}" for name in names), file]
            path = next((path for path in paths if (self.root / path).exists()), None)
            return read_kernels(inside(self.root, path)) if path else None

        return self.consistently(read)

    def consistently(self, read: Callable[[list[str]], T]) -> T:
        """Return the result of `read` on the names of the folders, in the order in which they count. It is called again
        if folders were merged or removed meanwhile, or while they were being listed: then there is a merged folder that
        was not listed."""
        while True:
            names = self.names()
            try:
                result = read(names)
                if all(name in names for name in self._names() if is_merged(name)):
                    return result
            except UserError:
                if all(os.path.lexists(self._folder / name) for name in names):
                    raise

    def _ids(self) -> dict[str, frozenset[str]]:
        """Return the ids of the runs in each folder. Each folder is read once, since this is called at every commit."""

        def read(names: list[str]) -> dict[str, frozenset[str]]:
            return {
                name: self._runs[name] if name in self._runs else frozenset(run_ids_in(self.folder(name)))
                for name in names
            }

        self._runs = self.consistently(read)
        return self._runs

    def _present(self, run_ids: Iterable[str]) -> set[str]:
        """Return those of these runs that have finished."""
        wanted = frozenset(run_ids)
        return set[str]().union(*(wanted & ids for name, ids in self._ids().items() if not is_failed(name)))

    @property
    def _folder(self) -> Path:
        return inside(self.root, "stacks")

    def _names(self) -> list[str]:
        """Return the names of the folders. This runs several times in a commit, so it must be fast."""
        try:
            with os.scandir(self._folder) as entries:
                return [entry.name for entry in entries if entry.name[0] != "."]
        except (FileNotFoundError, NotADirectoryError):
            return []


def run_ids_in(folder: Path) -> list[str]:
    """Return the ids of the runs in a folder."""
    return list(read_table(inside(folder, "runs.parquet"), "stack", ["run_id"])["run_id"])


def _renamed(folder: Path, final: Path) -> bool:
    """Rename a folder. Return False if there is one of that name already."""
    try:
        disk.rename(folder, final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _save(
    folder: Path,
    frames: Mapping[str, pd.DataFrame],
    kernels: Mapping[str, Mapping[int, np.ndarray]],
    log: str | None = None,
) -> None:
    """Write the files of a commit: tables, the kernels of the runs in them as arrays `steps` and `ntk`, and the log."""
    for table, frame in frames.items():
        disk.write(folder / f"{table}.parquet", partial(save_parquet, frame))
    run_ids = [run_id for run_id in frames["runs"]["run_id"] if kernels.get(run_id)]
    if run_ids:
        disk.make(folder / "kernels")
    for run_id in run_ids:
        steps = sorted(kernels[run_id])
        arrays = {"steps": np.array(steps), "ntk": np.stack([kernels[run_id][step] for step in steps])}
        disk.write(folder / "kernels" / f"{check_id(run_id)}.npz", partial(save_arrays, arrays=arrays))
    if log is not None:
        text = log.encode(errors="backslashreplace")
        disk.write(folder / LOG, lambda path: path.write_bytes(text))


def _link_kernels(runs: Mapping[Path, Collection[str]], folder: Path) -> None:
    """Give the kernels of these runs in each of the folders a second name in `folder`."""
    having = {old: run_ids for old, run_ids in runs.items() if inside(old, "kernels").is_dir()}
    files = [inside(old, "kernels", f"{run_id}.npz") for old, run_ids in having.items() for run_id in sorted(run_ids)]
    present = [file for file in files if file.exists()]
    if present:
        disk.make(folder / "kernels")
    for file in present:
        try:
            disk.link(file, folder / "kernels" / file.name)
        except OSError:  # some file systems have no second names
            disk.write(folder / "kernels" / file.name, partial(shutil.copyfile, file))


def _smallest(folders: Sequence[Path]) -> list[Path]:
    """Return the smallest of these folders, as many as fit into one that is FULL."""
    total, chosen = 0, []
    for size, folder in sorted((table_bytes(folder), folder) for folder in folders):
        total += size
        if total > FULL:
            break
        chosen.append(folder)
    return chosen


def table_bytes(folder: Path) -> int:
    """Return the bytes of the tables in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.parquet"))


def _intact(folder: Path) -> dict[str, pd.DataFrame] | None:
    """Return the tables of a folder, None if one is damaged."""
    try:
        return read_stack(folder)
    except UserError:
        return None


def _counted(tables: Mapping[str, pd.DataFrame], name: str, run_ids: Collection[str]) -> pd.DataFrame | None:
    """Return the part of a folder's table that is of these runs; None where the folder lacks the table."""
    whole = len(run_ids) == len(tables["runs"])
    return tables.get(name) if whole or name not in tables else tables[name][tables[name]["run_id"].isin(run_ids)]


def _log(folder: Path) -> str:
    """Return the text that says why the runs of a folder failed."""
    try:
        return read_text(inside(folder, LOG), LARGEST_LOG)
    except Unreadable as error:
        return f"{folder.name}/{LOG} cannot be read: {error}\n"
