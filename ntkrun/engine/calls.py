"""The ways in which functions of a training step are called: directly, or from CUDA graphs; and the time of each phase.

A step of a narrow stack is hundreds of small kernels, which the host takes longer to launch than the device to run. A
CUDA graph records the operations of a function once and launches them together. It reads and writes the memory that it
was recorded with, so its tensors must stay in place: parameters that are updated in place, and the results of other
recordings.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch

from ntkrun.engine.clock import Laps
from ntkrun.engine.network import Network

Result = TypeVar("Result")


class Call(Protocol):
    """Calls a function with these arguments, in a `phase` of clock.py."""

    def __call__(self, phase: str, function: Callable[..., Result], *arguments: Any) -> Result: ...


class Direct:
    """Calls functions, and ends a lap of the clock after each."""

    def __init__(self, clock: Laps):
        self.clock = clock

    def __call__(self, phase: str, function: Callable[..., Result], *arguments: Any) -> Result:
        result = function(*arguments)
        self.clock.lap(phase)
        return result


class Graphs:
    """Calls functions the first time, when libraries initialise themselves, records them the second time, and replays
    them from then on. The result of a replay overwrites the memory of the previous result.

    There is one recording of a function for each combination of the truth values among its arguments. Its results may
    depend on nothing else but tensors that stay in place. The function must not make the host wait.
    """

    def __init__(self, clock: Laps):
        self.clock = clock
        self.called: set[Hashable] = set()
        self.recorded: dict[Hashable, _Graph] = {}

    def __call__(self, phase: str, function: Callable[..., Result], *arguments: Any) -> Result:
        key = (function, *(argument for argument in arguments if isinstance(argument, bool)))
        if key not in self.called:
            self.called.add(key)
            result = function(*arguments)
        else:
            if key not in self.recorded:
                self.recorded[key] = _Graph(function, arguments)
            result = self.recorded[key].replay()
        self.clock.lap(phase)
        return result


class _Graph:
    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]):
        self.arguments = arguments  # their tensors must live as long as the recording
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the device during the recording.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = function(*arguments)

    def replay(self) -> Any:
        self.graph.replay()
        return self.result


def calls(net: Network, device: torch.device, clock: Laps) -> Call:
    """Return how the functions of the steps of these networks are called on a device."""
    return Graphs(clock) if device.type == "cuda" and net.can_be_recorded else Direct(clock)
