"""The arrays that every data set provides, and the config keys that every data set has."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ntkrun.errors import FieldError
from ntkrun.validation import Strict

MOST = 2**31 - 1  # largest count in a config
LARGEST_SEED = 2**63 - 1
LARGEST = 1e15  # for scales and step sizes: their squares still fit into float32
Size = Annotated[int, Field(ge=1, le=MOST)]
MOST_NUMBERS = 2**28  # numbers in one data set: 2 GiB
Array = np.ndarray
Arrays = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class Data:
    """Training inputs x (N, n_0) and targets y (N, O), test inputs and targets likewise (M rows); float64, read-only.

    Targets that depend on a network's kernel (`Component`) are nan here, and so are missing test targets (`between`).
    `notes` are sentences that a reader of the results should know: repeated inputs, and whether their targets conflict.
    """

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> int:
        """n_0, the dimension of the inputs."""
        return int(self.x.shape[1])

    @property
    def outputs(self) -> int:
        """O = n_L, the number of targets per input."""
        return int(self.y.shape[1])


class Component(Strict):
    """Targets size · f^(k), k = `component` from 1. f^(k) is the k-th kernel principal component of the infinite-width
    network, with (1/N) Σ_i f^(k)(x_i)² = 1 (theory/dynamics.py)."""

    component: int = Field(ge=1)
    """k, the number of the component. 1 is the component with the largest eigenvalue."""
    size: float = Field(1.0, gt=0)
    """Factor applied to the component."""


class DataSet(Strict):
    """The keys that every data set takes. A subclass adds `name`, its own keys and `make`."""

    statement: ClassVar[str]  # one line for `ntkrun list data`
    remote: ClassVar[bool] = False  # True if loading may download data, which only a run should do

    samples: int = Field(64, ge=1, le=MOST)
    """N, the number of training inputs."""
    test_samples: int = Field(64, ge=0, le=MOST)
    """M, the number of test inputs."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed for the choice of the samples, or for random inputs and targets."""
    between: tuple[int, ...] | None = None
    """`[i, j]`: the test inputs are `test_samples` points α x_i + (1-α) x_j on the line between the training inputs i
    and j (counted from 0), with α evenly spaced from 0 to 1. They have no targets, so test losses are nan. Gaps are
    still measured."""
    target_scale: float = Field(1.0, gt=0, le=LARGEST)
    """Factor applied to all targets. Losses that need ±1 or one-hot targets reject other values."""

    @field_validator("between")
    @classmethod
    def _check_between(cls, ends: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if ends is not None and not len(ends) == len(set(ends)) == 2:
            raise ValueError("give two different training inputs by their numbers, as in [0, 1]")
        return ends

    @property
    def component(self) -> Component | None:
        """The targets if they are a kernel principal component, else None."""
        targets = getattr(self, "targets", None)
        return targets if isinstance(targets, Component) else None

    def load(self) -> Data:
        """Load the data. The same keys (and the same bytes on disk) give the same arrays. Raises FieldError where the
        data cannot be loaded."""
        return _load(self)

    def problems(self) -> list[FieldError]:
        """Return the problems that show up without downloading anything."""
        try:
            self.load()
        except FieldError as error:
            return [error]
        return []

    @abstractmethod
    def make(self) -> Arrays:
        """Return x, y, x_test, y_test, before `between` and `target_scale` are applied."""

    def arrays(self) -> Arrays:
        """Return x, y, x_test, y_test."""
        target = self.component
        if target and target.component > self.samples:
            raise FieldError(
                "targets",
                f"there is no component {target.component} for {self.samples} training inputs; choose a smaller number",
            )
        if self.between is None:
            x, y, x_test, y_test = self.make()
            return x, self.target_scale * y, x_test, self.target_scale * y_test
        x, y, *_ = self.model_copy(update={"test_samples": 0}).make()
        x_test = self._path(x, *self.between)
        return x, self.target_scale * y, x_test, np.full((len(x_test), y.shape[1]), np.nan)

    def _path(self, x: Array, i: int, j: int) -> Array:
        """Return α x_i + (1-α) x_j for α evenly spaced from 0 to 1."""
        for end in (i, j):
            if not 0 <= end < len(x):
                raise FieldError(
                    "between", f"there is no training input {end}; they are numbered from 0 to {len(x) - 1}"
                )
        alpha = np.linspace(0, 1, self.test_samples)[:, None]
        return alpha * x[i] + (1 - alpha) * x[j]

    def generator(self, *role: int) -> np.random.Generator:
        """Return a random generator for this data set's seed and a role. Different roles are independent."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=role)))

    def check_size(self, dimension: int) -> None:
        """Check the size of generated inputs. Raises FieldError for more than MOST_NUMBERS numbers."""
        if (self.samples + self.test_samples) * dimension > MOST_NUMBERS:
            field = "samples" if self.samples >= self.test_samples else "test_samples"
            raise FieldError(
                field, f"the inputs hold more than {MOST_NUMBERS} numbers; use fewer samples or a smaller dimension"
            )

    def split(self, available: int, what: str) -> tuple[Array, Array]:
        """Choose the training and the test examples by the seed, disjoint, and return their indices. `what` names the
        data set in the error.

        Both come from one permutation, training examples from its front and test examples from its back. A larger
        number of either therefore keeps the examples of a smaller one.
        """
        requested = self.samples + self.test_samples
        if requested > available:
            field = "samples" if self.samples > available or not self.test_samples else "test_samples"
            raise FieldError(
                field,
                f"{self.samples} training and {self.test_samples} test samples requested, but {what} has {available}",
            )
        order = self.generator().permutation(available)
        return order[: self.samples], order[available - self.test_samples :]


@lru_cache(maxsize=16)
def _load(data_set: DataSet) -> Data:
    x, y, x_test, y_test = (read_only(part) for part in data_set.arrays())
    # The ends of a path are always training inputs, so a note would say nothing.
    return Data(x, y, x_test, y_test, tuple(_notes(x, y, x_test if data_set.between is None else x[:0])))


def read_only(values: Array) -> Array:
    """Return a read-only copy in float64."""
    array = np.array(values, dtype=np.float64, order="C")
    array.flags.writeable = False
    return array


def unknown(count: int) -> Array:
    """Return targets (count, 1) of nan, to be filled in once they are known."""
    return np.full((count, 1), np.nan)


def with_conflicts(x: Array, y: Array, count: int) -> tuple[Array, Array]:
    """Replace the last `count` training inputs by copies of the first ones, with negated targets. Raises FieldError
    where these are more than half of them."""
    if count > len(x) // 2:
        raise FieldError("conflicts", f"{count} of {len(x)} training inputs; at most half of them, {len(x) // 2}")
    unchanged = len(x) - count
    return np.concatenate([x[:unchanged], x[:count]]), np.concatenate([y[:unchanged], -y[:count]])


def centred(x: Array, x_test: Array) -> tuple[Array, Array]:
    """Subtract the mean training input from training and test inputs, and scale each to norm sqrt(n_0). Raises
    FieldError for an input that equals the mean."""
    mean = x.mean(axis=0)
    return _scaled(x - mean, "training"), _scaled(x_test - mean, "test")


def _scaled(x: Array, part: str) -> Array:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    # Centring leaves rounding errors of about 1e-16 of the inputs' size. A vector that small has no direction.
    vanished = np.flatnonzero(norms[:, 0] <= 1e-12 * (1 + np.abs(x).max(initial=0)))
    if len(vanished):
        raise FieldError(
            "samples",
            f"{part} input {vanished[0]} equals the mean training input and cannot be scaled; choose other samples",
        )
    return x / norms * math.sqrt(x.shape[1])


def _notes(x: Array, y: Array, x_test: Array) -> list[str]:
    notes = []
    groups = _equal_rows(x)
    if groups:
        repeated = sum(map(len, groups))
        notes.append(
            f"{repeated} of {len(x)} training inputs are repeated (inputs {groups[0][0]} and {groups[0][1]} are equal)"
        )
    conflicts = [group for group in groups if (np.ptp(y[group], axis=0) > 0).any()]
    if conflicts:
        first = conflicts[0]
        notes.append(f"inputs {first[0]} and {first[1]} are equal, with different targets: the loss cannot reach zero")
    training_rows = {row.tobytes() for row in x}
    shared = sum(row.tobytes() in training_rows for row in x_test)
    if shared:
        notes.append(f"{shared} of {len(x_test)} test inputs are also training inputs")
    return notes


def _equal_rows(x: Array) -> list[list[int]]:
    """Return the groups of two or more equal rows, ordered by their first row."""
    groups: dict[bytes, list[int]] = {}
    for k, row in enumerate(x + 0.0):  # turns -0 into 0
        groups.setdefault(row.tobytes(), []).append(k)
    return [group for group in groups.values() if len(group) > 1]
