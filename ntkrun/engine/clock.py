"""Run time of a stack by phase: an explicit clock, passed as an argument, that is called at the end of each phase.

A lap is the time since the previous lap. The work of a device is part of a lap only if the host waits for it, so a
Clock waits. NO_CLOCK does nothing.
"""

import time
from typing import Protocol

import torch

PHASES = (
    "initialisation",
    "forward",
    "backward",
    "kernel",
    "update",
    "probes",
    "detail",
    "flows",
    "reading back",
    "writing",
)


class Laps(Protocol):
    """A receiver of the ends of phases, which are those of PHASES."""

    def lap(self, phase: str) -> None: ...


class NoClock:
    """A clock that measures nothing."""

    def lap(self, phase: str) -> None: ...


NO_CLOCK = NoClock()


class Clock:
    """Seconds by phase since the clock was made."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now
