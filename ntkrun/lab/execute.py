"""Plan minus store -> engine -> store."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ntkrun.engine.clock import SILENT, Clock, Laps
from ntkrun.engine.footprint import Footprint
from ntkrun.engine.probes import Measurement
from ntkrun.engine.stack import StackResult, run_stack
from ntkrun.engine.training import State
from ntkrun.errors import UserError
from ntkrun.lab.budget import bytes_for, recut, stacks_within, too_large
from ntkrun.lab.config import Sweep
from ntkrun.lab.costs import Estimate, estimates
from ntkrun.lab.plan import Run, Stack, columns, plan
from ntkrun.lab.profile import Profile
from ntkrun.lab.provenance import provenance
from ntkrun.lab.store import Results, Store
from ntkrun.lab.tasks import notes_on, rows_of, task_of


class Watch(Protocol):
    """Who follows a sweep as it goes: a progress bar, or nobody."""

    def begins(self, missing: Sequence[Stack], finished: int) -> None: ...
    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None: ...
    def committed(self, stack: Stack, result: StackResult) -> None: ...
    def halved(self, stack: Stack) -> None: ...
    def close(self) -> None: ...


class Nobody:
    """Watches nothing."""

    def begins(self, missing: Sequence[Stack], finished: int) -> None: ...
    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None: ...
    def committed(self, stack: Stack, result: StackResult) -> None: ...
    def halved(self, stack: Stack) -> None: ...
    def close(self) -> None: ...


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
) -> Results:
    """Run what is missing of a sweep into `results`/<name>, and return its tables.

    Runs that are finished there are never run again. An interrupt keeps every finished stack. Runs are stacked within
    `memory` GiB (None: three quarters of what is free); a stack that does not fit after all is halved. `profile` is
    told where the time went. Raises UserError for a device that is not there, a directory that cannot be written or is
    in use, data that cannot be had, and a network that does not fit.
    """
    watch = watch or Nobody()
    where = resolve_device(device)
    budget = bytes_for(memory, where)
    store = Store(Path(results) / sweep.name)
    runs = plan(sweep)

    def stacked(finished: set[str]) -> list[Stack]:
        return stacks_within((run for run in runs if run.run_id not in finished), budget, where)

    stacked(store.finished())  # what does not fit is said before anything is written
    with store.writing():
        finished = store.finished()
        missing = stacked(finished)
        made_by = provenance(where)
        store.begin(_description(sweep, runs, made_by), [columns(run) for run in runs])
        watch.begins(missing, sum(run.run_id in finished for run in runs))
        try:
            _run_all(missing, where, budget, store, made_by, watch, profile)
        finally:
            store.write_tables()
    return store.read()


def _run_all(
    missing: Sequence[Stack],
    where: torch.device,
    budget: int,
    store: Store,
    made_by: dict[str, Any],
    watch: Watch,
    profile: Profile | None,
) -> None:
    """Each stack in turn, its rows committed as it ends."""
    waiting = deque(missing)
    while waiting:
        stack = waiting.popleft()
        clock = Clock(where) if profile else SILENT
        result = _attempted(stack, where, watch, clock)
        if result is not None:
            store.commit(*rows_of(stack, result, made_by))
            clock.lap("writing")
            if profile is not None and isinstance(clock, Clock):
                profile.add(stack.point, clock.seconds)
            watch.committed(stack, result)
        elif len(stack.runs) > 1:
            watch.halved(stack)
            waiting = deque(recut(stack, waiting))
        else:
            needed = Footprint(task_of(stack.point)).bytes(1)
            raise UserError(f"{too_large(stack.point, needed, budget)}; it did not fit. Finished runs are kept")


def _attempted(stack: Stack, where: torch.device, watch: Watch, clock: Laps) -> StackResult | None:
    """What came of a stack; None where memory did not last."""
    try:
        task = task_of(stack.point, tuple(stack.seeds))
        return run_stack(task, where, lambda state, measured: watch.state(stack, state, measured), clock=clock)
    except (MemoryError, RuntimeError) as error:
        # torch says so with a class of its own on a GPU, and in the text alone on a CPU.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in str(error):
            raise
    if where.type == "cuda":
        torch.cuda.empty_cache()
    return None


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


def resolve_device(name: str) -> torch.device:
    """`auto` takes CUDA when there is one. float32 matrix products keep full precision (no tf32) on every device."""
    torch.set_float32_matmul_precision("highest")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:K")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: no such CUDA device here; choose auto or cpu")
    return torch.device(name)


def _description(sweep: Sweep, runs: Sequence[Run], made_by: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": dict(sweep.resolved),
        "config_hash": sweep.hash,
        "runs": len(runs),
        "notes": list(notes_on(runs)),
        "made_by": made_by,
    }
