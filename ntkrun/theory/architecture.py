"""The properties of a dense network that the theory uses. No tensors, so that a config is checked without torch."""

from typing import Literal, Protocol

Parametrization = Literal["ntk", "standard", "mean_field"]


class Architecture(Protocol):
    """The properties that the infinite-width limit depends on: all of a network's except its widths."""

    @property
    def inputs(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def beta(self) -> float: ...
    @property
    def weight_scale(self) -> float: ...
    @property
    def parametrization(self) -> str: ...


class SizedArchitecture(Architecture, Protocol):
    """An architecture with its widths (n_0, n_1, ..., n_L)."""

    @property
    def widths(self) -> tuple[int, ...]: ...
