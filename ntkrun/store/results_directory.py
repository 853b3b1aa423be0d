"""The results directory of a sweep and its files:

    sweep.yaml          the resolved config and its provenance
    plan.parquet        one row per planned run: its id, every config value, its seed
    stacks/<name>/      one folder per finished stack: its part of each table; the tables are made from these
    stacks/<name>-pack/    many small stacks in one folder of that kind, once there are many
    stacks/<name>-failed/  one folder per stack that failed: its rows of `runs`, and log.txt
    checkpoints/        stacks in mid-run: checkpoints.py
    kernels/<id>.npz    whole kernels of a run: `steps` (K,), `ntk` (K, N, N, O, O)
    <table>.parquet     runs, steps, layers, modes, outputs: the stacks of the present plan, joined with it
    figures/            PNG and SVG, with the captions
    claims.json         the verdicts on the present plan's claims

Every file is written under a temporary name, flushed and renamed. A stack's folder is renamed as a whole once it is
complete. A kill at any moment therefore leaves only complete files, and a run is finished exactly when its stack's
folder exists: docs/reliability.md.
"""

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

import ntkrun
from ntkrun.config.yaml import dump
from ntkrun.errors import UserError
from ntkrun.files.parquet import LARGEST_FILE
from ntkrun.files.reading import Unreadable, read_bytes
from ntkrun.files.writing import (
    errors_as_sentence,
    flush,
    inside,
    make_folder,
    remove_strays,
    replace_file,
    temporary_file,
    temporary_folder,
    temporary_name,
)
from ntkrun.store.lock import (
    LOCK_TIMEOUT,
    WHOLE,
    WRITERS,
    WriteLock,
    Writer,
    exclusive,
    exclusive_if_free,
    write_lock,
    writers,
)
from ntkrun.store.readers import read_table, read_with_metadata
from ntkrun.store.results import Results as Results
from ntkrun.store.results import description_of, kept_kernels, kernel_file
from ntkrun.store.stack_folders import (
    FAILED,
    FINGERPRINT,
    LOG,
    PACK,
    already_packed,
    folder_bytes,
    is_failed,
    joined_tables,
    run_ids_in,
    stack_name,
    write_npz,
    write_parquet,
)
from ntkrun.store.tables import TABLES, equal, in_order, plan_frame

FOLDERS = ("stacks", "checkpoints", "kernels", "figures", WRITERS)

LOOSE = 512  # number of loose small stacks from which they are packed: each costs a reader some milliseconds
SMALL = 2**18  # bytes on disk below which a stack is packed: a pack takes 128 MiB at most

T = TypeVar("T")


def read_results(path: str | Path) -> Results:
    """Read the results in a directory such as results/width. Safe while a sweep is running; nothing is written."""
    return Store(Path(path)).read()


