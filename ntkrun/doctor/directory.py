"""What the doctor finds, a line each."""

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
from ntkrun.store.directory import FOLDERS, Store
from ntkrun.store.lock import dead_writers
from ntkrun.store.readers import read_stack
from ntkrun.store.results import LARGEST_TEXT
from ntkrun.store.tables import TABLES

# How a finding is put right: by removing what is nobody's result, or what a pack holds too, by moving it to set-aside/,
# by making the plan or the tables anew; or by the user alone. A note is nothing wrong.
Cure = Literal["remove", "packed", "aside", "plan", "tables", "yours", "note"]


@dataclass(frozen=True)
class Finding:
    """`where` (a path within the results directory, or the machine), what is wrong there, and what to do."""

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
    """A file that cannot be read, by what its reader said: its sentence without the path before it and the cure after
    it."""
    said = str(error).rpartition(f"{where}: ")[2].partition("; ")[0]
    return Finding(where, said, todo, cure)


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
    for path in dead_writers(root):
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


# ---------------------------------------------------------------- runs


REPEAT = "the next sweep runs them again"
MOVED_ASIDE = "--fix moves it to set-aside"


def stacks_of(root: Path) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """The runs of each stack that can be read, by its folder's name, and what is wrong with the others."""
    whole, found = {}, []
    for folder in Store(root).stack_folders():
        where = f"stacks/{folder.name}"
        try:
            tables = read_stack(folder)
        except UserError as error:
            found.append(torn(where, error, f"{ASIDE}, and {REPEAT}"))
            continue
        whole[folder.name] = tables["runs"]
    return whole, found


def runs_and_kernels(store: Store, stacks: Mapping[str, pd.DataFrame], busy: bool) -> Iterator[Finding]:
    """Runs that were committed twice; kernels without a run, torn ones, and those that are lost."""
    twice = {folder.name for folder in store.packed_twice()}
    if twice and not busy:
        what = f"{len(twice)} of them are in a pack too: a process was killed while it packed them"
        yield Finding("stacks", what, "--fix removes the small ones", "packed")
    yield from _doubled({name: frame for name, frame in stacks.items() if name not in twice})
    finished = pd.concat([frame[["run_id", "status"]] for frame in stacks.values()]) if stacks else _NONE
    kept = {path.stem: path for path in _kernel_files(store.root)}
    for run_id, path in kept.items():
        where = f"kernels/{path.name}"
        if run_id not in set(finished["run_id"]):
            if not busy:  # else it may be of the stack that is being written
                yield Finding(where, "kernels without a run", MOVED_ASIDE, "aside")
            continue
        try:
            store.kernels(run_id)
        except UserError as error:
            yield torn(where, error, MOVED_ASIDE)
    yield from _lost_kernels(store.plan(), finished, kept)
    if not busy:
        yield from _checkpoints(store.root, set(finished["run_id"]))


def _kernel_files(root: Path) -> list[Path]:
    kernels = inside(root, "kernels")
    return sorted(kernels.glob("[!.]*.npz")) if kernels.is_dir() else []


_NONE = pd.DataFrame({"run_id": [], "status": []})


def _doubled(stacks: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    """Of stacks that share runs, one that has nothing of its own is moved aside; others are for a person to choose."""
    left = {name: set(frame["run_id"]) for name, frame in stacks.items() if (frame["status"] != "failed").any()}
    for name in sorted(left):
        others = set().union(*(ids for other, ids in left.items() if other != name))
        if shared := left[name] & others:
            where, what = f"stacks/{name}", f"{len(shared)} of its runs are in another stack too"
            if left[name] <= others:
                del left[name]
                yield Finding(where, what, MOVED_ASIDE, "aside")
            else:
                yield Finding(where, what, f"move it away, and {REPEAT}")


def _checkpoints(root: Path, ended: set[str]) -> Iterator[Finding]:
    """Those that say of no run, and those of stacks that have ended since."""
    folder = inside(root, "checkpoints")
    for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
        where = f"checkpoints/{path.name}"
        runs = run_ids_in(path)
        if not runs:
            yield Finding(where, "no checkpoint that can be read", MOVED_ASIDE, "aside")
        elif ended.intersection(runs):
            yield Finding(where, "of a stack that has ended", "--fix removes it", "remove")


def _lost_kernels(plan: pd.DataFrame, finished: pd.DataFrame, kept: Mapping[str, Path]) -> Iterator[Finding]:
    """Finished runs whose config keeps kernels, and which have none."""
    if "probes.kernels" not in plan:
        return
    wanted = plan[plan["probes.kernels"].astype(str) != "[]"]["run_id"]
    done = finished[finished["status"] == "done"]["run_id"]
    lost = sorted(set(wanted) & set(done) - set(kept))
    if lost:
        what = f"those of {len(lost)} finished runs are lost ({', '.join(lost[:3])}{', ...' * (len(lost) > 3)})"
        yield Finding("kernels", what, f"move their stacks away if you need them, and {REPEAT}")


# ---------------------------------------------------------------- plans


def planned(store: Store) -> list[dict[str, Any]]:
    """The rows of plan.parquet, one a run. Raises UserError where sweep.yaml cannot be read, is no config of this
    version, or not the one that its hash and its number of runs are of."""
    said = store.description()
    sweep = parse_config(dump(said["config"]), "sweep.yaml")
    runs = plan(sweep)
    if (sweep.hash, len(runs)) != (said.get("config_hash"), said.get("runs")):
        raise UserError(f"{store.root / 'sweep.yaml'}: its config is not the one that its hash is of")
    return [run_row(run) for run in runs]


# ---------------------------------------------------------------- repair


ROUNDS = 3  # what is put right may show what lay beneath: tables of torn stacks, kernels of stacks moved aside


def repair(root: Path, found: Sequence[Finding]) -> list[Finding]:
    """Put right what can be, and return what is left. Raises StoreBusy while a process writes there; a directory with
    nothing to put right is not touched."""
    for _ in range(ROUNDS):
        ours = [finding for finding in found if finding.cure not in ("yours", "note")]
        if not ours:
            break
        _round(root, ours)
        found = examine(root)
    return list(found)


def _round(root: Path, ours: Sequence[Finding]) -> None:
    store = Store(root)
    with store.writing():
        for finding in ours:
            if finding.cure == "remove":
                _remove(inside(root, finding.where))
            elif finding.cure == "aside":
                _aside(root, finding.where)
            elif finding.cure == "packed":
                store.tidy()
            elif finding.cure == "plan":
                rows = planned(store)
                _aside(root, finding.where)
                store.write_plan(rows)
        if any(finding.cure == "tables" for finding in ours):
            store.write_tables(anew=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)  # the store, as it opens for writing, sweeps temporaries too


def _aside(root: Path, where: str) -> None:
    """Into set-aside/, under a name that is free."""
    folder = inside(root, ASIDE)
    folder.mkdir(exist_ok=True)
    name, number = where.replace("/", "-"), 0
    while (target := folder / (f"{name}.{number}" if number else name)).exists():
        number += 1
    path = inside(root, where)
    if os.path.lexists(path):
        path.rename(target)
        flush(folder)
