"""The only owner of a sweep's paths and files.

    sweep.yaml          the resolved config and what made it
    plan.parquet        one row a planned run: its id, every config value, its seed
    stacks/<name>/      one folder a finished stack: its part of each table; the truth that the tables are made from
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
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import ntkrun
from ntkrun.errors import UserError
from ntkrun.lab.files import (
    flush,
    folder_beside,
    inside,
    make_folder,
    remove_strays,
    replace_file,
    sentence_for,
    temporary_name,
    written_beside,
)
from ntkrun.lab.lease import LEASE, WHOLE, WRITERS, Lease, Writer, leased, moment, writers
from ntkrun.lab.stored import check_id, read_description, read_kernels, read_noted, read_stack, read_table
from ntkrun.lab.tables import TABLES, concatenated, in_order, plan_frame
from ntkrun.lab.yaml_reader import dump
from ntkrun.parquet import LARGEST_FILE
from ntkrun.reading import Unreadable, holds, read_bytes, read_json

FOLDERS = ("stacks", "checkpoints", "kernels", "figures", WRITERS)
FAILED, LOG = "-failed", "log.txt"  # ends the name of the folder of a stack that failed; says why, within
_FINGERPRINT = b"ntkrun.made_from"
LARGEST_TEXT = 2**26  # bytes of claims.json and the captions


@dataclass(frozen=True)
class Results:
    """The tables of a sweep's present plan (docs/tables.md) and where they lie."""

    runs: pd.DataFrame
    steps: pd.DataFrame
    layers: pd.DataFrame
    plan: pd.DataFrame
    modes: pd.DataFrame
    outputs: pd.DataFrame
    path: Path
    made_from: str  # changes whenever the plan or the finished runs do

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        """Whole kernels kept of a run: `steps` (K,) and `ntk` (K, N, N, O, O); None if none were."""
        return Store(self.path).kernels(run_id)

    def write_figure(self, stem: str, save: Callable[[Path], None], ending: str) -> Path:
        """Store one figure under figures/; `save` draws it to the path it is given, whose ending tells the format."""
        path = inside(self.path, "figures", f"{stem}.{ending}")
        with sentence_for(path):
            replace_file(path, save)
        return path

    def write_captions(self, captions: dict[str, str]) -> None:
        """Store what each figure shows, by its stem, once all are drawn; and what they were drawn from."""
        text = json.dumps({"made_from": self.made_from, "captions": captions}, indent=1, ensure_ascii=False) + "\n"
        file = inside(self.path, "figures", "captions.json")
        with sentence_for(file):
            replace_file(file, lambda path: path.write_text(text, encoding="utf-8"))

    def config(self) -> dict[str, Any]:
        """The resolved config that the sweep was last run with."""
        return dict(Store(self.path).description()["config"])

    def write_claims(self, text: str) -> None:
        """Store the verdicts on these tables as claims.json; nothing is written where they stand there already, so that
        a directory which may only be read can be judged."""
        path = inside(self.path, "claims.json")
        with sentence_for(path):
            if holds(path, text.encode()):
                return
            replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def captions(self) -> dict[str, str]:
        """What each figure shows, by its stem; {} unless all were drawn from these very tables."""
        try:
            drawn = read_json(inside(self.path, "figures", "captions.json"), LARGEST_TEXT)
        except (Unreadable, UserError):
            return {}
        current = isinstance(drawn, dict) and drawn.get("made_from") == self.made_from
        return dict(drawn["captions"]) if current else {}

    def figures_are_current(self) -> bool:
        """Whether every figure was drawn from these very tables."""
        return bool(self.captions())


def read_results(path: str | Path) -> Results:
    """The results in a directory such as results/width. Reads only; safe while a sweep is running."""
    return Store(Path(path)).read()


