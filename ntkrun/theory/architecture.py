"""The properties of a network that the theory uses. No tensors, so that a config is checked without torch."""

from typing import Literal, Protocol, runtime_checkable

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
    @property
    def skips(self) -> tuple[float, ...]:
        """γ_l, the factor of z^(l) in z^(l+1), l = 1..L-1; all 0 in a dense network."""


@runtime_checkable
class SizedArchitecture(Architecture, Protocol):
    """An architecture with its widths (n_0, n_1, ..., n_L)."""

    @property
    def widths(self) -> tuple[int, ...]: ...
