"""The results directory of a sweep and its files:

    sweep.yaml          the resolved config and its provenance
    plan.parquet        one row per planned run: its id, every config value, its seed
    stacks/             one folder per commit of finished stacks; the tables are made from these: stacks.py
    checkpoints/        stacks in mid-run: run/checkpoints.py
    progress.json       what a running sweep is at
    <table>.parquet     runs, steps, layers, modes, outputs: the stacks of the present plan, joined with it
    figures/            PNG and SVG, with the captions
    claims.json         the verdicts on the present plan's claims
    .locks/             who writes here: locks.py

Every file is written under a temporary name, flushed and renamed. A kill at any moment therefore leaves only complete
files, and a run is finished exactly when a folder in stacks/ has it: docs/reliability.md.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import ntkrun
from ntkrun.columns import TABLES
from ntkrun.config.yaml import dump
from ntkrun.errors import UserError
from ntkrun.files.parquet import LARGEST_FILE, save_parquet
from ntkrun.files.reading import Unreadable, read_bytes
from ntkrun.files.writing import errors_as_sentence, inside, make_folder, remove_strays, replace_file
from ntkrun.store.locks import LOCKS, WHOLE, Writer, shard_lock, writers
from ntkrun.store.readers import read_table, read_with_metadata
from ntkrun.store.results import Results as Results
from ntkrun.store.results import description_of
from ntkrun.store.stacks import Stacks, table_bytes
from ntkrun.store.tables import completed, equal, in_order, plan_frame

FOLDERS = ("stacks", "checkpoints", "kernels", "figures", LOCKS)  # kernels: of earlier versions
FINGERPRINT = b"ntkrun.made_from"


def read_results(path: str | Path) -> Results:
    """Read the results in a directory such as results/width. This is safe while a sweep is running, and nothing is
    written. Raises UserError where there is no sweep or a file is damaged.

    >>> import ntkrun
    >>> from pathlib import Path
    >>> config = "{name: tiny, network: {depth: 2, width: 8}, data: {name: circle, samples: 4}, sweep: {seeds: 2}}"
    >>> _ = Path("tiny.yaml").write_text(config)
    >>> _ = ntkrun.run_sweep(ntkrun.load_config("tiny.yaml", ["training.steps=3"]), device="cpu")
    >>> results = ntkrun.read_results("results/tiny")
    >>> print(len(results.runs), results.steps["step"].unique().tolist())
    2 [0, 1, 2, 3]
    """
    return Store(Path(path)).read()


class Store(Stacks):
    """The results directory of one sweep: its finished stacks, its plan, and the tables made of both."""

    # ---------------------------------------------------------------- writing

    @contextmanager
    def writing(self, shard: tuple[int, int] = WHOLE) -> Iterator[None]:
        """Hold the directory, or a shard of its sweep, for writing. Raises StoreBusy if another process holds it,
        UserError if it cannot be written."""
        with ExitStack() as contexts:
            try:
                make_folder(self.root)
                contexts.enter_context(shard_lock(self.root, shard))
            except OSError as error:
                why = f"cannot write results here ({error.strerror}); choose another --results"
                raise UserError(f"{self.root}: {why}") from None
            contexts.enter_context(errors_as_sentence(self.root))
            remove_strays([self.root, *(inside(self.root, name) for name in FOLDERS)])
            yield

    def writers(self) -> list[Writer]:
        """Return the processes that are writing here at this moment."""
        return writers(self.root)

    def begin(self, description: dict[str, Any], planned: Sequence[dict[str, Any]]) -> None:
        """Write `sweep.yaml` and the plan, one row per run."""
        text = f"# Written by ntkrun: the config with every default, and what ran it.\n{dump(description)}"
        replace_file(self.root / "sweep.yaml", lambda path: path.write_text(text, encoding="utf-8"))
        self.write_plan(planned)

    def write_plan(self, planned: Sequence[dict[str, Any]]) -> None:
        replace_file(self.root / "plan.parquet", partial(save_parquet, plan_frame(planned)))

    def write_tables(self, anew: bool = False) -> None:
        """Write the tables from the stacks, for people and for other tools. Do nothing if they are current, unless
        `anew` is True."""
        names = self.names()
        made_from = self._made_from(names)
        if not anew and self._from_tables(made_from, TABLES) is not None:
            return
        tables, metadata = self._assemble(names, TABLES), {FINGERPRINT: made_from.encode()}
        for table in reversed(TABLES):  # runs.parquet last: until it is new, the tables do not count as written
            replace_file(self._table(table), partial(save_parquet, tables[table], metadata=metadata))

    # ---------------------------------------------------------------- reading

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

    def _read(self, names: Collection[str]) -> tuple[str, dict[str, pd.DataFrame]]:
        """Return the fingerprint of these tables, and the tables with the plan, all from one moment."""

        def read_once(folders: list[str]) -> tuple[str, dict[str, pd.DataFrame], str]:
            made_from = self._made_from(folders)
            tables = self._from_tables(made_from, names) or self._assemble(folders, names)
            return made_from, tables, self._made_from(folders)

        while True:
            made_from, tables, made_from_afterwards = self.consistently(read_once)
            if made_from_afterwards == made_from:  # else the plan has changed meanwhile
                return made_from, tables

    def stale(self) -> str:
        """Return what is wrong with the tables on disk, "" if they agree with the stacks."""
        folders = self.names()
        stored = self._from_tables(self._made_from(folders), TABLES)
        if stored is None:
            return "damaged, or out of date with the stacks"
        expected = self._assemble(folders, TABLES)
        same = all(equal(stored[table], expected[table]) for table in TABLES)
        return "" if same else "the tables hold other numbers than the stacks"

    # ---------------------------------------------------------------- internals

    def _table(self, name: str) -> Path:
        return inside(self.root, f"{name}.parquet")

    def _made_from(self, folders: Sequence[str]) -> str:
        """Return a fingerprint of what the tables depend on: the version, the plan, and the stacks' folders by name and
        size of their tables, since a folder that somebody removed may have left its number to another."""
        try:
            plan = read_bytes(inside(self.root, "plan.parquet"), LARGEST_FILE)
        except Unreadable:
            plan = b""
        digest = hashlib.sha256(ntkrun.__version__.encode() + plan)
        sizes = (table_bytes(self.root / "stacks" / name) for name in folders)
        digest.update("\n".join(f"{name} {size}" for name, size in zip(folders, sizes, strict=True)).encode())
        return digest.hexdigest()

    def _from_tables(self, made_from: str, names: Collection[str]) -> dict[str, pd.DataFrame] | None:
        """Return these tables from their files, or None if one is damaged or belongs to other stacks or another plan.
        The stacks hold all their data."""
        tables = {}
        try:
            for name in names:
                stored, metadata = read_with_metadata(self._table(name), name)
                if metadata.get(FINGERPRINT) != made_from.encode():
                    return None
                tables[name] = completed(stored, name)
        except UserError:
            return None
        return tables | {"plan": self.plan()}

    def _assemble(self, folders: Sequence[str], names: Collection[str]) -> dict[str, pd.DataFrame]:
        plan = self.plan()
        order = {run_id: k for k, run_id in enumerate(plan["run_id"])}
        joined = self.joined(folders, ("runs", *(name for name in names if name != "runs")))
        tables = {name: in_order(frame, order) for name, frame in joined.items()}
        return tables | {"runs": plan.merge(tables["runs"], on="run_id"), "plan": plan}
