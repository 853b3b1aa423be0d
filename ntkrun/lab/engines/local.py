"""Stacks one after the other in this process."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch

from ntkrun.lab.attempt import See, attempt
from ntkrun.lab.checkpoints import Checkpoints
from ntkrun.lab.engines import Outcome
from ntkrun.lab.plan import Stack


@dataclass(frozen=True)
class Local:
    """Runs them on `device`; `see` is shown every state as it passes."""

    device: torch.device
    made_by: dict[str, Any]
    see: See
    timed: bool
    checkpoints: Checkpoints

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        while waiting:
            stack = waiting.popleft()
            yield stack, attempt(stack, self.device, self.made_by, self.see, self.timed, self.checkpoints)
            self.checkpoints.remove(stack)  # what came of it has been recorded
