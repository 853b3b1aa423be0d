"""Where the time of a stack goes: an explicit clock, handed down, that is told at the end of each phase.

A lap is the time since the lap before it. What a device does is part of a lap only if the host waits for it there, so a
Clock waits; SILENT, which stands where nobody asks, does nothing at all.
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
    """Who is told that a phase of PHASES has ended."""

    def lap(self, phase: str) -> None: ...


class NoClock:
    """Keeps no time."""

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
