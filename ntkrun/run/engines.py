"""The engine selected on the command line: this process or Ray."""

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
    """The engine that runs the stacks: `local` (this process) or `ray`.

    Ray runs `jobs` stacks at once (None: as many as there is room for), on this machine or on the cluster at
    `ray_address`. Raises UserError for options that do not go together.
    """

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
    """An engine that is ready to run stacks.

    It runs `workers` stacks at once on `device`. `made_by` is its provenance. `memory` is the GiB that a stack may take
    unless the user sets it (None: as `plan.stacks.bytes_for` decides on this machine). `checkpoints` are those of
    stacks in mid-run.
    """

    engine: Engine
    device: torch.device
    workers: int
    made_by: dict[str, Any]
    memory: float | None
    checkpoints: Checkpoints


@dataclass(frozen=True)
class ExpectedEngine:
    """The engine that `open_engine` will give, as far as this is known without starting anything.

    `assumed` says in words what is assumed, "" if nothing is.
    """

    device: torch.device
    workers: int
    memory: float | None
    assumed: str


def expected_engine(selection: EngineSelection, device: str) -> ExpectedEngine:
    """Return the engine to expect. Raises UserError for an engine or a device that is not available."""
    if selection.engine == "local":
        return ExpectedEngine(resolve_device(device), 1, None, "")
    from ntkrun.run.ray import check, device_kind, local_resources, memory_each, worker_count

    check(selection.ray_address)
    cpus, gpus = local_resources(selection.jobs, device)
    kind = device_kind(device, gpus)
    worker_device = resolve_device(kind)
    if selection.ray_address:
        assumed = f"the cluster at {selection.ray_address} is not contacted: its workers are assumed to be like this "
        assumed += "machine" if selection.jobs else "machine, and one worker is assumed; set their number with --jobs"
        return ExpectedEngine(worker_device, selection.jobs or 1, None, assumed)
    workers = worker_count(selection.jobs, cpus, gpus, kind)
    memory = memory_each(free_bytes(worker_device), workers, gpus if kind == "cuda" else 1)
    assumed = f"each of {workers} workers is assumed to be as fast as one worker alone"
    return ExpectedEngine(worker_device, workers, memory, assumed)


@contextmanager
def open_engine(
    selection: EngineSelection,
    device: str,
    checkpoint_folder: Path,
    watch: ProgressListener,
    interrupts: Interrupts,
    timed: bool,
) -> Iterator[OpenEngine]:
    """Open the engine for as long as the context lasts. Raises UserError for an engine or a device that is not
    available."""
    if selection.engine == "local":
        this_device = resolve_device(device)
        made_by = provenance(this_device)
        checkpoints = Checkpoints(checkpoint_folder, this_device, watch.note, interrupts.requested)
        local = Local(this_device, made_by, watch.state, timed, checkpoints)
        yield OpenEngine(local, this_device, 1, made_by, None, checkpoints)
        return
    from ntkrun.run.ray import Ray, connected_workers

    def stopping() -> bool:
        watch.tick()
        return interrupts.requested()

    with connected_workers(selection.ray_address, selection.jobs, device) as workers:
        worker_device = torch.device(workers.device)
        engine = Ray(workers, timed, stopping)
        checkpoints = Checkpoints(checkpoint_folder, worker_device, watch.note)
        yield OpenEngine(engine, worker_device, workers.count, workers.made_by, workers.memory, checkpoints)


# ---------------------------------------------------------------- local


@dataclass(frozen=True)
class Local:
    """The engine that runs stacks in this process on `device`. It calls `on_state` with every state."""

    device: torch.device
    made_by: dict[str, Any]
    on_state: OnState
    timed: bool
    checkpoints: Checkpoints

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        while waiting:
            stack = waiting.popleft()
            yield stack, run_task(stack, self.device, self.made_by, self.on_state, self.timed, self.checkpoints)
