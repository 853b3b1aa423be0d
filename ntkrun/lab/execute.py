"""Plan minus store -> engine -> store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkrun.lab.budget import bytes_for, stacks_within
from ntkrun.lab.config import Sweep
from ntkrun.lab.costs import Estimate, estimates
from ntkrun.lab.devices import resolve_device
from ntkrun.lab.engines.opening import Asked, opened
from ntkrun.lab.loop import Loop
from ntkrun.lab.plan import Run, Stack, columns, plan
from ntkrun.lab.profile import Profile
from ntkrun.lab.shards import Shard, finer, runs_of
from ntkrun.lab.store import Results, Store
from ntkrun.lab.tasks import notes_on
from ntkrun.lab.watch import Nobody, Watch


@dataclass(frozen=True)
class Outlook:
    """What a sweep would do: its runs, those of them that are still missing and what each grid point of theirs will
    take, and what the data have to say."""

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    path: Path

    def as_json(self) -> dict[str, Any]:
        return {
            "results": str(self.path),
            "runs": len(self.runs),
            "missing": [columns(run) for run in self.missing],
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "notes": list(self.notes),
        }


def run_sweep(
    sweep: Sweep,
    results: str | Path = "results",
    device: str = "auto",
    watch: Watch | None = None,
    memory: float | None = None,
    profile: Profile | None = None,
    asked: Asked | None = None,
    shard: Shard | None = None,
) -> Results:
    """Run what is missing of a sweep into `results`/<name>, and return its tables.

    Runs that are finished there are never run again. An interrupt keeps every finished stack. Runs are stacked within
    `memory` GiB (None: three quarters of what is free); a stack that does not fit after all is halved. `profile` is
    told where the time went. Raises UserError for a device that is not there, a directory that cannot be written or is
    in use, data that cannot be had, and a network that does not fit.
    """
    watch, store, runs = watch or Nobody(), Store(Path(results) / sweep.name), plan(sweep)
    with opened(asked or Asked(), device, watch.state, timed=profile is not None) as on:
        budget = bytes_for(on.memory if memory is None else memory, on.device)

        def stacked(finished: set[str]) -> list[Stack]:
            mine = runs if shard is None else runs_of(shard, runs)
            stacks = stacks_within((run for run in mine if run.run_id not in finished), budget, on.device)
            return stacks if on.workers == 1 else finer(stacks, on.workers)

        stacked(store.finished())  # what does not fit is said before anything is written
        with store.writing():
            finished = store.finished()
            missing = stacked(finished)
            store.begin(_description(sweep, runs, on.made_by), [columns(run) for run in runs])
            watch.begins(missing, sum(run.run_id in finished for run in runs))
            try:
                Loop(store, watch, profile, on.made_by, budget).through(on.engine, missing)
            finally:
                store.write_tables()
    return store.read()


def outlook(
    sweep: Sweep, results: str | Path = "results", device: str = "auto", memory: float | None = None
) -> Outlook:
    """What `run_sweep` would do, without doing it."""
    where = resolve_device(device)
    runs = plan(sweep)
    path = Path(results) / sweep.name
    finished = Store(path).finished()
    missing = tuple(run for run in runs if run.run_id not in finished)
    ahead = estimates(stacks_within(missing, bytes_for(memory, where), where), where)
    return Outlook(runs, missing, tuple(ahead), notes_on(runs), path)


def _description(sweep: Sweep, runs: Sequence[Run], made_by: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": dict(sweep.resolved),
        "config_hash": sweep.hash,
        "runs": len(runs),
        "notes": list(notes_on(runs)),
        "made_by": made_by,
    }
