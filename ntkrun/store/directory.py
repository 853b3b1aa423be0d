"""The only owner of a sweep's paths and files.

    sweep.yaml          the resolved config and what made it
    plan.parquet        one row a planned run: its id, every config value, its seed
    stacks/<name>/      one folder a finished stack: its part of each table; the truth that the tables are made from
    stacks/<name>-pack/    many small ones in one folder of that kind, once there are many
    stacks/<name>-failed/  one folder a stack that failed: its rows of `runs`, and log.txt
    checkpoints/        stacks in mid-run: checkpoints.py
    kernels/<id>.npz    whole kernels of a run: `steps` (K,), `ntk` (K, N, N, O, O)
    <table>.parquet     runs, steps, layers, modes, outputs: the stacks of the present plan, joined with it
    figures/            PNG and SVG, with the captions
    claims.json         the verdicts on the present plan's claims

Every file is written under a temporary name, flushed and renamed; a stack's folder is renamed as a whole once it is
complete. So a kill at any moment leaves whole files, and a run is finished exactly when its stack's folder is there:
docs/reliability.md.
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

LOOSE = 512  # small stacks that lie about before they are packed: each costs a reader some milliseconds
SMALL = 2**18  # bytes on disk of a stack that is worth packing: a pack takes 128 MiB at most

Found = TypeVar("Found")


def read_results(path: str | Path) -> Results:
    """The results in a directory such as results/width. Reads only; safe while a sweep is running."""
    return Store(Path(path)).read()


class Store:
    """The results directory of one sweep."""

    _lease: WriteLock  # when it is held for writing

    def __init__(self, root: Path):
        self.root = root
        self._to_look_at = LOOSE  # loose stacks before their sizes are looked at

    # ---------------------------------------------------------------- writing

    @contextmanager
    def writing(
        self, shard: tuple[int, int] = WHOLE, waits: Callable[[Writer], None] = lambda writer: None
    ) -> Iterator[None]:
        """Hold the directory for writing, or for a shard of its sweep. Raises StoreBusy if another process does,
        UserError if it cannot be written. `waits` is told whom of another machine it waits for, to see if it lives."""
        folders = [self.root, *(inside(self.root, name) for name in FOLDERS)]
        with ExitStack() as held:
            try:
                make_folder(self.root)
                self._lease = held.enter_context(write_lock(self.root, shard, waits))
            except OSError as error:
                why = f"cannot write results here ({error.strerror}); choose another --results"
                raise UserError(f"{self.root}: {why}") from None
            held.enter_context(errors_as_sentence(self.root))
            remove_strays(folders, self._lease.now() - LOCK_TIMEOUT)
            yield

    def writers(self) -> list[Writer]:
        """The processes that are writing here at this moment."""
        return writers(inside(self.root, WRITERS).parent)

    def begin(self, description: dict[str, Any], planned: Sequence[dict[str, Any]]) -> None:
        """Record what is to be run: `sweep.yaml` and the plan, one row a run."""
        self.tidy()
        text = f"# Written by ntkrun: the config with every default, and what ran it.\n{dump(description)}"
        replace_file(self.root / "sweep.yaml", lambda path: path.write_text(text, encoding="utf-8"))
        self.write_plan(planned)

    def write_plan(self, planned: Sequence[dict[str, Any]]) -> None:
        replace_file(self.root / "plan.parquet", lambda path: write_parquet(plan_frame(planned), path))

    def tidy(self) -> None:
        """Remove what a kill while packing left twice, unless a process is packing now: it does so itself."""
        with exclusive_if_free(self.root / ".packing") as first:
            if first:
                self._remove(self.packed_twice())

    def commit(self, frames: dict[str, pd.DataFrame], kernels: dict[str, dict[int, np.ndarray]]) -> None:
        """Make a stack's runs finished, all at once: `frames` holds its part of each table, `kernels` maps run_id
        to step to K. Raises StoreBusy where another process has taken over."""
        with ExitStack() as ready:
            files = {}
            for run_id, of_run in kernels.items():
                path = kernel_file(self.root, run_id)
                files[path] = ready.enter_context(temporary_file(path, partial(write_npz, of_run)))
            folder = ready.enter_context(temporary_folder(self.root / "stacks"))
            for table, frame in frames.items():
                write_parquet(frame, folder / f"{table}.parquet")
            self._publish(files, folder, stack_name(frames["runs"]["run_id"]))
        self._pack()

    def commit_failed(self, runs: pd.DataFrame, log: str) -> Path:
        """Record a stack that failed: its rows of `runs`, and what is known of why as a text file, whose path this
        returns."""
        with temporary_folder(self.root / "stacks") as folder:
            write_parquet(runs, folder / "runs.parquet")
            (folder / LOG).write_text(log, encoding="utf-8", errors="backslashreplace")
            return self._publish({}, folder, stack_name(runs["run_id"]) + FAILED) / LOG

    def _publish(self, files: dict[Path, Path], folder: Path, name: str) -> Path:
        """Flush the folder of a stack; then give its kernels (`files`, by what they are to be called) and it their
        names, its own last. Where a stack of that name is there already, it stands. Returns the stack's folder."""
        for path in folder.iterdir():
            flush(path)
        flush(folder)
        with exclusive(self.root):
            self._lease.check()
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
        """Make the runs among these that failed missing again, and those that failed with them."""
        failed = filter(is_failed, self.stack_folders())
        self._remove([folder for folder in failed if not set(run_ids).isdisjoint(run_ids_in(folder))])

    def _remove(self, folders: Sequence[Path]) -> None:
        with exclusive(self.root):
            self._lease.check()
            doomed = [folder.rename(temporary_name(folder)) for folder in folders if folder.exists()]
        for folder in doomed:
            shutil.rmtree(folder)

    def _pack(self) -> None:
        """Put small stacks into one folder where there are many of them. A reader that finds both, or finds some gone
        that it had seen, reads the same runs."""
        if (loose := len(list(filter(_is_loose, self._names())))) < self._to_look_at:
            return
        self._to_look_at = loose + LOOSE
        with exclusive_if_free(self.root / ".packing") as first:
            if not first:
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
        self._to_look_at = len(self._loose()) + LOOSE

    def packed_twice(self) -> list[Path]:
        """The small stacks that a pack holds too: whoever packed them was killed before it had removed them all."""
        packs = self._packs()
        return already_packed(self._loose(), packs) if packs else []

    def _packs(self) -> list[Path]:
        return [folder for folder in self.stack_folders() if folder.name.endswith(PACK)]

    def _loose(self) -> list[Path]:
        return [folder for folder in self.stack_folders() if _is_loose(folder.name)]

    def write_tables(self, anew: bool = False) -> None:
        """Make the tables from the stacks, for people and for other tools; `anew` whatever stands there."""
        self._lease.check()
        folders = self.stack_folders()
        made_from = self._made_from(folders)
        if not anew and self._from_tables(made_from, TABLES) is not None:
            return
        tables = self._assemble(folders, TABLES)
        for table in reversed(TABLES):  # runs.parquet last: while a sweep's other tables are new, it vouches for none
            replace_file(self._table(table), partial(write_parquet, tables[table], made_from=made_from.encode()))

    # ---------------------------------------------------------------- reading

    def finished(self) -> set[str]:
        """The ids of all runs that ended, done or diverged, of this plan or another."""
        return self._settled(
            lambda folders: {run_id for folder in folders if not is_failed(folder) for run_id in run_ids_in(folder)}
        )

    def failed(self) -> dict[str, Path]:
        """The ids of all runs that failed, of this plan or another, and where it says why."""
        return self._settled(
            lambda folders: {
                run_id: folder / LOG for folder in filter(is_failed, folders) for run_id in run_ids_in(folder)
            }
        )

    def plan(self) -> pd.DataFrame:
        """One row a planned run. Raises UserError if the directory holds no sweep."""
        path = inside(self.root, "plan.parquet")
        if not path.exists():
            raise UserError(f"{self.root}: no sweep here; name a directory such as results/width")
        return read_table(path, "plan")

    def description(self) -> dict[str, Any]:
        """What sweep.yaml says: of `config`, `made_by` and more."""
        return description_of(self.root)

    def read(self) -> Results:
        """The tables, from their files if all are of the present plan and stacks, else from the stacks themselves."""
        made_from, tables = self._read(TABLES)
        return Results(**tables, path=self.root, made_from=made_from)

    def runs(self) -> pd.DataFrame:
        """The table `runs` alone, which is there at once where there are many."""
        return self._read(("runs",))[1]["runs"]

    def _read(self, names: Sequence[str]) -> tuple[str, dict[str, pd.DataFrame]]:
        """What these tables were made from, and they and the plan, all of one moment."""

        def tables(folders: list[Path]) -> tuple[str, dict[str, pd.DataFrame], str]:
            made_from = self._made_from(folders)
            found = self._from_tables(made_from, names) or self._assemble(folders, names)
            return made_from, found, self._made_from(folders)

        while True:
            made_from, found, afterwards = self._settled(tables)
            if afterwards == made_from:  # else there is another plan by now
                return made_from, found

    def _settled(self, read: Callable[[list[Path]], Found]) -> Found:
        """What `read` makes of the stacks' folders; once more where some went while it read (into a pack, or failed
        ones that are to run again), or while they were listed, which is no one moment: then there is another pack."""
        while True:
            folders = self.stack_folders()
            try:
                found = read(folders)
                if set(self._packs()) <= set(folders):
                    return found
            except UserError:
                if all(folder.exists() for folder in folders):
                    raise

    def stale(self) -> str:
        """What is wrong with the tables on disk, "" where they are what the stacks make them."""
        folders = self.stack_folders()
        found = self._from_tables(self._made_from(folders), TABLES)
        if found is None:
            return "torn, or out of date with the stacks"
        made = self._assemble(folders, TABLES)
        same = all(equal(found[table], made[table]) for table in TABLES)
        return "" if same else "other numbers than the stacks hold"

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        return kept_kernels(self.root, run_id)

    # ---------------------------------------------------------------- within

    def _table(self, name: str) -> Path:
        return inside(self.root, f"{name}.parquet")

    def stack_folders(self) -> list[Path]:
        """The folders of stacks that ended."""
        stacks = inside(self.root, "stacks")
        return [inside(stacks, name) for name in self._names()]

    def _names(self) -> list[str]:
        """Their names, which are had in no time: they are looked at after each commit."""
        stacks = inside(self.root, "stacks")
        return sorted(path.name for path in stacks.iterdir() if path.name[0] != ".") if stacks.is_dir() else []

    def _made_from(self, folders: Sequence[Path]) -> str:
        """What the tables depend on: the plan and which stacks there are."""
        try:
            plan = read_bytes(inside(self.root, "plan.parquet"), LARGEST_FILE)
        except Unreadable:
            plan = b""
        digest = hashlib.sha256(ntkrun.__version__.encode() + plan)
        digest.update("\n".join(folder.name for folder in folders).encode())
        return digest.hexdigest()

    def _from_tables(self, made_from: str, names: Sequence[str]) -> dict[str, pd.DataFrame] | None:
        """What these tables' files say; None where one is of other stacks or another plan, or torn by other hands: the
        stacks have it all."""
        tables = {}
        try:
            for name in names:
                tables[name], noted = read_with_metadata(self._table(name), name)
                if noted.get(FINGERPRINT) != made_from.encode():
                    return None
        except UserError:
            return None
        return tables | {"plan": self.plan()}

    def _assemble(self, folders: Sequence[Path], names: Sequence[str]) -> dict[str, pd.DataFrame]:
        plan = self.plan()
        order = {run_id: k for k, run_id in enumerate(plan["run_id"])}
        # A run that was put here twice counts once, and rather finished.
        found = joined_tables(sorted(folders, key=is_failed), ("runs", *(name for name in names if name != "runs")))
        tables = {name: in_order(frame, order) for name, frame in found.items()}
        return tables | {"runs": plan.merge(tables["runs"], on="run_id"), "plan": plan}


def _is_loose(name: str) -> bool:
    return not name.endswith((PACK, FAILED))
