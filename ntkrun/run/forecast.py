"""What a sweep would do, how long it will take and how much memory, before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkrun.config.reader import Sweep
from ntkrun.engine.devices import GIB
from ntkrun.plan.costs import Estimate, estimates
from ntkrun.plan.problem import check_ready, notes_on
from ntkrun.plan.runs import Run, missing_runs, plan, run_row
from ntkrun.plan.stacks import WHOLE_SWEEP, Shard, bytes_for, runs_in_shard, split_for_workers, stacks_within
from ntkrun.run.engines import THIS_PROCESS, EngineSelection, expected_engine
from ntkrun.store.directory import Store


@dataclass(frozen=True)
class DryRun:
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
            "missing": [run_row(run) for run in self.missing],
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "workers": self.workers,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def dry_run_of(
    sweep: Sweep,
    results: str | Path = "results",
    device: str = "auto",
    memory: float | None = None,
    retry_failed: bool = False,
    shard: Shard = WHOLE_SWEEP,
    selection: EngineSelection = THIS_PROCESS,
) -> DryRun:
    """What `run_shard` would do, without doing it."""
    on = expected_engine(selection, device)
    check_ready(point for point, _ in sweep.points)
    runs = runs_in_shard(shard, plan(sweep))
    path = Path(results) / sweep.name
    store = Store(path)
    missing = tuple(missing_runs(runs, store.finished(), () if retry_failed else store.failed()))
    stacks = stacks_within(missing, bytes_for(on.memory if memory is None else memory, on.device), on.device)
    ahead = estimates(split_for_workers(stacks, on.workers) if on.workers > 1 else stacks, on.device)
    notes = notes_on(runs) + ((on.assumed,) if on.assumed else ())
    return DryRun(runs, missing, tuple(ahead), notes, path, on.workers)


# ---------------------------------------------------------------- forecast


@dataclass(frozen=True)
class Forecast:
    """Seconds for all the runs, and GiB for the largest stack of them: docs/performance.md says how good it is."""

    seconds: float
    gib: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        time = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
        return f"about {'1 min' if minutes < 1 else time}, at most {self.gib:.2g} GiB"


def forecast(ahead: DryRun) -> Forecast:
    """What is missing of a sweep, one stack after the other."""
    each = ahead.estimates
    return Forecast(sum(part.seconds for part in each), max((part.bytes / GIB for part in each), default=0.0))


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """One after the other."""
    return Forecast(sum(each.seconds for each in forecasts), max((each.gib for each in forecasts), default=0.0))