class Store:
    """The results directory of one sweep."""

    _lease: Lease  # when it is held for writing

    def __init__(self, root: Path):
        self.root = root

    # ---------------------------------------------------------------- writing

    @contextmanager
    def writing(self, shard: tuple[int, int] = WHOLE) -> Iterator[None]:
        """Hold the directory for writing, or for a shard of its sweep. Raises StoreBusy if another process does,
        UserError if it cannot be written."""
        folders = [self.root, *(inside(self.root, name) for name in FOLDERS)]
        with ExitStack() as held:
            try:
                make_folder(self.root)
                self._lease = held.enter_context(leased(self.root, shard))
            except OSError as error:
                why = f"cannot write results here ({error.strerror}); choose another --results"
                raise UserError(f"{self.root}: {why}") from None
            held.enter_context(sentence_for(self.root))
            remove_strays(folders, self._lease.now() - LEASE)
            yield

    def writers(self) -> list[Writer]:
        """The processes that are writing here at this moment."""
        return writers(inside(self.root, WRITERS).parent)

    def begin(self, description: dict[str, Any], planned: Sequence[dict[str, Any]]) -> None:
        """Record what is to be run: `sweep.yaml` and the plan, one row a run."""
        text = f"# Written by ntkrun: the config with every default, and what ran it.\n{dump(description)}"
        replace_file(self.root / "sweep.yaml", lambda path: path.write_text(text, encoding="utf-8"))
        replace_file(self.root / "plan.parquet", lambda path: _to_parquet(plan_frame(planned), path))

    def commit(self, frames: dict[str, pd.DataFrame], kernels: dict[str, dict[int, np.ndarray]]) -> None:
        """Make a stack's runs finished, all at once: `frames` holds its part of each table, `kernels` maps run_id
        to step to K. Raises StoreBusy where another process has taken over."""
        with ExitStack() as ready:
            files = {}
            for run_id, of_run in kernels.items():
                path = self._kernel_file(run_id)
                files[path] = ready.enter_context(written_beside(path, partial(_to_npz, of_run)))
            folder = ready.enter_context(folder_beside(self.root / "stacks"))
            for table, frame in frames.items():
                _to_parquet(frame, folder / f"{table}.parquet")
            self._publish(files, folder, stack_name(frames["runs"]["run_id"]))

    def commit_failed(self, runs: pd.DataFrame, log: str) -> Path:
        """Record a stack that failed: its rows of `runs`, and what is known of why as a text file, whose path this
        returns."""
        with folder_beside(self.root / "stacks") as folder:
            _to_parquet(runs, folder / "runs.parquet")
            (folder / LOG).write_text(log, encoding="utf-8")
            return self._publish({}, folder, stack_name(runs["run_id"]) + FAILED) / LOG

    def _publish(self, files: dict[Path, Path], folder: Path, name: str) -> Path:
        """Flush the folder of a stack; then give its kernels (`files`, by what they are to be called) and it their
        names, its own last. Where a stack of that name is there already, it stands. Returns the stack's folder."""
        for path in folder.iterdir():
            flush(path)
        flush(folder)
        with moment(self.root):
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
        for folder in filter(_is_failed, self.stack_folders()):
            if not set(run_ids).isdisjoint(_ids(folder)):
                with moment(self.root):
                    self._lease.check()
                    doomed = folder.rename(temporary_name(folder))
                shutil.rmtree(doomed)

    def write_tables(self, anew: bool = False) -> None:
        """Make the tables from the stacks, for people and for other tools; `anew` whatever stands there."""
        self._lease.check()
        folders = self.stack_folders()
        made_from = self._made_from(folders)
        if not anew and self._from_tables(made_from) is not None:
            return
        results = self._assemble(folders, made_from)
        for table in reversed(TABLES):  # runs.parquet last: while a sweep's other tables are new, it vouches for none
            save = partial(_to_parquet, getattr(results, table), made_from=made_from.encode())
            replace_file(self._table(table), save)

    # ---------------------------------------------------------------- reading

    def finished(self) -> set[str]:
        """The ids of all runs that ended, done or diverged, of this plan or another."""
        return {run_id for folder in self.stack_folders() if not _is_failed(folder) for run_id in _ids(folder)}

    def failed(self) -> dict[str, Path]:
        """The ids of all runs that failed, of this plan or another, and where it says why."""
        failed = filter(_is_failed, self.stack_folders())
        return {run_id: folder / LOG for folder in failed for run_id in _ids(folder)}

    def plan(self) -> pd.DataFrame:
        """One row a planned run. Raises UserError if the directory holds no sweep."""
        path = inside(self.root, "plan.parquet")
        if not path.exists():
            raise UserError(f"{self.root}: no sweep here; name a directory such as results/width")
        return read_table(path, "plan")

    def description(self) -> dict[str, Any]:
        """What sweep.yaml says: of `config`, `made_by` and more."""
        return read_description(inside(self.root, "sweep.yaml"))

    def read(self) -> Results:
        """The tables, from their files if all are of the present plan and stacks, else from the stacks themselves."""
        while True:
            folders = self.stack_folders()
            made_from = self._made_from(folders)
            try:
                results = self._from_tables(made_from) or self._assemble(folders, made_from)
            except UserError:
                if all(folder.exists() for folder in folders):
                    raise
                continue  # runs that had failed were made missing while we read
            if self._made_from(folders) == made_from:  # else there is another plan by now
                return results

    def stale(self) -> str:
        """What is wrong with the tables on disk, "" where they are what the stacks make them."""
        folders = self.stack_folders()
        made_from = self._made_from(folders)
        found = self._from_tables(made_from)
        if found is None:
            return "torn, or out of date with the stacks"
        made = self._assemble(folders, made_from)
        same = all(getattr(found, table).equals(getattr(made, table)) for table in TABLES)
        return "" if same else "other numbers than the stacks hold"

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        path = self._kernel_file(run_id)
        return read_kernels(path) if path.exists() else None

    # ---------------------------------------------------------------- within

    def _table(self, name: str) -> Path:
        return inside(self.root, f"{name}.parquet")

    def _kernel_file(self, run_id: str) -> Path:
        return inside(self.root, "kernels", f"{check_id(run_id)}.npz")

    def stack_folders(self) -> list[Path]:
        """The folders of stacks that ended."""
        stacks = inside(self.root, "stacks")
        if not stacks.is_dir():
            return []
        names = sorted(folder.name for folder in stacks.iterdir() if not folder.name.startswith("."))
        return [inside(stacks, name) for name in names]

    def _made_from(self, folders: Sequence[Path]) -> str:
        """What the tables depend on: the plan and which stacks there are."""
        try:
            plan = read_bytes(inside(self.root, "plan.parquet"), LARGEST_FILE)
        except Unreadable:
            plan = b""
        digest = hashlib.sha256(ntkrun.__version__.encode() + plan)
        digest.update("\n".join(folder.name for folder in folders).encode())
        return digest.hexdigest()

    def _from_tables(self, made_from: str) -> Results | None:
        """What the tables say; None where one is of other stacks or another plan, or torn by other hands: the stacks
        have it all."""
        tables = {}
        try:
            for table in TABLES:
                tables[table], noted = read_noted(self._table(table), table)
                if noted.get(_FINGERPRINT) != made_from.encode():
                    return None
        except UserError:
            return None
        return Results(**tables, plan=self.plan(), path=self.root, made_from=made_from)

    def _assemble(self, folders: Sequence[Path], made_from: str) -> Results:
        plan = self.plan()
        parts: dict[str, list[pd.DataFrame]] = {table: [] for table in TABLES}
        taken: set[str] = set()
        for folder in sorted(folders, key=_is_failed):  # a run that was put here twice counts once, and rather finished
            found = read_stack(folder)
            own = set(found["runs"]["run_id"]) - taken
            taken |= own
            for table, part in found.items():
                parts[table].append(part[part["run_id"].isin(own)])
        order = {run_id: k for k, run_id in enumerate(plan["run_id"])}
        tables = {table: in_order(concatenated(of_table, table), order) for table, of_table in parts.items()}
        runs = plan.merge(tables["runs"], on="run_id")
        return Results(**tables | {"runs": runs}, plan=plan, path=self.root, made_from=made_from)


def stack_name(run_ids: Iterable[str]) -> str:
    """Of the stack of these runs, in this order."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


def _is_failed(folder: Path) -> bool:
    return folder.name.endswith(FAILED)


def _ids(folder: Path) -> list[str]:
    """The runs of a stack."""
    return list(read_table(inside(folder, "runs.parquet"), "stack", ["run_id"])["run_id"])


def _to_parquet(frame: pd.DataFrame, path: Path, made_from: bytes | None = None) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if made_from is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _FINGERPRINT: made_from})
    pq.write_table(table, path, compression="zstd")


def _to_npz(kernels: dict[int, np.ndarray], path: Path) -> None:
    steps = sorted(kernels)
    with path.open("wb") as file:
        np.savez(file, steps=np.array(steps), ntk=np.stack([kernels[step] for step in steps]))
