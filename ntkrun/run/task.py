"""One task of an engine: train and measure a stack in this process and return its outcome."""

import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from ntkrun.config.schema import Point
from ntkrun.engine.checkpoint import NO_CHECKPOINTS
from ntkrun.engine.clock import NO_CLOCK, Clock
from ntkrun.engine.probes import Measurement
from ntkrun.engine.stack import run_stack
from ntkrun.engine.torch_settings import SHARED, threads_for
from ntkrun.engine.training import State
from ntkrun.errors import UserError
from ntkrun.plan.problem import Inputs, check_limits, inputs_of
from ntkrun.plan.runs import Stack
from ntkrun.run.checkpoints import Checkpoints
from ntkrun.run.rows import rows_of

ATTEMPTS = 3  # number of times that work is tried if its worker is lost


@dataclass(frozen=True)
class Done:
    """Every run ended as done or diverged.

    `frames` is the stack's part of each table, and `kernels` maps run_id to step to K. `seconds` is the time of
    training and probes, and `phases` the seconds of each phase (empty unless timing is on).
    """

    frames: dict[str, pd.DataFrame]
    kernels: dict[str, dict[int, np.ndarray]]
    seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True)
class OutOfMemory:
    """Memory ran out: the last step that the stack reached, and the traceback."""

    last_step: int
    log: str


@dataclass(frozen=True)
class Failed:
    """Another error: the reason in one sentence, the last step that the stack reached, and the traceback.

    `every_run` is True if the error lies in what all runs of the stack share, so that smaller stacks would fail too.
    """

    reason: str
    last_step: int
    log: str
    every_run: bool = False


@dataclass(frozen=True)
class Lost:
    """The worker was killed or its machine failed: the reason as far as it is known, and the log as far as there is
    one."""

    reason: str
    log: str


Outcome = Done | OutOfMemory | Failed | Lost


class Engine(Protocol):
    """Runs stacks, one or several at once."""

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        """Start stacks from the left of `waiting` as there is room, and yield each with its outcome when it ends, until
        `waiting` is empty and nothing runs. Between two outcomes the caller may change `waiting`: it may add smaller
        stacks, or remove all so that nothing new starts. Closing the iterator abandons the stacks that are running."""
        ...


# ---------------------------------------------------------------- attempt


SAID_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory", "STATUS_ALLOC_FAILED")
OnState = Callable[[Stack, State, Measurement | None], None]


def run_task(
    stack: Stack,
    device: torch.device,
    made_by: dict[str, Any],
    on_state: OnState = lambda stack, state, measurement: None,
    timed: bool = False,
    checkpoints: Checkpoints | None = None,
    inputs_of: Callable[[Point], Inputs] = inputs_of,
) -> Outcome:
    """Train and measure a stack, from its checkpoint if there is one, and return the outcome. `inputs_of` gives the
    inputs of its grid point. An OSError of the disk or the terminal is not a fault of the stack and is raised, as
    interrupts are."""
    last_step = 0

    def watch(state: State, measurement: Measurement | None) -> None:
        nonlocal last_step
        last_step = state.step
        on_state(stack, state, measurement)

    try:
        clock = Clock(device) if timed else NO_CLOCK
        resume, keeper = (checkpoints.load(stack), checkpoints.keeper(stack)) if checkpoints else (None, NO_CHECKPOINTS)
        inputs = inputs_of(stack.point)
        if inputs.kernels is not None:
            check_limits(inputs.task)
        task = replace(inputs.task, seeds=tuple(stack.seeds))
        with threads_for(SHARED if device.type == "cuda" else task.largest_product) as threads:
            result = run_stack(task, device, watch, clock=clock, keeper=keeper, resume=resume)
        rows = rows_of(stack, inputs, result, threads, made_by)
        clock.lap("writing")
        return Done(*rows, result.seconds, clock.seconds if isinstance(clock, Clock) else {})
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - no error in a stack may end the other stacks
        outcome = outcome_of(error, last_step)
    if isinstance(outcome, OutOfMemory) and device.type == "cuda":
        torch.cuda.empty_cache()  # possible now that the error and its tensors are gone
    return outcome


def outcome_of(error: Exception, last_step: int) -> Outcome:
    """Return the outcome of a stack that ended with an error."""
    log = "".join(traceback.format_exception(error))
    if _is_out_of_memory(error):
        return OutOfMemory(last_step, log)
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError):  # an error of the grid point, whatever the seed
        return Failed("; ".join(lines), last_step, log, every_run=True)
    return Failed(": ".join([type(error).__name__.lstrip("_"), *lines[:1]]), last_step, log)


def _is_out_of_memory(error: Exception) -> bool:
    """Return True if memory ran out. On a GPU torch raises a class of its own; on a CPU and in libraries only the text
    says so."""
    in_text = isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_OF_MEMORY)
    return in_text or isinstance(error, MemoryError | torch.OutOfMemoryError)
