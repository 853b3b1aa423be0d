"""Inputs from a formula: circle, sphere, gaussian; targets from signs, a product, a teacher network, or as given."""

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
    """Inputs x with targets y (one output):

    * `random_signs`: ±1, independent of the inputs; * `product`: x_1·x_2;
    * `teacher`: (1/√m) Σ_k v_k tanh(w_k·x/√n_0) with m = 64 and all v, w from N(0, 1);
    * a list of numbers: the targets of the training inputs and then of the test inputs; * a `Component`.

    The last `conflicts` training inputs are copies of the first ones, with their targets negated.
    """

    targets: Annotated[
        Annotated[Literal["random_signs", "product", "teacher"], Tag("<text>")]
        | Annotated[tuple[float, ...], Tag("<list>")]
        | Annotated[Component, Tag("<mapping>")],
        Discriminator(_form),
    ] = "random_signs"
    """`random_signs` (±1, independent of the inputs), `product` (x_1·x_2), `teacher` (a fixed tanh network of 64 hidden
    units), a list of numbers, first those of the training inputs and then of the test inputs, or `{component: k,
    size: s}`: a kernel principal component."""
    conflicts: int = Field(0, ge=0)
    """So many training inputs, the last ones, become copies of the first ones with targets negated, so that the loss
    cannot reach zero. For targets that a rule gives."""

    def points(self) -> tuple[Array, Array]:
        """Training and test inputs."""
        raise NotImplementedError

    def make(self) -> Arrays:
        x, x_test = self.points()
        if isinstance(self.targets, Component):
            y, y_test = unknown(len(x)), unknown(len(x_test))
        elif isinstance(self.targets, tuple):
            y, y_test = self._given()
        else:
            y, y_test = (self._targets(part, which)[:, None] for part, which in ((x, TRAINING), (x_test, TEST)))
        if self.conflicts and not isinstance(self.targets, str):
            raise FieldError(
                "conflicts", "they negate targets of a rule; use `targets: random_signs`, product or teacher"
            )
        return *with_conflicts(x, y, self.conflicts), x_test, y_test

    def _given(self) -> tuple[Array, Array]:
        values, wanted = np.array(self.targets)[:, None], self.samples + self.test_samples
        if len(values) != wanted:
            what = (
                f"{len(values)} values for {self.samples} training and {self.test_samples} test inputs; give {wanted}"
            )
            raise FieldError("targets", what)
        return values[: self.samples], values[self.samples :]

    def _targets(self, x: Array, which: int) -> Array:
        if self.targets == "random_signs":
            return self.generator(SIGNS, which).choice([-1.0, 1.0], len(x))
        if self.targets == "product":
            if x.shape[1] < 2:
                raise FieldError("targets", "product is x_1·x_2 and needs a dimension of at least 2")
            return x[:, 0] * x[:, 1]
        draw = self.generator(TEACHER)
        w, v = draw.standard_normal((TEACHER_WIDTH, x.shape[1])), draw.standard_normal(TEACHER_WIDTH)
        return np.tanh(x @ w.T / math.sqrt(x.shape[1])) @ v / math.sqrt(TEACHER_WIDTH)


class Circle(Synthetic):
    """Evenly spaced points of a circle in the plane, the first at angle 0; test points evenly spaced too, half a step
    of theirs on."""

    statement: ClassVar[str] = "evenly spaced points of a circle in the plane (radius 1 by default)"
    name: Literal["circle"]
    """Which data: `ntkrun list data`."""
    dimension: Literal[2] = 2
    """n_0: 2, in the plane."""
    radius: float = Field(1.0, gt=0)
    """Radius of the circle."""

    def points(self) -> tuple[Array, Array]:
        self.check_size(2)
        return around(self.samples, self.radius), around(self.test_samples, self.radius, 0.5)


def around(count: int, radius: float, shift: float = 0.0) -> Array:
    """Points of a circle, (count, 2), the first at `shift` of the angle between two."""
    angles = 2 * np.pi * (np.arange(count) + shift) / max(count, 1)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Gaussian(Synthetic):
    """Independent N(0, 1) coordinates. `test_circle`: the test inputs are evenly spaced on a circle of this radius in
    the plane of the first two coordinates instead, the first at angle 0."""

    statement: ClassVar[str] = "inputs with independent N(0, 1) coordinates"
    name: Literal["gaussian"]
    """Which data: `ntkrun list data`."""
    dimension: int = Field(10, ge=1, le=MOST)
    """n_0, the dimension of the inputs."""
    test_circle: float | None = Field(None, gt=0)
    """A radius: the test inputs lie evenly on a circle in the plane of the first two coordinates, from angle 0."""

    def points(self) -> tuple[Array, Array]:
        self.check_size(self.dimension)
        x = self._normal(self.samples, TRAINING)
        if self.test_circle is None:
            return x, self._normal(self.test_samples, TEST)
        if self.dimension < 2:
            raise FieldError("test_circle", "a circle needs a dimension of at least 2")
        circle = around(self.test_samples, self.test_circle)
        return x, np.pad(circle, ((0, 0), (0, self.dimension - 2)))

    def _normal(self, count: int, which: int) -> Array:
        return self.generator(INPUTS, which).standard_normal((count, self.dimension))


class Sphere(Gaussian):
    """Uniform on the sphere of this radius, sqrt(n_0) if not given."""

    statement: ClassVar[str] = "inputs uniform on a sphere, of norm sqrt(n_0) by default"
    name: Literal["sphere"]  # type: ignore[assignment]
    """Which data: `ntkrun list data`."""
    radius: float | None = Field(None, gt=0)
    """Radius of the sphere; √n_0 if not given."""

    def _normal(self, count: int, which: int) -> Array:
        x = super()._normal(count, which)
        radius = math.sqrt(self.dimension) if self.radius is None else self.radius
        return x / np.linalg.norm(x, axis=1, keepdims=True) * radius
