"""Forecast the runs, time and memory of a sweep before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkrun.config.reader import Sweep
from ntkrun.config.schema import Point
from ntkrun.engine.devices import GIB
from ntkrun.engine.memory import stack_bytes
from ntkrun.plan.problem import check_ready, notes_on, problem_of
from ntkrun.plan.runs import Run, Stack, missing_runs, plan, run_row, stacks
from ntkrun.plan.stacks import WHOLE_SWEEP, Shard, bytes_for, runs_in_shard, split_for_workers, stacks_within
from ntkrun.run.engines import THIS_PROCESS, EngineSelection, expected_engine
from ntkrun.run.timing import BUDGET, Timing, timings, writing_seconds
from ntkrun.store.results_directory import Store


@dataclass(frozen=True)
class Estimate:
    """The cost of a grid point: its runs, its number of stacks, the seconds of all of them, and the bytes of the
    largest."""

    point: Point
    runs: tuple[Run, ...]
    stacks: int
    seconds: float
    bytes: int

    def as_json(self) -> dict[str, Any]:
        point = {"network.width": self.point.network.width, "first_run_id": self.runs[0].run_id}
        return point | {
            "runs": len(self.runs),
            "stacks": self.stacks,
            "seconds": self.seconds,
            "gib": self.bytes / GIB,
        }


def estimates(planned: Sequence[Stack], timing: Timing) -> list[Estimate]:
    """Return the estimate of each grid point of these stacks."""
    parts: dict[Point, list[int]] = {}
    for stack in planned:
        parts.setdefault(stack.point, []).append(len(stack.runs))
    return [
        Estimate(
            point := whole.point,
            whole.runs,
            len(parts[point]),
            len(whole.runs) * timing.per_run[point] + writing_seconds(point, len(whole.runs)),
            stack_bytes(problem_of(point).task, max(parts[point])),
        )
        for whole in stacks(run for stack in planned for run in stack.runs)
    ]


@dataclass(frozen=True)
class DryRun:
    """The forecast of a sweep: its runs, those that are still missing, and the number of workers.

    `estimates` gives the cost of each grid point with missing runs, one stack after the other. `timed` of them were
    timed, in `timing_seconds`, and the others estimated from these. `notes` are messages for the user.
    """

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    path: Path
    workers: int
    timed: int = 0
    timing_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds from start to end with all workers, and no less than the longest stack."""
        shared = sum(estimate.seconds for estimate in self.estimates) / self.workers
        return max([shared, *(estimate.seconds / estimate.stacks for estimate in self.estimates)])

    def as_json(self) -> dict[str, Any]:
        return {
            "results": str(self.path),
            "runs": len(self.runs),
            "missing": [run_row(run) for run in self.missing],
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "workers": self.workers,
            "seconds": self.seconds,
            "timed": self.timed,
            "timing_seconds": self.timing_seconds,
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
    budget: float = BUDGET,
) -> DryRun:
    """Return what `run_shard` would do, without doing it. Grid points are timed within about `budget` seconds."""
    engine = expected_engine(selection, device)
    check_ready(point for point, _ in sweep.points)
    runs = runs_in_shard(shard, plan(sweep))
    path = Path(results) / sweep.name
    store = Store(path)
    missing = tuple(missing_runs(runs, store.finished(), () if retry_failed else store.failed()))
    planned = stacks_within(
        missing, bytes_for(engine.memory if memory is None else memory, engine.device), engine.device
    )
    if engine.workers > 1:
        planned = split_for_workers(planned, engine.workers)
    timing = timings(planned, engine.device, budget)
    costs = tuple(estimates(planned, timing))
    notes = notes_on(runs) + ((engine.assumed,) if engine.assumed else ())
    return DryRun(runs, missing, costs, notes, path, engine.workers, timing.timed, timing.seconds)


# ---------------------------------------------------------------- forecast


@dataclass(frozen=True)
class Forecast:
    """The seconds of all runs and the GiB of the largest stack; docs/performance.md gives the accuracy."""

    seconds: float
    gib: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        time = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
        return f"about {'1 min' if minutes < 1 else time}, at most {self.gib:.2g} GiB"


def forecast(ahead: DryRun) -> Forecast:
    """Return the forecast for the missing runs of a sweep, one stack after the other."""
    seconds = sum(estimate.seconds for estimate in ahead.estimates)
    return Forecast(seconds, max((estimate.bytes / GIB for estimate in ahead.estimates), default=0.0))


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """Combine the forecasts of sweeps that run one after the other."""
    seconds = sum(part.seconds for part in forecasts)
    return Forecast(seconds, max((part.gib for part in forecasts), default=0.0))
