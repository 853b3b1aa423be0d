"""What theory needs to know of a dense network. No tensors, so that a config is checked without torch."""

from typing import Literal, Protocol

Parametrization = Literal["ntk", "standard", "mean_field"]


class Architecture(Protocol):
    """What the limit depends on: everything of a network but its widths."""

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
