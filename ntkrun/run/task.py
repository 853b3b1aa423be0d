"""One task of an engine: a stack trained and measured in the process that runs it, and its outcome."""

import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from ntkrun.engine.checkpoint import NO_CHECKPOINTS
from ntkrun.engine.clock import NO_CLOCK, Clock
from ntkrun.engine.probes import Measurement
from ntkrun.engine.stack import run_stack
from ntkrun.engine.torch_settings import SHARED, threads_for
from ntkrun.engine.training import State
from ntkrun.errors import UserError
from ntkrun.plan.problem import task_of
from ntkrun.plan.runs import Stack
from ntkrun.run.checkpoints import Checkpoints
from ntkrun.run.rows import rows_of

ATTEMPTS = 3  # at what is lost with its worker


@dataclass(frozen=True)
class Done:
    """Every run ended, done or diverged. `frames` is the stack's part of each table, `kernels` maps run_id to step to
    K, `seconds` is what training and probes took, `phases` where they went (empty unless asked for)."""

    frames: dict[str, pd.DataFrame]
    kernels: dict[str, dict[int, np.ndarray]]
    seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True)
class OutOfMemory:
    """Memory did not last: the step that the stack had come to, and the traceback."""

    last_step: int
    log: str


@dataclass(frozen=True)
class Failed:
    """Something else went wrong: what, in one sentence, and as above. `every_run`: it lies in what all runs of the
    stack share, so that smaller stacks would fail as well."""

    reason: str
    last_step: int
    log: str
    every_run: bool = False


@dataclass(frozen=True)
class Lost:
    """Whoever ran it is gone, killed or with its machine: why, as far as is known, and what there is of a log."""

    reason: str
    log: str


Outcome = Done | OutOfMemory | Failed | Lost


class Engine(Protocol):
    """Runs stacks, one or several at a time."""

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        """Start stacks from the left of `waiting` as there is room, and yield each with its outcome as it ends, until
        `waiting` is empty and nothing runs. Between two outcomes `waiting` may be changed by whoever iterates: smaller
        stacks put in, or all taken out so that nothing new starts. Closing the iterator abandons what runs."""
        ...


# ---------------------------------------------------------------- attempt


SAID_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory", "STATUS_ALLOC_FAILED")
OnState = Callable[[Stack, State, Measurement | None], None]


def run_task(
    stack: Stack,
    device: torch.device,
    made_by: dict[str, Any],
    see: OnState = lambda stack, state, measurement: None,
    timed: bool = False,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Train and measure a stack, from its checkpoint on where there is one. What the disk or the terminal have to say
    (OSError) is not the stack's, and passes, as interrupts do."""
    last_step = 0

    def watch(state: State, measurement: Measurement | None) -> None:
        nonlocal last_step
        last_step = state.step
        see(stack, state, measurement)

    try:
        clock = Clock(device) if timed else NO_CLOCK
        resume, keeper = (checkpoints.load(stack), checkpoints.keeper(stack)) if checkpoints else (None, NO_CHECKPOINTS)
        task = task_of(stack.point, tuple(stack.seeds))
        with threads_for(SHARED if device.type == "cuda" else task.largest_product) as threads:
            result = run_stack(task, device, watch, clock=clock, keeper=keeper, resume=resume)
        rows = rows_of(stack, result, threads, made_by)
        clock.lap("writing")
        return Done(*rows, result.seconds, clock.seconds if isinstance(clock, Clock) else {})
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - the one place: whatever goes wrong in a stack must not end the others
        outcome = _outcome(error, last_step)
    if isinstance(outcome, OutOfMemory) and device.type == "cuda":
        torch.cuda.empty_cache()  # now that the error and the tensors that it held are gone
    return outcome


def _outcome(error: Exception, last_step: int) -> Outcome:
    log = "".join(traceback.format_exception(error))
    if _of_memory(error):
        return OutOfMemory(last_step, log)
    said = str(error).strip().splitlines()
    if isinstance(error, UserError):  # of the grid point: seeds have no say in it
        return Failed("; ".join(said), last_step, log, every_run=True)
    return Failed(": ".join([type(error).__name__.lstrip("_"), *said[:1]]), last_step, log)


def _of_memory(error: Exception) -> bool:
    """torch has a class of its own for it on a GPU, and says it in the text alone on a CPU and in its libraries."""
    named = isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_OF_MEMORY)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)
