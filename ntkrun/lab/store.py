"""The only owner of a sweep's paths and files.

    sweep.yaml          the resolved config and what made it
    plan.parquet        one row a planned run: its id, every config value, its seed
    stacks/<name>/      one folder a finished stack: its part of each table; the truth that the tables are made from
    checkpoints/        stacks in mid-run: checkpoints.py
    kernels/<id>.npz    whole kernels of a run: `steps` (K,), `ntk` (K, N, N, O, O)
    <table>.parquet     runs, steps, layers, modes, outputs: the stacks of the present plan, joined with it
    figures/            PNG and SVG, with the captions
    claims.json         the verdicts on the present plan's claims

Every file is written under a temporary name, flushed and renamed; a stack's folder is renamed as a whole once it is
complete. So a kill at any moment leaves whole files, and a run is finished exactly when its stack's folder is there.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import ntkrun
from ntkrun.errors import StoreBusy, UserError
from ntkrun.lab.files import TEMPORARY, flush, inside, replace_file, sentence_for
from ntkrun.lab.stored import check_id, read_description, read_kernels, read_stack, read_table
from ntkrun.lab.tables import TABLES, completed
from ntkrun.lab.yaml_reader import dump
from ntkrun.parquet import LARGEST_FILE, read_metadata
from ntkrun.reading import Unreadable, read_bytes, read_json

FOLDERS = ("stacks", "checkpoints", "kernels", "figures")
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
        captions_file = inside(self.path, "figures", "captions.json")
        with sentence_for(captions_file):
            replace_file(captions_file, lambda path: path.write_text(text, encoding="utf-8"))

    def config(self) -> dict[str, Any]:
        """The resolved config that the sweep was last run with."""
        return dict(Store(self.path).description()["config"])

    def write_claims(self, text: str) -> None:
        """Store the verdicts on these tables as claims.json; nothing is written where they stand there already, so that
        a directory which may only be read can be judged."""
        path = inside(self.path, "claims.json")
        with sentence_for(path):
            if _stands_in(path, text):
                return
            replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def figures_are_current(self) -> bool:
        """Whether every figure was drawn from these very tables."""
        try:
            drawn = read_json(inside(self.path, "figures", "captions.json"), LARGEST_TEXT)
        except (Unreadable, UserError):
            return False
        return isinstance(drawn, dict) and drawn.get("made_from") == self.made_from


def read_results(path: str | Path) -> Results:
    """The results in a sweep's directory, as in `read_results("results/width")`. Reads only; safe while a sweep is
    running."""
    return Store(Path(path)).read()


class Store:
    """The results directory of one sweep."""

    def __init__(self, root: Path):
        self.root = root

    # ---------------------------------------------------------------- writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the directory for writing. Raises StoreBusy if another process does, UserError if it cannot be
        written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.root / ".lock")
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreBusy(
                f"{self.root}: another ntkrun process is writing here; wait for it or choose --results"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.root}: cannot write results here ({error.strerror}); choose another --results"
            ) from None
        try:
            with sentence_for(self.root):
                self._sweep_temporaries()
                yield
        finally:
            lock.release()

    def busy(self) -> bool:
        """Whether a process is writing here at this moment."""
        if not (self.root / ".lock").exists():
            return False
        lock = filelock.FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:
            return False  # a directory that may only be read: nobody like us writes there
        lock.release()
        return False

    def begin(self, description: dict[str, Any], planned: Sequence[dict[str, Any]]) -> None:
        """Record what is to be run: `sweep.yaml` and the plan, one row a run."""
        replace_file(self.root / "plan.parquet", lambda path: _to_parquet(_plan_frame(planned), path))
        text = "# Written by ntkrun: the config with every default, and what ran it.\n" + dump(description)
        replace_file(self.root / "sweep.yaml", lambda path: path.write_text(text, encoding="utf-8"))

    def commit(self, frames: dict[str, pd.DataFrame], kernels: dict[str, dict[int, np.ndarray]]) -> None:
        """Make a stack's runs finished, all at once: `frames` holds its part of each table, `kernels` maps run_id
        to step to K."""
        for run_id, of_run in kernels.items():
            replace_file(self._kernel_file(run_id), lambda path, of_run=of_run: _to_npz(of_run, path))  # type: ignore[misc]
        with self._new_folder(stack_name(frames["runs"]["run_id"])) as folder:
            for table, frame in frames.items():
                _to_parquet(frame, folder / f"{table}.parquet")

    def commit_failed(self, runs: pd.DataFrame, log: str) -> Path:
        """Record a stack that failed: its rows of `runs`, and what is known of why as a text file, whose path this
        returns."""
        with self._new_folder(name := stack_name(runs["run_id"]) + FAILED) as folder:
            _to_parquet(runs, folder / "runs.parquet")
            (folder / LOG).write_text(log, encoding="utf-8")
        return self.root / "stacks" / name / LOG

    @contextmanager
    def _new_folder(self, name: str) -> Iterator[Path]:
        """A folder of stacks/ that appears whole or not at all, with what is put into it within."""
        stacks = self.root / "stacks"
        folder = stacks / f"{TEMPORARY}{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        yield folder
        for path in folder.iterdir():
            flush(path)
        flush(folder)
        folder.rename(stacks / name)
        flush(stacks)

    def write_tables(self, anew: bool = False) -> None:
        """Make the tables from the stacks, for people and for other tools; `anew` whatever stands there."""
        made_from = self._made_from()
        if self._tables_made_from() == made_from and not anew:
            return
        results = self._assemble()
        for table in reversed(TABLES):  # runs.parquet last: its fingerprint vouches for all
            frame = getattr(results, table)
            replace_file(self._table(table), lambda path, frame=frame: _to_parquet(frame, path, made_from))  # type: ignore[misc]

    # ---------------------------------------------------------------- reading

    def finished(self) -> set[str]:
        """The ids of all runs that need not run again, of this plan or another."""
        return {
            run_id
            for folder in self.stack_folders()
            for run_id in read_table(inside(folder, "runs.parquet"), "stack", ["run_id"])["run_id"]
        }

    def plan(self) -> pd.DataFrame:
        """One row a planned run. Raises UserError if the directory holds no sweep."""
        path = inside(self.root, "plan.parquet")
        if not path.exists():
            raise UserError(f"{self.root}: no sweep here; name a directory such as results/width")
        return read_table(path, "plan")

    def description(self) -> dict[str, Any]:
        """What sweep.yaml says."""
        return read_description(inside(self.root, "sweep.yaml"))

    def read(self) -> Results:
        """The tables, from their files if these are up to date with the stacks, else from the stacks."""
        self.plan()
        return self._from_tables() or self._assemble()

    def stale(self) -> str:
        """What is wrong with the tables on disk, "" where they are what the stacks make them."""
        found = self._from_tables()
        if found is None:
            return "torn, or out of date with the stacks"
        made = self._assemble()
        return (
            "" if all(getattr(found, table).equals(getattr(made, table)) for table in TABLES) else "not of the stacks"
        )

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        path = self._kernel_file(run_id)
        return read_kernels(path) if path.exists() else None

    # ---------------------------------------------------------------- within

    def _table(self, name: str) -> Path:
        return inside(self.root, f"{name}.parquet")

    def _kernel_file(self, run_id: str) -> Path:
        return inside(self.root, "kernels", f"{check_id(run_id)}.npz")

    def stack_folders(self) -> list[Path]:
        """The folders of finished stacks."""
        stacks = inside(self.root, "stacks")
        if not stacks.is_dir():
            return []
        return sorted(folder for folder in stacks.iterdir() if not folder.name.startswith("."))

    def _sweep_temporaries(self) -> None:
        """Remove what a killed process left under temporary names; nobody else writes while we hold the lock."""
        for folder in (self.root, *(inside(self.root, name) for name in FOLDERS)):
            for stray in folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(stray) if stray.is_dir() and not stray.is_symlink() else stray.unlink()

    def _made_from(self) -> bytes:
        """What the tables depend on: the plan and which stacks there are."""
        digest = hashlib.sha256(ntkrun.__version__.encode() + self._plan_bytes())
        digest.update("\n".join(folder.name for folder in self.stack_folders()).encode())
        return digest.hexdigest().encode()

    def _plan_bytes(self) -> bytes:
        try:
            return read_bytes(inside(self.root, "plan.parquet"), LARGEST_FILE)
        except Unreadable:
            return b""

    def _tables_made_from(self) -> bytes | None:
        if not all(self._table(table).exists() for table in TABLES):
            return None
        try:
            found = {read_metadata(self._table(table)).get(_FINGERPRINT) for table in TABLES}
        except Unreadable:
            return None  # torn by other hands: the stacks have it all
        return found.pop() if len(found) == 1 else None

    def _from_tables(self) -> Results | None:
        """What the tables on disk say; None where they are out of date with the stacks, or torn by other hands: the
        stacks have it all."""
        if self._tables_made_from() != self._made_from():
            return None
        try:
            return self._results({table: read_table(self._table(table), table) for table in TABLES})
        except UserError:
            return None

    def _assemble(self) -> Results:
        plan = self.plan()
        folders = self.stack_folders()
        stacks = [read_stack(folder) for folder in folders]
        tables = {table: _concatenated([stack.get(table) for stack in stacks], table) for table in TABLES}
        runs = plan.merge(tables["runs"].drop_duplicates("run_id"), on="run_id") if folders else plan.iloc[:0]
        order = {run_id: k for k, run_id in enumerate(plan["run_id"])}
        return self._results({table: _in_order(frame, order) for table, frame in tables.items()} | {"runs": runs})

    def _results(self, tables: dict[str, pd.DataFrame]) -> Results:
        return Results(**tables, plan=self.plan(), path=self.root, made_from=self._made_from().decode())


def stack_name(run_ids: Iterable[str]) -> str:
    """Of the stack of these runs, in this order."""
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


def _plan_frame(planned: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A column that holds text for some runs and numbers for others becomes text: a table's column has one type."""
    frame = pd.DataFrame(planned)
    for name in frame.columns:
        kinds = {type(value) for value in frame[name].dropna()}
        if str in kinds and len(kinds) > 1:
            frame[name] = [
                value if value is None or isinstance(value, str) else json.dumps(value) for value in frame[name]
            ]
    return frame


