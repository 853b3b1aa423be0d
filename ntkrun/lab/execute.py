"""Plan minus store -> engine -> store."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkrun.lab.budget import bytes_for, stacks_within
from ntkrun.lab.config import Sweep
from ntkrun.lab.costs import Estimate, estimates
from ntkrun.lab.engines.opening import HERE, Asked, foreseen, opened
from ntkrun.lab.files import inside
from ntkrun.lab.interrupts import Interrupts
from ntkrun.lab.loop import Loop
from ntkrun.lab.plan import Run, Stack, columns, plan
from ntkrun.lab.points import check_ready
from ntkrun.lab.profile import Profile
from ntkrun.lab.shards import WHOLE_SWEEP, Shard, finer, runs_of
from ntkrun.lab.store import Results, Store
from ntkrun.lab.tasks import notes_on
from ntkrun.lab.watch import Watch


@dataclass(frozen=True)
class Outlook:
    """What a sweep would do: its runs, those of them that are still missing and what each grid point of theirs will
    take one stack after the other, what there is to be said of that, and how many workers would be at it."""

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    path: Path
    workers: int

    @property
    def seconds(self) -> float:
        """From start to end: shared out among the workers, and no less than the longest stack."""
        together = sum(each.seconds for each in self.estimates) / self.workers
        return max([together, *(each.seconds / each.stacks for each in self.estimates)])

    def as_json(self) -> dict[str, Any]:
        return {
            "results": str(self.path),
            "runs": len(self.runs),
            "missing": [columns(run) for run in self.missing],
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "workers": self.workers,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class How:
    """How missing runs are run: on which `device`, with `memory` GiB for a stack (None: three quarters of what is
    free), `profile` told where the time went, those that failed before again or not, to the first that fails or to the
    end, on the engine that was `asked` for."""

    device: str = "auto"
    memory: float | None = None
    profile: Profile | None = None
    retry_failed: bool = False
    fail_fast: bool = False
    asked: Asked = HERE


def run_sweep(
    sweep: Sweep,
    results: str | Path = "results",
    device: str = "auto",
    watch: Watch | None = None,
    memory: float | None = None,
    profile: Profile | None = None,
    retry_failed: bool = False,
    fail_fast: bool = False,
    asked: Asked | None = None,
) -> Results:
    """Run what is missing of a sweep into `results`/<name>, and return its tables.

    Runs that are finished there are never run again. An interrupt keeps every finished stack. Runs are stacked within
    `memory` GiB (None: three quarters of what is free); a stack that does not fit after all, or fails, is halved. A run
    that fails by itself is recorded as failed and left alone from then on, unless `retry_failed`; `fail_fast` ends the
    sweep there. `profile` is told where the time went. `asked`: on which engine. Raises UserError for a device or an
    engine that is not there, a directory that cannot be written or is in use, data that cannot be had, and a network
    that is known not to fit.
    """
    how = How(device, memory, profile, retry_failed, fail_fast, asked or HERE)
    run_shard(WHOLE_SWEEP, sweep, results, how, watch or Watch())
    return Store(Path(results) / sweep.name).read()


def run_shard(shard: Shard, sweep: Sweep, results: str | Path, how: How, watch: Watch) -> int:
    """The same for a shard of the sweep, while others may be at other shards. Returns how many runs of the sweep are
    still to come; the tables are written once none is."""
    store, runs, interrupts = Store(Path(results) / sweep.name), plan(sweep), Interrupts()
    mine, kept = runs_of(shard, runs), inside(store.root, "checkpoints")
    check_ready(point for point, _ in sweep.points)
    with opened(how.asked, how.device, kept, watch, interrupts, how.profile is not None) as on:
        budget = bytes_for(on.memory if how.memory is None else how.memory, on.device)

        def stacked(finished: set[str], failed: Collection[str]) -> list[Stack]:
            missing = list(_missing(mine, finished, () if how.retry_failed else failed))
            stacks = on.checkpoints.stacked(missing, budget)
            return finer(stacks, on.workers) if on.workers > 1 else stacks

        stacked(store.finished(), store.failed())  # what does not fit is said before anything is written
        with store.writing(shard, watch.waits):
            if how.retry_failed:
                store.forget_failed({run.run_id for run in mine})
            finished, failed = store.finished(), store.failed()
            missing = stacked(finished, failed)
            store.begin(_description(sweep, runs, on.made_by), [columns(run) for run in runs])
            over, without_end = (sum(run.run_id in ended for run in mine) for ended in (finished, failed))
            watch.begins(missing, over, without_end, on.workers)
            loop = Loop(store, watch, how.profile, on.made_by, budget, how.fail_fast, interrupts)
            to_come = loop.to_the_tables(on.engine, missing, lambda: _write_tables(store, shard, runs))
            on.checkpoints.remove_stale(store.finished())
    return to_come


def _write_tables(store: Store, shard: Shard, runs: Sequence[Run]) -> int:
    """The tables, but of a shard only once no run is to come; how many are."""
    to_come = len(list(_missing(runs, store.finished(), store.failed())))
    if shard == WHOLE_SWEEP or not to_come:
        store.write_tables()
    return to_come


def _missing(runs: Iterable[Run], finished: Collection[str], failed: Collection[str]) -> Iterator[Run]:
    return (run for run in runs if run.run_id not in finished and run.run_id not in failed)


def outlook(
    sweep: Sweep,
    results: str | Path = "results",
    device: str = "auto",
    memory: float | None = None,
    retry_failed: bool = False,
    shard: Shard = WHOLE_SWEEP,
    asked: Asked = HERE,
) -> Outlook:
    """What `run_shard` would do, without doing it."""
    on = foreseen(asked, device)
    check_ready(point for point, _ in sweep.points)
    runs = runs_of(shard, plan(sweep))
    path = Path(results) / sweep.name
    store = Store(path)
    missing = tuple(_missing(runs, store.finished(), () if retry_failed else store.failed()))
    stacks = stacks_within(missing, bytes_for(on.memory if memory is None else memory, on.device), on.device)
    ahead = estimates(finer(stacks, on.workers) if on.workers > 1 else stacks, on.device)
    notes = notes_on(runs) + ((on.assumed,) if on.assumed else ())
    return Outlook(runs, missing, tuple(ahead), notes, path, on.workers)


def _description(sweep: Sweep, runs: Sequence[Run], made_by: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": dict(sweep.resolved),
        "config_hash": sweep.hash,
        "runs": len(runs),
        "notes": list(notes_on(runs)),
        "made_by": made_by,
    }
