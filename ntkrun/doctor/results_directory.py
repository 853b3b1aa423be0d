"""Examine and repair a results directory. Each finding is one line."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ntkrun.config.reader import parse_config
from ntkrun.config.yaml import dump
from ntkrun.errors import UserError
from ntkrun.files.reading import Unreadable, read_json
from ntkrun.files.writing import TEMPORARY, flush, inside
from ntkrun.plan.runs import plan, run_row
from ntkrun.run.checkpoints import run_ids_in
from ntkrun.store.lock import dead_writers
from ntkrun.store.readers import read_stack
from ntkrun.store.results import LARGEST_TEXT
from ntkrun.store.results_directory import FOLDERS, Store
from ntkrun.store.tables import TABLES

# How a finding is repaired: `remove` something that is not a result, `packed`: remove stacks that a pack holds too,
# `aside`: move it to set-aside/, `plan` or `tables`: rewrite them, `yours`: only the user can. A `note` is no fault.
Cure = Literal["remove", "packed", "aside", "plan", "tables", "yours", "note"]


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
FILES = (
    "sweep.yaml",
    "plan.parquet",
    "claims.json",
    "report.html",
    ".lock",
    ".packing",
    *(f"{table}.parquet" for table in TABLES),
)
FRESH = 60.0  # seconds: writing a single file takes no longer
AGAIN = "run the sweep again to rewrite it"


def examine(root: Path) -> list[Finding]:
    """Return all findings in a sweep's directory, in the order in which they are best repaired. Raises UserError where
    there is no sweep."""
    if not (root / "plan.parquet").exists() and not (root / "stacks").is_dir():
        raise UserError(f"{root}: no sweep here; name a directory such as results/width")
    if links := list(_links(root)):
        return links  # they are not followed, so nothing else is read
    store = Store(root)
    busy = bool(store.writers())
    findings = [*_strays(root, busy), *_unknown_files(root), *_documents(root)]
    stacks, stack_findings = stacks_of(root)
    findings += stack_findings
    if not any(finding.where == "plan.parquet" for finding in findings):
        findings += runs_and_kernels(store, stacks, busy)
    return findings + (_tables(store) if not any(finding.wrong for finding in findings) else _tables_after(findings))


def _links(root: Path) -> Iterator[Finding]:
    for folder, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = Path(folder, name).relative_to(root)
            try:
                inside(root, str(path))
            except UserError:
                yield Finding(str(path), "a link out of the directory", "put the file itself there, or remove it")


def _strays(root: Path, busy: bool) -> Iterator[Finding]:
    """Yield the temporary files of killed processes, but none while a process is writing."""
    if busy:
        yield Finding(".", "a process is writing here now", "check again when it has ended", "note")
        return
    for path in sorted(root.rglob(f"{TEMPORARY}*")):
        where = str(path.relative_to(root))
        if time.time() - path.lstat().st_mtime < FRESH:  # plot and claims write without the lock
            yield Finding(where, "being written, or just left by a killed process", "check again in a minute", "note")
        elif ASIDE not in path.relative_to(root).parts:
            yield Finding(where, "left by a killed process", "--fix removes it", "remove")
    for path in dead_writers(root):
        yield Finding(str(path.relative_to(root)), "the lock of a dead process", "--fix removes it", "remove")


def _unknown_files(root: Path) -> Iterator[Finding]:
    """Yield the files that ntkrun did not write, and a note if set-aside/ holds anything."""
    for path in sorted(root.iterdir()):
        known = (*FOLDERS, ASIDE) if path.is_dir() else FILES
        if path.name not in known and not path.name.startswith(TEMPORARY):
            yield Finding(path.name, "not an ntkrun file", "it is left alone", "note")
    aside = root / ASIDE
    if aside.is_dir() and (count := len(list(aside.iterdir()))):
        yield Finding(ASIDE, f"holds {count} damaged or duplicate items", "delete it if you need none of them", "note")


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


def _tables_after(findings: list[Finding]) -> list[Finding]:
    """Return a finding if the tables need rewriting after damaged or duplicate stacks are removed. This needs a
    plan."""
    if any(finding.where == "plan.parquet" and finding.wrong for finding in findings) or not any(
        finding.cure in ("aside", "packed") and finding.where.startswith("stacks") for finding in findings
    ):
        return []
    return [Finding("runs.parquet", "made from damaged or duplicate stacks", "--fix rewrites the tables", "tables")]


# ---------------------------------------------------------------- runs


REPEAT = "the next sweep repeats its runs"
MOVED_ASIDE = "--fix moves it to set-aside"


def stacks_of(root: Path) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """Return the runs of each stack that can be read, by its folder's name, and the findings on the others."""
    readable, findings = {}, []
    for folder in Store(root).stack_folders():
        where = f"stacks/{folder.name}"
        try:
            tables = read_stack(folder)
        except UserError as error:
            findings.append(torn(where, error, f"{MOVED_ASIDE}, and {REPEAT}"))
            continue
        readable[folder.name] = tables["runs"]
    return readable, findings


