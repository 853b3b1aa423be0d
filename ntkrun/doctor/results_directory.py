"""Examine and repair a results directory. Each finding is one line."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ntkrun.columns import TABLES
from ntkrun.config.reader import parse_config
from ntkrun.config.yaml import dump
from ntkrun.errors import UserError
from ntkrun.files import disk
from ntkrun.files.reading import Unreadable, read_json
from ntkrun.files.writing import TEMPORARY, inside, make_folder, remove_tree, writer_is_dead
from ntkrun.plan.runs import plan, run_row
from ntkrun.run.checkpoints import run_ids_in
from ntkrun.store.progress import is_progress
from ntkrun.store.readers import read_kernels, read_stack
from ntkrun.store.results import LARGEST_TEXT
from ntkrun.store.results_directory import FOLDERS, Store

# How a finding is repaired: `remove` something that is not a result, `aside`: move it to set-aside/, `plan` or
# `tables`: rewrite them, `yours`: only the user can. A `note` is no fault.
Cure = Literal["remove", "aside", "plan", "tables", "yours", "note"]


@dataclass(frozen=True)
class Finding:
    """A finding: where it is (a path in the results directory, or a part of the machine), what is wrong, what to do."""

    where: str
    what: str
    todo: str
    cure: Cure = "yours"

    @property
    def wrong(self) -> bool:
        return self.cure != "note"

    def line(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.todo}" if self.todo else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def torn(where: str, error: Exception, todo: str, cure: Cure = "aside") -> Finding:
    """Return the finding for a file that cannot be read: the reader's error without the path before it and the advice
    after it."""
    what = str(error).rpartition(f"{where}: ")[2].partition("; ")[0]
    return Finding(where, what, todo, cure)


# ---------------------------------------------------------------- directory


ASIDE = "set-aside"
FILES = ("sweep.yaml", "plan.parquet", "claims.json", "report.html", *(f"{table}.parquet" for table in TABLES))
EARLIER = (".lock", ".packing", ".writers")  # locks of earlier versions, which nobody needs
LONG = 24 * 3600.0  # seconds without a change after which a temporary file of another machine counts as abandoned
AGAIN = "run the sweep again to rewrite it"
MOVED_ASIDE = "--fix moves it to set-aside"


def examine(root: Path) -> list[Finding]:
    """Return all findings in a sweep's directory, in the order in which they are best repaired. Raises UserError where
    there is no sweep."""
    if not (root / "plan.parquet").exists() and not (root / "stacks").is_dir():
        raise UserError(f"{root}: no sweep here; name a directory such as results/width")
    if links := list(_links(root)):
        return links  # they are not followed, so nothing else is read
    store = Store(root)
    busy = [Finding(".", "a process is writing here now", "check again when it has ended", "note")]
    findings = busy if store.writers() else [*_strays(root), *_checkpoints(store)]
    findings += [*_unknown_files(root), *_documents(root), *_stacks(store)]
    return findings if any(finding.wrong for finding in findings) else [*findings, *_tables(store)]


def _links(root: Path) -> Iterator[Finding]:
    for folder, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = Path(folder, name).relative_to(root)
            try:
                inside(root, str(path))
            except UserError:
                yield Finding(str(path), "a link out of the directory", "put the file itself there, or remove it")


def _strays(root: Path) -> Iterator[Finding]:
    """Yield the temporary files that nobody is writing any more."""
    for path in sorted(root.rglob(f"{TEMPORARY}*")):
        where = str(path.relative_to(root))
        if ASIDE in path.relative_to(root).parts:
            continue
        if writer_is_dead(path) or time.time() - path.lstat().st_mtime > LONG:
            yield Finding(where, "left by a killed process", "--fix removes it", "remove")
        else:
            yield Finding(where, "being written, or left by a process of another machine", "look again later", "note")


def _unknown_files(root: Path) -> Iterator[Finding]:
    """Yield the files that ntkrun did not write, and a note if set-aside/ holds anything."""
    for path in sorted(root.iterdir()):
        known = (*FOLDERS, *EARLIER, ASIDE) if path.is_dir() else (*FILES, *EARLIER)
        if path.name not in known and not is_progress(path.name) and not path.name.startswith(TEMPORARY):
            yield Finding(path.name, "not an ntkrun file", "it is left alone", "note")
    aside = root / ASIDE
    if aside.is_dir() and (count := len(list(aside.iterdir()))):
        yield Finding(ASIDE, f"holds {count} damaged items", "delete it if you need none of them", "note")


def _documents(root: Path) -> Iterator[Finding]:
    """Yield what is wrong with the config, the plan, the verdicts and the captions."""
    store = Store(root)
    try:
        store.description()
    except UserError as error:
        yield torn("sweep.yaml", error, AGAIN, "yours")
    try:
        store.plan()
    except UserError as error:
        yield _torn_plan(store, error)
    for name, command in (("claims.json", "claims"), ("figures/captions.json", "plot")):
        path = inside(root, name)
        try:
            if path.exists():
                read_json(path, LARGEST_TEXT)
        except Unreadable as error:
            yield torn(name, error, f"--fix moves it aside, and `ntkrun {command}` rewrites it")


def _torn_plan(store: Store, error: UserError) -> Finding:
    finding = torn("plan.parquet", error, AGAIN, "yours")
    if not (store.root / "plan.parquet").exists():
        finding = replace(finding, what="is missing")
    try:
        planned(store)
    except UserError:
        return finding
    return replace(finding, todo="--fix recreates it from sweep.yaml", cure="plan")


def _tables(store: Store) -> list[Finding]:
    """Return a finding if the tables do not agree with the stacks and the plan."""
    what = store.stale()
    return [Finding("runs.parquet", what, "--fix rewrites the tables", "tables")] if what else []


def _stacks(store: Store) -> Iterator[Finding]:
    """Yield the stacks and the kept kernels that cannot be read."""
    for folder in store.stack_folders():
        try:
            read_stack(folder)
        except UserError as error:
            if os.path.lexists(folder):  # else it has just been merged
                yield torn(f"stacks/{folder.name}", error, f"{MOVED_ASIDE}, and the next sweep repeats its runs")
    for path in sorted([*store.root.glob("stacks/[!.]*/kernels/[!.]*.npz"), *store.root.glob("kernels/[!.]*.npz")]):
        where = str(path.relative_to(store.root))
        try:
            read_kernels(path)
        except UserError as error:
            if os.path.lexists(path):
                yield torn(where, error, MOVED_ASIDE)


def _checkpoints(store: Store) -> Iterator[Finding]:
    """Yield checkpoints that cannot be read and checkpoints of stacks that have ended."""
    try:
        ended = store.finished() | store.failed().keys()
    except UserError:  # a stack that cannot be read is another finding
        return
    for path in sorted(store.root.glob("checkpoints/[!.]*")):
        where = f"checkpoints/{path.name}"
        runs = run_ids_in(path)
        if not runs:
            yield Finding(where, "not a readable checkpoint", MOVED_ASIDE, "aside")
        elif ended.intersection(runs):
            yield Finding(where, "of a stack that has ended", "--fix removes it", "remove")


# ---------------------------------------------------------------- plans


def planned(store: Store) -> list[dict[str, Any]]:
    """Return the rows of plan.parquet, one per run. Raises UserError where sweep.yaml cannot be read, is not a config
    of this version, or does not match its recorded hash and number of runs."""
    description = store.description()
    sweep = parse_config(dump(description["config"]), "sweep.yaml")
    runs = plan(sweep)
    if (sweep.hash, len(runs)) != (description.get("config_hash"), description.get("runs")):
        raise UserError(f"{store.root / 'sweep.yaml'}: its config does not match its config_hash and runs")
    return [run_row(run) for run in runs]


# ---------------------------------------------------------------- repair


ROUNDS = 3  # a repair may reveal further findings: tables of damaged stacks, kernels of stacks that were moved aside


def repair(root: Path, findings: Sequence[Finding]) -> list[Finding]:
    """Repair what can be repaired, and return the findings that remain. A directory without repairable findings is not
    touched. Raises StoreBusy while a process writes in the directory."""
    for _ in range(ROUNDS):
        repairable = [finding for finding in findings if finding.cure not in ("yours", "note")]
        if not repairable:
            break
        _repair_once(root, repairable)
        findings = examine(root)
    return list(findings)


def _repair_once(root: Path, findings: Sequence[Finding]) -> None:
    store = Store(root)
    with store.writing():
        for finding in findings:
            if finding.cure == "remove":
                remove_tree(inside(root, finding.where))  # opening the store may have removed it already
            elif finding.cure == "aside":
                _move_aside(root, finding.where)
            elif finding.cure == "plan":
                rows = planned(store)
                _move_aside(root, finding.where)
                store.write_plan(rows)
        if any(finding.cure == "tables" for finding in findings):
            store.write_tables(anew=True)


def _move_aside(root: Path, where: str) -> None:
    """Move a file or folder into set-aside/ under a free name."""
    folder = inside(root, ASIDE)
    make_folder(folder)
    name, number = where.replace("/", "-"), 0
    while (target := folder / (f"{name}.{number}" if number else name)).exists():
        number += 1
    path = inside(root, where)
    if os.path.lexists(path):
        disk.rename(path, target)
        disk.flush(folder)
