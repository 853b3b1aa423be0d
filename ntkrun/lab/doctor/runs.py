"""The finished stacks of a results directory, their runs and the kernels kept of these."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from ntkrun.errors import UserError
from ntkrun.lab.checkpoints import runs_of
from ntkrun.lab.doctor.findings import Finding, torn
from ntkrun.lab.files import inside
from ntkrun.lab.store import Store
from ntkrun.lab.stored import read_stack

REPEAT = "the next sweep runs them again"
ASIDE = "--fix moves it to set-aside"


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
                yield Finding(where, "kernels without a run", ASIDE, "aside")
            continue
        try:
            store.kernels(run_id)
        except UserError as error:
            yield torn(where, error, ASIDE)
    yield from _lost(store.plan(), finished, kept)
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
                yield Finding(where, what, ASIDE, "aside")
            else:
                yield Finding(where, what, f"move it away, and {REPEAT}")


def _checkpoints(root: Path, ended: set[str]) -> Iterator[Finding]:
    """Those that say of no run, and those of stacks that have ended since."""
    folder = inside(root, "checkpoints")
    for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
        where = f"checkpoints/{path.name}"
        runs = runs_of(path)
        if not runs:
            yield Finding(where, "no checkpoint that can be read", ASIDE, "aside")
        elif ended.intersection(runs):
            yield Finding(where, "of a stack that has ended", "--fix removes it", "remove")


def _lost(plan: pd.DataFrame, finished: pd.DataFrame, kept: Mapping[str, Path]) -> Iterator[Finding]:
    """Finished runs whose config keeps kernels, and which have none."""
    if "probes.kernels" not in plan:
        return
    wanted = plan[plan["probes.kernels"].astype(str) != "[]"]["run_id"]
    done = finished[finished["status"] == "done"]["run_id"]
    lost = sorted(set(wanted) & set(done) - set(kept))
    if lost:
        what = f"those of {len(lost)} finished runs are lost ({', '.join(lost[:3])}{', ...' * (len(lost) > 3)})"
        yield Finding("kernels", what, f"move their stacks away if you need them, and {REPEAT}")
