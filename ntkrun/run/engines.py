"""The engine that is selected on the command line: this process, or Ray."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ntkrun.engine.devices import free_bytes, resolve_device
from ntkrun.errors import UserError
from ntkrun.plan.runs import Stack
from ntkrun.run.checkpoints import Checkpoints
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import ProgressListener
from ntkrun.run.provenance import provenance
from ntkrun.run.task import Engine, OnState, Outcome, run_task


@dataclass(frozen=True)
class EngineSelection:
    """Where stacks are to run: `local`, in this process, or `ray`: `jobs` at once (None: as many as there is room for)
    on this machine, or on the cluster at `ray_address`. Raises UserError for what does not go together."""

    engine: str = "local"
    jobs: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise UserError(f"--engine {self.engine}: choose local or ray")
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs {self.jobs}: give 1 or more")
        if self.engine == "local" and (self.jobs or 1) > 1:
            raise UserError(f"--jobs {self.jobs}: more than one at once needs --engine ray")
        if self.engine == "local" and self.ray_address is not None:
            raise UserError(f"--ray-address {self.ray_address}: needs --engine ray")


THIS_PROCESS = EngineSelection()


@dataclass(frozen=True)
class OpenEngine:
    """An engine, the device that its stacks run on, how many at once, what makes them, the GiB that each may take
    unless it is told (None: what `budget.bytes_for` finds here), and the stacks that are under way already."""

    engine: Engine
    device: torch.device
    workers: int
    made_by: dict[str, Any]
    memory: float | None
    checkpoints: Checkpoints


@dataclass(frozen=True)
class ExpectedEngine:
    """What `opened` will give, as far as it can be told without starting anything; `assumed`: what is taken for
    granted, in words, "" where nothing is."""

    device: torch.device
    workers: int
    memory: float | None
    assumed: str


def expected_engine(selection: EngineSelection, device: str) -> ExpectedEngine:
    """Raises UserError for an engine or a device that is not there."""
    if selection.engine == "local":
        return ExpectedEngine(resolve_device(device), 1, None, "")
    from ntkrun.run.ray import at_once, check, device_kind, here, memory_each

    check(selection.ray_address)
    cpus, gpus = here(selection.jobs, device)
    kind = device_kind(device, gpus)
    where = resolve_device(kind)
    if selection.ray_address:
        told = f"the cluster at {selection.ray_address} is not asked: its workers are taken to be like this machine"
        return ExpectedEngine(
            where, selection.jobs or 1, None, told + ("" if selection.jobs else ", and for one; --jobs says how many")
        )
    workers = at_once(selection.jobs, cpus, gpus, kind)
    each = memory_each(free_bytes(where), workers, gpus if kind == "cuda" else 1)
    return ExpectedEngine(
        where, workers, each, f"{workers} workers at once are taken to be as fast, each, as one alone"
    )


@contextmanager
def open_engine(
    selection: EngineSelection, device: str, kept: Path, watch: ProgressListener, interrupts: Interrupts, timed: bool
) -> Iterator[OpenEngine]:
    """The engine, for as long as the context lasts; `kept` is the folder of checkpoints. Raises UserError for an engine
    or a device that is not there."""
    if selection.engine == "local":
        where = resolve_device(device)
        made_by, checkpoints = provenance(where), Checkpoints(kept, where, watch.note, interrupts.requested)
        local = Local(where, made_by, watch.state, timed, checkpoints)
        yield OpenEngine(local, where, 1, made_by, None, checkpoints)
        return
    from ntkrun.run.ray import Ray, connected

    with connected(selection.ray_address, selection.jobs, device) as workers:
        where = torch.device(workers.device)
        engine = Ray(workers, timed, interrupts.requested)
        checkpoints = Checkpoints(kept, where, watch.note)
        yield OpenEngine(engine, where, workers.count, workers.made_by, workers.memory, checkpoints)


# ---------------------------------------------------------------- local


@dataclass(frozen=True)
class Local:
    """Runs them on `device`; `see` is shown every state as it passes."""

    device: torch.device
    made_by: dict[str, Any]
    see: OnState
    timed: bool
    checkpoints: Checkpoints

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        while waiting:
            stack = waiting.popleft()
            yield stack, run_task(stack, self.device, self.made_by, self.see, self.timed, self.checkpoints)
            self.checkpoints.remove(stack)  # what came of it has been recorded