class Store:
    """The results directory of one sweep."""

    _lock: WriteLock  # set while the directory is held for writing

    def __init__(self, root: Path):
        self.root = root
        self._pack_threshold = LOOSE  # number of loose stacks from which their sizes are checked

    # ---------------------------------------------------------------- writing

    @contextmanager
    def writing(
        self, shard: tuple[int, int] = WHOLE, on_wait: Callable[[Writer], None] = lambda writer: None
    ) -> Iterator[None]:
        """Hold the directory, or a shard of its sweep, for writing.

        `on_wait` is called with a writer on another machine while this waits to see whether that writer is alive.
        Raises StoreBusy if another process holds the directory, UserError if it cannot be written.
        """
        folders = [self.root, *(inside(self.root, name) for name in FOLDERS)]
        with ExitStack() as contexts:
            try:
                make_folder(self.root)
                self._lock = contexts.enter_context(write_lock(self.root, shard, on_wait))
            except OSError as error:
                why = f"cannot write results here ({error.strerror}); choose another --results"
                raise UserError(f"{self.root}: {why}") from None
            contexts.enter_context(errors_as_sentence(self.root))
            remove_strays(folders, self._lock.now() - LOCK_TIMEOUT)
            yield

    def writers(self) -> list[Writer]:
        """Return the processes that are writing here at this moment."""
        return writers(inside(self.root, WRITERS).parent)

    def begin(self, description: dict[str, Any], planned: Sequence[dict[str, Any]]) -> None:
        """Write `sweep.yaml` and the plan, one row per run."""
        self.tidy()
        text = f"# Written by ntkrun: the config with every default, and what ran it.\n{dump(description)}"
        replace_file(self.root / "sweep.yaml", lambda path: path.write_text(text, encoding="utf-8"))
        self.write_plan(planned)

    def write_plan(self, planned: Sequence[dict[str, Any]]) -> None:
        replace_file(self.root / "plan.parquet", lambda path: write_parquet(plan_frame(planned), path))

    def tidy(self) -> None:
        """Remove stacks that a kill during packing left twice. A process that is packing now does this itself."""
        with exclusive_if_free(self.root / ".packing") as free:
            if free:
                self._remove(self.packed_twice())

    def commit(self, frames: dict[str, pd.DataFrame], kernels: dict[str, dict[int, np.ndarray]]) -> None:
        """Commit a finished stack, all runs at once: `frames` holds its part of each table, `kernels` maps run_id
        to step to K. Raises StoreBusy where another process has taken over."""
        with ExitStack() as contexts:
            files = {}
            for run_id, kernels_of_run in kernels.items():
                path = kernel_file(self.root, run_id)
                files[path] = contexts.enter_context(temporary_file(path, partial(write_npz, kernels_of_run)))
            folder = contexts.enter_context(temporary_folder(self.root / "stacks"))
            for table, frame in frames.items():
                write_parquet(frame, folder / f"{table}.parquet")
            self._publish(files, folder, stack_name(frames["runs"]["run_id"]))
        self._pack()

    def commit_failed(self, runs: pd.DataFrame, log: str) -> Path:
        """Record a stack that failed: its rows of `runs`, and a text file with the reason. Return that file's path."""
        with temporary_folder(self.root / "stacks") as folder:
            write_parquet(runs, folder / "runs.parquet")
            (folder / LOG).write_text(log, encoding="utf-8", errors="backslashreplace")
            return self._publish({}, folder, stack_name(runs["run_id"]) + FAILED) / LOG

    def _publish(self, files: dict[Path, Path], folder: Path, name: str) -> Path:
        """Flush the folder of a stack, then rename its kernels and at last the folder to their final names.

        `files` maps the final path of a kernel file to its temporary path. A stack that already has this name stays as
        it is. Return the stack's folder.
        """
        for path in folder.iterdir():
            flush(path)
        flush(folder)
        with exclusive(self.root):
            self._lock.check()
            for path, temporary in files.items():
                temporary.replace(path)
            for parent in {path.parent for path in files}:
                flush(parent)
            final = folder.with_name(name)
            if not final.exists():
                folder.rename(final)
                flush(final.parent)
        return final

    def forget_failed(self, run_ids: Collection[str]) -> None:
        """Remove the failed stacks that contain any of these runs, so that all runs of those stacks are missing
        again."""
        failed = filter(is_failed, self.stack_folders())
        self._remove([folder for folder in failed if not set(run_ids).isdisjoint(run_ids_in(folder))])

    def _remove(self, folders: Sequence[Path]) -> None:
        with exclusive(self.root):
            self._lock.check()
            renamed = [folder.rename(temporary_name(folder)) for folder in folders if folder.exists()]
        for folder in renamed:
            shutil.rmtree(folder)

    def _pack(self) -> None:
        """Merge small stacks into one folder if there are many of them.

        A reader that sees both the pack and its stacks, or that had listed stacks which are now gone, reads the same
        runs.
        """
        if (loose := len(list(filter(_is_loose, self._stack_names())))) < self._pack_threshold:
            return
        self._pack_threshold = loose + LOOSE
        with exclusive_if_free(self.root / ".packing") as free:
            if not free:
                return
            self._remove(self.packed_twice())
            small = [folder for folder in self._loose() if folder_bytes(folder) < SMALL]
            if len(small) < LOOSE:
                return
            tables = joined_tables(small, TABLES)
            with temporary_folder(self.root / "stacks") as folder:
                for table, frame in tables.items():
                    write_parquet(frame, folder / f"{table}.parquet")
                pack = self._publish({}, folder, stack_name(tables["runs"]["run_id"]) + PACK)
            self._remove(already_packed(small, [pack]))
        self._pack_threshold = len(self._loose()) + LOOSE

    def packed_twice(self) -> list[Path]:
        """Return the small stacks that are also in a pack because a process was killed before it had removed them."""
        packs = self._packs()
        return already_packed(self._loose(), packs) if packs else []

    def _packs(self) -> list[Path]:
        return [folder for folder in self.stack_folders() if folder.name.endswith(PACK)]

    def _loose(self) -> list[Path]:
        return [folder for folder in self.stack_folders() if _is_loose(folder.name)]

    def write_tables(self, anew: bool = False) -> None:
        """Write the tables from the stacks, for people and for other tools. Do nothing if they are current, unless
        `anew` is True."""
        self._lock.check()
        folders = self.stack_folders()
        made_from = self._made_from(folders)
        if not anew and self._from_tables(made_from, TABLES) is not None:
            return
        tables = self._assemble(folders, TABLES)
        for table in reversed(TABLES):  # runs.parquet last: until it is new, the tables do not count as written
            replace_file(self._table(table), partial(write_parquet, tables[table], made_from=made_from.encode()))

    # ---------------------------------------------------------------- reading

    def finished(self) -> set[str]:
        """Return the ids of all runs that ended as done or diverged, in this plan or another."""
        return self._read_consistently(
            lambda folders: {run_id for folder in folders if not is_failed(folder) for run_id in run_ids_in(folder)}
        )

    def failed(self) -> dict[str, Path]:
        """Return the ids of all runs that failed, in this plan or another, with the log file that has the reason."""
        return self._read_consistently(
            lambda folders: {
                run_id: folder / LOG for folder in filter(is_failed, folders) for run_id in run_ids_in(folder)
            }
        )

    def plan(self) -> pd.DataFrame:
        """Return the plan, one row per run. Raises UserError if the directory holds no sweep."""
        path = inside(self.root, "plan.parquet")
        if not path.exists():
            raise UserError(f"{self.root}: no sweep here; name a directory such as results/width")
        return read_table(path, "plan")

    def description(self) -> dict[str, Any]:
        """Return the contents of sweep.yaml: `config`, `made_by` and more."""
        return description_of(self.root)

    def read(self) -> Results:
        """Return the results: from the table files if all are up to date with the plan and the stacks, else from the
        stacks."""
        made_from, tables = self._read(TABLES)
        return Results(**tables, path=self.root, made_from=made_from)

    def runs(self) -> pd.DataFrame:
        """Return the table `runs` alone, which is quick even for many runs."""
        return self._read(("runs",))[1]["runs"]

    def _read(self, names: Sequence[str]) -> tuple[str, dict[str, pd.DataFrame]]:
        """Return the fingerprint of these tables, and the tables with the plan, all from one moment."""

        def read_once(folders: list[Path]) -> tuple[str, dict[str, pd.DataFrame], str]:
            made_from = self._made_from(folders)
            tables = self._from_tables(made_from, names) or self._assemble(folders, names)
            return made_from, tables, self._made_from(folders)

        while True:
            made_from, tables, made_from_afterwards = self._read_consistently(read_once)
            if made_from_afterwards == made_from:  # else the plan has changed meanwhile
                return made_from, tables

    def _read_consistently(self, read: Callable[[list[Path]], T]) -> T:
        """Return the result of `read` on the stacks' folders, retrying if the folders changed meanwhile.

        Folders may disappear while `read` reads them: into a pack, or because failed runs are to run again. They may
        also disappear while they are being listed, in which case there is a pack that was not listed.
        """
        while True:
            folders = self.stack_folders()
            try:
                result = read(folders)
                if set(self._packs()) <= set(folders):
                    return result
            except UserError:
                if all(folder.exists() for folder in folders):
                    raise

    def stale(self) -> str:
        """Return what is wrong with the tables on disk, "" if they agree with the stacks."""
        folders = self.stack_folders()
        stored = self._from_tables(self._made_from(folders), TABLES)
        if stored is None:
            return "damaged, or out of date with the stacks"
        expected = self._assemble(folders, TABLES)
        same = all(equal(stored[table], expected[table]) for table in TABLES)
        return "" if same else "the tables hold other numbers than the stacks"

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        return kept_kernels(self.root, run_id)

    # ---------------------------------------------------------------- internals

    def _table(self, name: str) -> Path:
        return inside(self.root, f"{name}.parquet")

    def stack_folders(self) -> list[Path]:
        """Return the folders of stacks that ended."""
        stacks = inside(self.root, "stacks")
        return [inside(stacks, name) for name in self._stack_names()]

    def _stack_names(self) -> list[str]:
        """Return the names of the stacks' folders. This runs after every commit, so it must be fast."""
        stacks = inside(self.root, "stacks")
        return sorted(path.name for path in stacks.iterdir() if path.name[0] != ".") if stacks.is_dir() else []

    def _made_from(self, folders: Sequence[Path]) -> str:
        """Return a fingerprint of what the tables depend on: the version, the plan and the names of the stacks."""
        try:
            plan = read_bytes(inside(self.root, "plan.parquet"), LARGEST_FILE)
        except Unreadable:
            plan = b""
        digest = hashlib.sha256(ntkrun.__version__.encode() + plan)
        digest.update("\n".join(folder.name for folder in folders).encode())
        return digest.hexdigest()

    def _from_tables(self, made_from: str, names: Sequence[str]) -> dict[str, pd.DataFrame] | None:
        """Return these tables from their files, or None if one is damaged or belongs to other stacks or another plan.
        The stacks hold all their data."""
        tables = {}
        try:
            for name in names:
                tables[name], metadata = read_with_metadata(self._table(name), name)
                if metadata.get(FINGERPRINT) != made_from.encode():
                    return None
        except UserError:
            return None
        return tables | {"plan": self.plan()}

    def _assemble(self, folders: Sequence[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
        plan = self.plan()
        order = {run_id: k for k, run_id in enumerate(plan["run_id"])}
        # A run that is here twice counts once; a finished copy comes before a failed one.
        joined = joined_tables(sorted(folders, key=is_failed), ("runs", *(name for name in names if name != "runs")))
        tables = {name: in_order(frame, order) for name, frame in joined.items()}
        return tables | {"runs": plan.merge(tables["runs"], on="run_id"), "plan": plan}


def _is_loose(name: str) -> bool:
    return not name.endswith((PACK, FAILED))