def runs_and_kernels(store: Store, stacks: Mapping[str, pd.DataFrame], busy: bool) -> Iterator[Finding]:
    """Yield runs that were committed twice, kernels that have no run, are damaged or are lost, and useless
    checkpoints."""
    packed = {folder.name for folder in store.packed_twice()}
    if packed and not busy:
        what = f"{len(packed)} of them are in a pack too: a process was killed while it packed them"
        yield Finding("stacks", what, "--fix removes the copies outside the pack", "packed")
    yield from _duplicates({name: frame for name, frame in stacks.items() if name not in packed})
    finished = pd.concat([frame[["run_id", "status"]] for frame in stacks.values()]) if stacks else _NO_RUNS
    kernels = {path.stem: path for path in _kernel_files(store.root)}
    for run_id, path in kernels.items():
        where = f"kernels/{path.name}"
        if run_id not in set(finished["run_id"]):
            if not busy:  # else it may belong to the stack that is being written
                yield Finding(where, "kernels without a run", MOVED_ASIDE, "aside")
            continue
        try:
            store.kernels(run_id)
        except UserError as error:
            yield torn(where, error, MOVED_ASIDE)
    yield from _lost_kernels(store.plan(), finished, kernels)
    if not busy:
        yield from _checkpoints(store.root, set(finished["run_id"]))


def _kernel_files(root: Path) -> list[Path]:
    kernels = inside(root, "kernels")
    return sorted(kernels.glob("[!.]*.npz")) if kernels.is_dir() else []


_NO_RUNS = pd.DataFrame({"run_id": [], "status": []})


def _duplicates(stacks: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    """Yield stacks that share runs with others. A stack without runs of its own is moved aside; the user has to choose
    among the others."""
    remaining = {name: set(frame["run_id"]) for name, frame in stacks.items() if (frame["status"] != "failed").any()}
    for name in sorted(remaining):
        runs_elsewhere = set().union(*(ids for other, ids in remaining.items() if other != name))
        if shared := remaining[name] & runs_elsewhere:
            where, what = f"stacks/{name}", f"{len(shared)} of its runs are in another stack too"
            if remaining[name] <= runs_elsewhere:
                del remaining[name]
                yield Finding(where, what, MOVED_ASIDE, "aside")
            else:
                yield Finding(where, what, f"move it away, and {REPEAT}")


def _checkpoints(root: Path, ended: set[str]) -> Iterator[Finding]:
    """Yield checkpoints that cannot be read and checkpoints of stacks that have ended."""
    folder = inside(root, "checkpoints")
    for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
        where = f"checkpoints/{path.name}"
        runs = run_ids_in(path)
        if not runs:
            yield Finding(where, "not a readable checkpoint", MOVED_ASIDE, "aside")
        elif ended.intersection(runs):
            yield Finding(where, "of a stack that has ended", "--fix removes it", "remove")


def _lost_kernels(plan: pd.DataFrame, finished: pd.DataFrame, kernels: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield a finding if finished runs have no kernels although their config keeps some."""
    if "probes.kernels" not in plan:
        return
    expected = plan[plan["probes.kernels"].astype(str) != "[]"]["run_id"]
    done = finished[finished["status"] == "done"]["run_id"]
    lost = sorted(set(expected) & set(done) - set(kernels))
    if lost:
        what = f"the kernels of {len(lost)} finished runs are lost ({', '.join(lost[:3])}{', ...' * (len(lost) > 3)})"
        yield Finding("kernels", what, "move their stacks away if you need them, and the next sweep repeats the runs")


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
                _remove(inside(root, finding.where))
            elif finding.cure == "aside":
                _move_aside(root, finding.where)
            elif finding.cure == "packed":
                store.tidy()
            elif finding.cure == "plan":
                rows = planned(store)
                _move_aside(root, finding.where)
                store.write_plan(rows)
        if any(finding.cure == "tables" for finding in findings):
            store.write_tables(anew=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)  # opening the store for writing may have removed it already


def _move_aside(root: Path, where: str) -> None:
    """Move a file or folder into set-aside/ under a free name."""
    folder = inside(root, ASIDE)
    folder.mkdir(exist_ok=True)
    name, number = where.replace("/", "-"), 0
    while (target := folder / (f"{name}.{number}" if number else name)).exists():
        number += 1
    path = inside(root, where)
    if os.path.lexists(path):
        path.rename(target)
        flush(folder)
