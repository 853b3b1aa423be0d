"""Synthetic data. Inputs: circle, sphere or gaussian. Targets: random signs, a product, a teacher network, a list of
numbers or a kernel principal component."""

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from ntkrun.data.base import MOST, Array, Arrays, Component, DataSet, unknown, with_conflicts
from ntkrun.errors import FieldError

INPUTS, SIGNS, TEACHER = 1, 2, 3  # roles of the random generators
TRAINING, TEST = 0, 1
TEACHER_WIDTH = 64


def _form(value: Any) -> str:
    if isinstance(value, dict | Component):
        return "<mapping>"
    return "<text>" if isinstance(value, str) else "<list>"


class Synthetic(DataSet):
    """Synthetic inputs x with targets y (one output). The targets are one of

    * `random_signs`: ±1, independent of the inputs;
    * `product`: x_1·x_2;
    * `teacher`: (1/√m) Σ_k v_k tanh(w_k·x/√n_0) with m = 64 and all v, w from N(0, 1);
    * a list of numbers: the targets of the training inputs, then those of the test inputs;
    * a `Component`.

    The last `conflicts` training inputs are copies of the first ones, with negated targets.
    """

    targets: Annotated[
        Annotated[Literal["random_signs", "product", "teacher"], Tag("<text>")]
        | Annotated[tuple[float, ...], Tag("<list>")]
        | Annotated[Component, Tag("<mapping>")],
        Discriminator(_form),
    ] = "random_signs"
    """`random_signs`: ±1, independent of the inputs. `product`: x_1·x_2. `teacher`: the output of a fixed random tanh
    network with 64 hidden units. A list of numbers: the targets of the training inputs, then those of the test inputs.
    `{component: k, size: s}`: a kernel principal component."""
    conflicts: int = Field(0, ge=0)
    """Number of training inputs, counted from the last, that become copies of the first ones with negated targets. The
    loss then cannot reach 0. Only for `random_signs`, `product` and `teacher`."""

    def points(self) -> tuple[Array, Array]:
        """Return the training inputs and the test inputs."""
        raise NotImplementedError

    def make(self) -> Arrays:
        x, x_test = self.points()
        if isinstance(self.targets, Component):
            y, y_test = unknown(len(x)), unknown(len(x_test))
        elif isinstance(self.targets, tuple):
            y, y_test = self._listed_targets()
        else:
            y, y_test = (
                self._computed_targets(inputs, part)[:, None] for inputs, part in ((x, TRAINING), (x_test, TEST))
            )
        if self.conflicts and not isinstance(self.targets, str):
            raise FieldError("conflicts", "they need `targets: random_signs`, product or teacher; change `targets`")
        return *with_conflicts(x, y, self.conflicts), x_test, y_test

    def _listed_targets(self) -> tuple[Array, Array]:
        values, count = np.array(self.targets)[:, None], self.samples + self.test_samples
        if len(values) != count:
            message = (
                f"{len(values)} values for {self.samples} training and {self.test_samples} test inputs; give {count}"
            )
            raise FieldError("targets", message)
        return values[: self.samples], values[self.samples :]

    def _computed_targets(self, x: Array, part: int) -> Array:
        if self.targets == "random_signs":
            return self.generator(SIGNS, part).choice([-1.0, 1.0], len(x))
        if self.targets == "product":
            if x.shape[1] < 2:
                raise FieldError("targets", "product is x_1·x_2 and needs a dimension of at least 2")
            return x[:, 0] * x[:, 1]
        random = self.generator(TEACHER)
        w, v = random.standard_normal((TEACHER_WIDTH, x.shape[1])), random.standard_normal(TEACHER_WIDTH)
        return np.tanh(x @ w.T / math.sqrt(x.shape[1])) @ v / math.sqrt(TEACHER_WIDTH)


class Circle(Synthetic):
    """Evenly spaced points on a circle in the plane, the first at angle 0. Test points are evenly spaced as well,
    shifted by half their spacing."""

    statement: ClassVar[str] = "evenly spaced points on a circle in the plane (radius 1 by default)"
    name: Literal["circle"]
    """Name of the data set, from `ntkrun list data`."""
    dimension: Literal[2] = 2
    """n_0, the dimension of the inputs. A circle lies in the plane, so it is 2."""
    radius: float = Field(1.0, gt=0)
    """Radius of the circle."""

    def points(self) -> tuple[Array, Array]:
        self.check_size(2)
        return around(self.samples, self.radius), around(self.test_samples, self.radius, 0.5)


def around(count: int, radius: float, shift: float = 0.0) -> Array:
    """Return evenly spaced points on a circle, (count, 2). The first is at angle `shift` times their spacing."""
    angles = 2 * np.pi * (np.arange(count) + shift) / max(count, 1)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Gaussian(Synthetic):
    """Inputs with independent N(0, 1) coordinates. With `test_circle`, the test inputs are evenly spaced on a circle of
    this radius in the plane of the first two coordinates instead, the first at angle 0."""

    statement: ClassVar[str] = "inputs with independent N(0, 1) coordinates"
    name: Literal["gaussian"]
    """Name of the data set, from `ntkrun list data`."""
    dimension: int = Field(10, ge=1, le=MOST)
    """n_0, the dimension of the inputs."""
    test_circle: float | None = Field(None, gt=0)
    """Radius of a circle for the test inputs. They are then evenly spaced on this circle in the plane of the first two
    coordinates, starting at angle 0."""

    def points(self) -> tuple[Array, Array]:
        self.check_size(self.dimension)
        x = self._draw(self.samples, TRAINING)
        if self.test_circle is None:
            return x, self._draw(self.test_samples, TEST)
        if self.dimension < 2:
            raise FieldError("test_circle", "a circle needs a dimension of at least 2")
        circle = around(self.test_samples, self.test_circle)
        return x, np.pad(circle, ((0, 0), (0, self.dimension - 2)))

    def _draw(self, count: int, part: int) -> Array:
        return self.generator(INPUTS, part).standard_normal((count, self.dimension))


class Sphere(Gaussian):
    """Inputs uniformly distributed on a sphere, whose radius is sqrt(n_0) by default."""

    statement: ClassVar[str] = "inputs uniformly distributed on a sphere (radius sqrt(n_0) by default)"
    name: Literal["sphere"]  # type: ignore[assignment]
    """Name of the data set, from `ntkrun list data`."""
    radius: float | None = Field(None, gt=0)
    """Radius of the sphere, √n_0 by default."""

    def _draw(self, count: int, part: int) -> Array:
        x = super()._draw(count, part)
        radius = math.sqrt(self.dimension) if self.radius is None else self.radius
        return x / np.linalg.norm(x, axis=1, keepdims=True) * radius
