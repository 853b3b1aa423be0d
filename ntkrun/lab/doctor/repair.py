"""Putting a results directory right: nothing in it is deleted but what is nobody's result."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ntkrun.lab.doctor.directory import ASIDE, examine
from ntkrun.lab.doctor.findings import Finding
from ntkrun.lab.doctor.plans import planned
from ntkrun.lab.files import flush, inside
from ntkrun.lab.store import Store

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
