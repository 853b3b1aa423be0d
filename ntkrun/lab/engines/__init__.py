"""Where stacks run. An engine takes stacks and says what came of each, and knows neither the store nor the plan: what
is tried again, committed or recorded as failed is loop.py's."""

from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from ntkrun.lab.plan import Stack

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
