"""Values that are computed once and kept in memory up to a number of bytes."""

from collections.abc import Callable
from typing import Generic, TypeVar

from ntkrun.engine.devices import GIB

K = TypeVar("K")
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Keeps values by key, up to `most` bytes by their `size`.

    Beyond that the oldest values go first, and are computed again when they are needed. The newest value stays whatever
    its size, since it is about to be used.
    """

    def __init__(self, size: Callable[[V], int], most: int = GIB):
        self.size, self.most, self.bytes = size, most, 0
        self.values: dict[K, V] = {}

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """Return the value of a key, and `compute` it where it is not kept."""
        if key not in self.values:
            value = compute()
            self.values[key] = value
            self.bytes += self.size(value)
            while self.bytes > self.most and len(self.values) > 1:
                self.bytes -= self.size(self.values.pop(next(iter(self.values))))
        return self.values[key]

    def clear(self) -> None:
        """Drop all values."""
        self.values.clear()
        self.bytes = 0
