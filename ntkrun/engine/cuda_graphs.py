"""CUDA graphs: the operations that repeat at every step are recorded once and then launched together.

A step of a narrow stack is hundreds of small kernels, which the host takes longer to launch than the device to run. A
CUDA graph launches them together. It reads and writes the memory that it was recorded with, so its tensors must stay in
place: parameters that are updated in place, and the results of other recordings.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ntkrun.engine.network import DenseNetwork
from ntkrun.theory.activations import ACTIVATIONS

Result = TypeVar("Result")


class Replay(Protocol):
    """Calls a function, or replays the recording of it under the same `key`."""

    def __call__(self, key: Hashable, function: Callable[..., Result], *moving: Tensor | None) -> Result: ...


def without_graphs(key: Hashable, function: Callable[..., Result], *moving: Tensor | None) -> Result:
    """Call the function."""
    return function(*moving)


class Graphs:
    """Functions by key: called the first time, when libraries initialise themselves, recorded the second time, and
    replayed from then on. The result of a replay overwrites the memory of the previous result.

    The results of a function may only depend on its tensors, which must stay in place. The arguments `moving` are an
    exception: they are copied to the memory that the recording reads. The function must not make the host wait.
    """

    def __init__(self) -> None:
        self.called: set[Hashable] = set()
        self.recorded: dict[Hashable, _Graph] = {}

    def __call__(self, key: Hashable, function: Callable[..., Result], *moving: Tensor | None) -> Result:
        if key not in self.called:
            self.called.add(key)
            return function(*moving)
        if key not in self.recorded:
            self.recorded[key] = _Graph(function, moving)
        return self.recorded[key].replay(moving)


class _Graph:
    def __init__(self, function: Callable[..., Any], moving: tuple[Tensor | None, ...]):
        self.moving = [None if tensor is None else tensor.clone() for tensor in moving]
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the device during the recording.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = function(*self.moving)

    def replay(self, moving: tuple[Tensor | None, ...]) -> Any:
        for target, source in zip(self.moving, moving, strict=True):
            if target is not None and source is not None:
                target.copy_(source)
        self.graph.replay()
        return self.result


def replay_of(net: DenseNetwork, device: torch.device) -> Replay:
    """Return a new Replay. A new one is needed whenever the tensors change, as after a run was removed from its stack.

    Networks with a user-defined σ are not recorded: σ may read values, for which the host would have to wait.
    """
    return Graphs() if device.type == "cuda" and net.activation in ACTIVATIONS else without_graphs
