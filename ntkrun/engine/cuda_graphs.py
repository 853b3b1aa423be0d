"""On CUDA: what is done at every step again, recorded once and sent off as one.

A step of a narrow stack is hundreds of small kernels, which the host takes longer to launch than the device to run. A
CUDA graph launches them together. It reads and writes the memory that it was recorded with, so what is recorded must
find its tensors where they were: parameters that are updated in place, and what other recordings return.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ntkrun.engine.network import DenseNetwork
from ntkrun.theory.activations import ACTIVATIONS

Result = TypeVar("Result")


class Replay(Protocol):
    """Calls a function, or does again what it did when it was recorded under the same `key`."""

    def __call__(self, key: Hashable, function: Callable[..., Result], *moving: Tensor | None) -> Result: ...


def without_graphs(key: Hashable, function: Callable[..., Result], *moving: Tensor | None) -> Result:
    """Calls it."""
    return function(*moving)


class Graphs:
    """Functions by key: called the first time, when libraries set themselves up; recorded the second time; replayed
    from then on. What a replay returns stands in the memory of the one before.

    A function's results may depend on its tensors alone, which stay where they are but for the arguments: `moving` ones
    are copied to where the recording reads them. Nothing in it may make the host wait.
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
        return self.recorded[key].replayed(moving)


class _Graph:
    def __init__(self, function: Callable[..., Any], moving: tuple[Tensor | None, ...]):
        self.moving = [None if tensor is None else tensor.clone() for tensor in moving]
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = function(*self.moving)

    def replayed(self, moving: tuple[Tensor | None, ...]) -> Any:
        for mine, now in zip(self.moving, moving, strict=True):
            if mine is not None and now is not None:
                mine.copy_(now)
        self.graph.replay()
        return self.result


def replay_of(net: DenseNetwork, device: torch.device) -> Replay:
    """A new one: to be taken whenever the tensors are others, as when a run has left its stack.

    A σ of a user's own is called: it may look at its numbers, for which the host would have to wait.
    """
    return Graphs() if device.type == "cuda" and net.activation in ACTIVATIONS else without_graphs