def _concatenated(parts: list[pd.DataFrame | None], table: str) -> pd.DataFrame:
    present = [part for part in parts if part is not None] or [pd.DataFrame({"run_id": pd.Series(dtype=str)})]
    filled = [part for part in present if len(part)]  # empty ones have no say in a column's type
    return completed(pd.concat(filled or present, ignore_index=True), table)


def _in_order(frame: pd.DataFrame, order: dict[str, int]) -> pd.DataFrame:
    """The rows of planned runs, in the plan's order; within a run they are in order already."""
    rank = frame["run_id"].map(order)
    return frame[rank.notna()].iloc[np.argsort(rank[rank.notna()].to_numpy(), kind="stable")].reset_index(drop=True)


def _stands_in(path: Path, text: str) -> bool:
    try:
        return read_bytes(path, LARGEST_TEXT) == text.encode()
    except Unreadable:
        return False


def _to_parquet(frame: pd.DataFrame, path: Path, made_from: bytes | None = None) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if made_from is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _FINGERPRINT: made_from})
    pq.write_table(table, path, compression="zstd")


def _to_npz(kernels: dict[int, np.ndarray], path: Path) -> None:
    steps = sorted(kernels)
    with path.open("wb") as file:
        np.savez(file, steps=np.array(steps), ntk=np.stack([kernels[step] for step in steps]))
