"""What every data set gives, and what every data set's section of a config has."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from ntkrun.errors import FieldError
from ntkrun.validation import Strict

MOST = 2**31 - 1  # of what is counted in a config
LARGEST_SEED = 2**63 - 1
MOST_NUMBERS = 2**28  # of a data set: 2 GiB
Array = np.ndarray
Arrays = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class Data:
    """Training inputs x (N, n_0) and targets y (N, O), test ones likewise (M rows); float64, read-only.

    Targets that only a network's kernel can tell (`Component`) are nan here; so are test targets that there are none of
    (`between`). `notes` are sentences that a person should read before the numbers: repeated inputs, and whether their
    targets conflict.
    """

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> int:
        """n_0, the dimension of an input."""
        return int(self.x.shape[1])

    @property
    def outputs(self) -> int:
        """O = n_L, the number of targets of an input."""
        return int(self.y.shape[1])


class Component(Strict):
    """Targets size · f^(k), k = `component` from 1, f^(k) the k-th kernel principal component of the network in its
    limit: (1/N) Σ_i f^(k)(x_i)² = 1 (theory/dynamics.py)."""

    component: int = Field(ge=1)
    """k: 1 is the component of the largest eigenvalue."""
    size: float = Field(1.0, gt=0)
    """What the component is multiplied by."""


class DataSet(Strict):
    """The keys that every data set takes. A subclass adds `name`, its own keys, and `make`."""

    statement: ClassVar[str]  # one line for `ntkrun list data`
    remote: ClassVar[bool] = False  # whether loading may fetch from the network, which nothing but a run should do

    samples: int = Field(64, ge=1, le=MOST)
    """N, the number of training inputs."""
    test_samples: int = Field(64, ge=0, le=MOST)
    """M, the number of test inputs."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Which samples, or which random inputs and targets."""
    between: tuple[int, ...] | None = None
    """`[i, j]`: the test inputs are `test_samples` points α x_i + (1-α) x_j, α evenly from 0 to 1, between the training
    inputs i and j (from 0). They have no targets: test losses are nan, gaps are measured."""
    target_scale: float = Field(1.0, gt=0, le=1e15)
    """Multiplies all targets; some losses refuse what comes of it, and say so."""

    @field_validator("between")
    @classmethod
    def _two(cls, ends: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if ends is not None and not len(ends) == len(set(ends)) == 2:
            raise ValueError("give two different training inputs by their numbers, as in [0, 1]")
        return ends

    @property
    def component(self) -> Component | None:
        """The targets, where only a kernel can tell them."""
        targets = getattr(self, "targets", None)
        return targets if isinstance(targets, Component) else None

    def load(self) -> Data:
        """The data: the same keys (and the same bytes on disk) give the same arrays. Raises FieldError where they
        cannot."""
        return _load(self)

    def problems(self) -> list[FieldError]:
        """Whatever is wrong and can be told without fetching anything."""
        try:
            self.load()
        except FieldError as error:
            return [error]
        return []

    @abstractmethod
    def make(self) -> Arrays:
        """x, y, x_test, y_test, before `between` and `target_scale`."""

    def arrays(self) -> Arrays:
        """x, y, x_test, y_test."""
        wanted = self.component
        if wanted and wanted.component > self.samples:
            raise FieldError("targets", f"there is no component {wanted.component} of {self.samples} training inputs")
        if self.between is None:
            x, y, x_test, y_test = self.make()
            return x, self.target_scale * y, x_test, self.target_scale * y_test
        x, y, *_ = self.model_copy(update={"test_samples": 0}).make()
        x_test = self._path(x, *self.between)
        return x, self.target_scale * y, x_test, np.full((len(x_test), y.shape[1]), np.nan)

    def _path(self, x: Array, i: int, j: int) -> Array:
        """α x_i + (1-α) x_j for α evenly from 0 to 1."""
        for end in (i, j):
            if not 0 <= end < len(x):
                raise FieldError(
                    "between", f"there is no training input {end}; they are numbered from 0 to {len(x) - 1}"
                )
        alpha = np.linspace(0, 1, self.test_samples)[:, None]
        return alpha * x[i] + (1 - alpha) * x[j]

    def generator(self, *role: int) -> np.random.Generator:
        """A generator of this data set's seed and a role of its own."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=role)))

    def check_size(self, dimension: int) -> None:
        """Raises FieldError where inputs that are made would be more than MOST_NUMBERS numbers."""
        if (self.samples + self.test_samples) * dimension > MOST_NUMBERS:
            field = "samples" if self.samples >= self.test_samples else "test_samples"
            raise FieldError(field, f"inputs of more than {MOST_NUMBERS} numbers; take fewer, or a smaller dimension")

    def split(self, available: int, what: str) -> tuple[Array, Array]:
        """Which of the available examples are for training and which for testing: disjoint, chosen by the seed.

        One permutation, training from its front and test from its back: asking for more of either keeps what was there.
        """
        wanted = self.samples + self.test_samples
        if wanted > available:
            field = "samples" if self.samples > available or not self.test_samples else "test_samples"
            raise FieldError(
                field, f"{self.samples} + {self.test_samples} test samples asked for, but {what} has {available}"
            )
        order = self.generator().permutation(available)
        return order[: self.samples], order[available - self.test_samples :]


@lru_cache(maxsize=16)
def _load(data_set: DataSet) -> Data:
    x, y, x_test, y_test = (read_only(part) for part in data_set.arrays())
    # The ends of a path are training inputs by their nature.
    return Data(x, y, x_test, y_test, tuple(_notes(x, y, x_test if data_set.between is None else x[:0])))


def read_only(values: Array) -> Array:
    """A copy in float64 that nobody can change."""
    array = np.array(values, dtype=np.float64, order="C")
    array.flags.writeable = False
    return array


def unknown(count: int) -> Array:
    """Targets (count, 1) that are still to be told."""
    return np.full((count, 1), np.nan)


def with_conflicts(x: Array, y: Array, count: int) -> tuple[Array, Array]:
    """The last `count` training inputs replaced by copies of the first ones, with their targets negated."""
    if count > len(x) // 2:
        raise FieldError("conflicts", f"{count} of {len(x)} training inputs; at most half of them, {len(x) // 2}")
    kept = len(x) - count
    return np.concatenate([x[:kept], x[:count]]), np.concatenate([y[:kept], -y[:count]])


def centred(x: Array, x_test: Array) -> tuple[Array, Array]:
    """Inputs minus the mean training input, each scaled to norm sqrt(n_0); the test inputs by the same mean."""
    mean = x.mean(axis=0)
    return _scaled(x - mean, "training"), _scaled(x_test - mean, "test")


def _scaled(x: Array, which: str) -> Array:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    # Centring leaves rounding of the order of 1e-16 of the inputs' size behind; what is that small has no direction.
    vanished = np.flatnonzero(norms[:, 0] <= 1e-12 * (1 + np.abs(x).max(initial=0)))
    if len(vanished):
        raise FieldError(
            "samples",
            f"{which} input {vanished[0]} equals the mean training input and cannot be scaled; choose other samples",
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
    seen = {row.tobytes() for row in x}
    shared = sum(row.tobytes() in seen for row in x_test)
    if shared:
        notes.append(f"{shared} of {len(x_test)} test inputs are training inputs as well")
    return notes


def _equal_rows(x: Array) -> list[list[int]]:
    """The groups of equal rows, two or more in each, in the order of their first."""
    groups: dict[bytes, list[int]] = {}
    for k, row in enumerate(x + 0.0):  # -0 and 0 are one number
        groups.setdefault(row.tobytes(), []).append(k)
    return [group for group in groups.values() if len(group) > 1]
