"""One attempt at a stack, in the process that runs it: whatever happens is an Outcome."""

import traceback
from collections.abc import Callable
from typing import Any

import torch

from ntkrun.engine.checkpoint import NOWHERE
from ntkrun.engine.clock import SILENT, Clock
from ntkrun.engine.probes import Measurement
from ntkrun.engine.stack import run_stack
from ntkrun.engine.threads import SHARED, threads_for
from ntkrun.engine.training import State
from ntkrun.errors import UserError
from ntkrun.lab.checkpoints import Checkpoints
from ntkrun.lab.engines import Done, Failed, Outcome, OutOfMemory
from ntkrun.lab.plan import Stack
from ntkrun.lab.tasks import rows_of, task_of

SAID_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory", "STATUS_ALLOC_FAILED")
See = Callable[[Stack, State, Measurement | None], None]


def attempt(
    stack: Stack,
    device: torch.device,
    made_by: dict[str, Any],
    see: See = lambda stack, state, measurement: None,
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
        clock = Clock(device) if timed else SILENT
        resume, keeper = (checkpoints.found(stack), checkpoints.keeper(stack)) if checkpoints else (None, NOWHERE)
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
