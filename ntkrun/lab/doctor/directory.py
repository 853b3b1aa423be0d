"""A results directory from its top to its last file: what is torn, stray, foreign, doubled or out of date.

Reading only, so that a directory of any origin, or one that may only be read, can be looked at.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ntkrun.errors import UserError
from ntkrun.lab.doctor.findings import Finding, torn
from ntkrun.lab.doctor.plans import planned
from ntkrun.lab.doctor.runs import runs_and_kernels, stacks_of
from ntkrun.lab.files import TEMPORARY, inside
from ntkrun.lab.lease import dead
from ntkrun.lab.results import LARGEST_TEXT
from ntkrun.lab.store import FOLDERS, Store
from ntkrun.lab.tables import TABLES
from ntkrun.reading import Unreadable, read_json

ASIDE = "set-aside"
FILES = (
    "sweep.yaml",
    "plan.parquet",
    "claims.json",
    "report.html",
    ".lock",
    ".packing",
    *(f"{table}.parquet" for table in TABLES),
)
FRESH = 60.0  # seconds: no single file takes longer to write
AGAIN = "run the sweep again to write it anew"


def examine(root: Path) -> list[Finding]:
    """Everything odd in a sweep's directory, in the order in which it is best put right. Raises UserError where there
    is no sweep."""
    if not (root / "plan.parquet").exists() and not (root / "stacks").is_dir():
        raise UserError(f"{root}: no sweep here; name a directory such as results/width")
    if links := list(_links(root)):
        return links  # nothing is read through them
    store = Store(root)
    busy = bool(store.writers())
    found = [*_strays(root, busy), *_foreign(root), *_texts(root)]
    stacks, of_stacks = stacks_of(root)
    found += of_stacks
    if not any(finding.where == "plan.parquet" for finding in found):
        found += runs_and_kernels(store, stacks, busy)
    return found + (_tables(store) if not any(finding.wrong for finding in found) else _tables_after(found))


def _links(root: Path) -> Iterator[Finding]:
    for folder, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = Path(folder, name).relative_to(root)
            try:
                inside(root, str(path))
            except UserError:
                yield Finding(str(path), "a link out of the directory", "put the file itself there, or remove it")


def _strays(root: Path, busy: bool) -> Iterator[Finding]:
    """What a killed process left under temporary names, of a live one nothing."""
    if busy:
        yield Finding(".", "a process is writing here now", "look again when it has ended", "note")
        return
    for path in sorted(root.rglob(f"{TEMPORARY}*")):
        where = str(path.relative_to(root))
        if time.time() - path.lstat().st_mtime < FRESH:  # plot and claims write without a lease
            yield Finding(where, "being written, or just left by a killed process", "look again in a minute", "note")
        elif ASIDE not in path.relative_to(root).parts:
            yield Finding(where, "left by a killed process", "--fix removes it", "remove")
    for path in dead(root):
        yield Finding(str(path.relative_to(root)), "the lease of a process that is dead", "--fix removes it", "remove")


def _foreign(root: Path) -> Iterator[Finding]:
    for path in sorted(root.iterdir()):
        known = (*FOLDERS, ASIDE) if path.is_dir() else FILES
        if path.name not in known and not path.name.startswith(TEMPORARY):
            yield Finding(path.name, "not a file of ntkrun's", "it is left alone", "note")
    aside = root / ASIDE
    if aside.is_dir() and (count := len(list(aside.iterdir()))):
        yield Finding(ASIDE, f"holds {count} torn or doubled things", "remove it when nothing in it is missed", "note")


def _texts(root: Path) -> Iterator[Finding]:
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
            yield torn(name, error, f"--fix moves it aside, and `ntkrun {command}` writes it anew")


def _torn_plan(store: Store, error: UserError) -> Finding:
    found = torn("plan.parquet", error, AGAIN, "yours")
    if not (store.root / "plan.parquet").exists():
        found = replace(found, what="is missing")
    try:
        planned(store)
    except UserError:
        return found
    return replace(found, todo="--fix makes it anew from sweep.yaml", cure="plan")


def _tables(store: Store) -> list[Finding]:
    """Whether the tables are what the stacks and the plan make them."""
    what = store.stale()
    return [Finding("runs.parquet", what, "--fix writes the tables anew", "tables")] if what else []


def _tables_after(found: list[Finding]) -> list[Finding]:
    """Tables made of torn or doubled stacks are written again with whatever is left, once there is a plan."""
    if any(finding.where == "plan.parquet" and finding.wrong for finding in found) or not any(
        finding.cure in ("aside", "packed") and finding.where.startswith("stacks") for finding in found
    ):
        return []
    return [Finding("runs.parquet", "made of what is torn or doubled", "--fix writes the tables anew", "tables")]
