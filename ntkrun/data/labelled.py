"""Data sets of labelled examples, whose labels become targets; and `digits`, which comes with scikit-learn."""

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from ntkrun.data.base import Array, Arrays, Component, DataSet, centred, unknown, with_conflicts
from ntkrun.errors import FieldError


def _form(value: Any) -> str:
    return "<mapping>" if isinstance(value, dict | Component) else "<text>"


class Labelled(DataSet):
    """Examples that each belong to a class.

    `classes` selects some classes (all by default). The targets are one of

    * `signed`, one output: with two classes selected, -1 for the first and +1 for the second; otherwise +1 for odd
      classes and -1 for even ones;
    * `one_hot`, one output per class: 1 for the example's class, 0 for the others;
    * a `Component`.

    The last `conflicts` training inputs are copies of the first ones, with the opposite sign. Inputs are centred by the
    mean of the training inputs and scaled to norm sqrt(n_0).
    """

    targets: Annotated[
        Annotated[Literal["signed", "one_hot"], Tag("<text>")] | Annotated[Component, Tag("<mapping>")],
        Discriminator(_form),
    ] = "signed"
    """`signed`: one output. With two `classes` selected, -1 for the first and +1 for the second; otherwise +1 for odd
    classes and -1 for even ones. `one_hot`: one output per class. `{component: k, size: s}`: a kernel principal
    component."""
    conflicts: int = Field(0, ge=0)
    """Number of training inputs, counted from the last, that become copies of the first ones with the opposite sign.
    The loss then cannot reach 0. Only for `signed` targets."""
    classes: tuple[int, ...] | None = Field(None, min_length=1)
    """Classes to use, as in `[3, 8]`. All by default."""

    def examples(self) -> tuple[Array, Array]:
        """Return all inputs, (count, n_0), and their labels, (count,) whole numbers."""
        raise NotImplementedError

    def problems(self) -> list[FieldError]:
        """Return the problems of the data. For an unknown class, problems that do not depend on the classes, such as
        too many samples, are included."""
        errors = super().problems()
        if any(error.field == "classes" for error in errors):
            errors += self.model_copy(update={"classes": None}).problems()
        return errors

    def make(self) -> Arrays:
        inputs, labels = self.examples()
        classes = self._classes(labels)
        selected = np.flatnonzero(np.isin(labels, classes))
        train, test = (selected[indices] for indices in self.split(len(selected), self._description()))
        x, x_test = centred(inputs[train].astype(float), inputs[test].astype(float))
        if self.conflicts and self.targets != "signed":
            raise FieldError("conflicts", "they need targets of ±1; use `targets: signed`")
        x, y = with_conflicts(x, self._targets(labels[train], classes), self.conflicts)
        return x, y, x_test, self._targets(labels[test], classes)

    def _classes(self, labels: Array) -> list[int]:
        known = np.unique(labels).tolist()
        classes = known if self.classes is None else list(self.classes)
        missing = [c for c in classes if c not in known]
        if missing:
            raise FieldError("classes", f"there is no class {missing[0]}; the classes are {_listed(known)}")
        if len(set(classes)) < len(classes):
            raise FieldError("classes", "a class is listed twice; list each once")
        return classes

    def _targets(self, labels: Array, classes: list[int]) -> Array:
        if isinstance(self.targets, Component):
            return unknown(len(labels))
        if self.targets == "one_hot":
            return (labels[:, None] == np.array(classes)).astype(float)
        positive = labels == classes[1] if len(classes) == 2 else labels % 2 == 1
        return np.where(positive, 1.0, -1.0)[:, None]

    def _description(self) -> str:
        return type(self).__name__.lower() + (
            "" if self.classes is None else f" of classes {_listed(list(self.classes))}"
        )


class Digits(Labelled):
    """1797 handwritten digits of 8 x 8 pixels, included in scikit-learn."""

    statement: ClassVar[str] = "1797 handwritten digits of 8 x 8 pixels, included in scikit-learn"
    name: Literal["digits"]
    """Name of the data set, from `ntkrun list data`."""

    def examples(self) -> tuple[Array, Array]:
        return _digits()


@lru_cache(maxsize=1)
def _digits() -> tuple[Array, Array]:
    """Return all inputs (1797, 64) and labels (1797,) of `sklearn.datasets.load_digits`. They are read from its file,
    whose last column is the label, because importing scikit-learn takes longer than checking a config."""
    spec = importlib.util.find_spec("sklearn")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():  # another release may store it elsewhere
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)
        return inputs, labels
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:12]))
    return shown + (", ..." if len(values) > 12 else "")
