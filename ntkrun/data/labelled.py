"""Data sets of labelled examples: how labels become targets. `digits` is one that scikit-learn carries."""

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
    """Examples with a class each.

    `classes` selects some of them (all when it is not given). Targets: `signed`, one output: with two classes selected,
    -1 for the first and +1 for the second; otherwise by the parity of the class, +1 for odd and -1 for even. `one_hot`:
    an output a class, 1 for its own and 0 elsewhere; or a `Component`. The last `conflicts` training inputs are copies
    of the first, with the opposite sign. Inputs are centred by the training inputs' mean and scaled to norm sqrt(n_0).
    """

    targets: Annotated[
        Annotated[Literal["signed", "one_hot"], Tag("<text>")] | Annotated[Component, Tag("<mapping>")],
        Discriminator(_form),
    ] = "signed"
    """`signed`: one output of ±1, by the parity of the class (+1 for odd) or, with two `classes` selected, -1 for the
    first and +1 for the second. `one_hot`: an output a class. `{component: k, size: s}`: a kernel principal
    component."""
    conflicts: int = Field(0, ge=0)
    """So many training inputs, the last ones, become copies of the first ones with the opposite sign, so that the loss
    cannot reach zero. For `signed` targets."""
    classes: tuple[int, ...] | None = Field(None, min_length=1)
    """Which classes to take, as in `[3, 8]`; all if not given."""

    def examples(self) -> tuple[Array, Array]:
        """All inputs, (count, n_0), and labels, (count,) whole numbers."""
        raise NotImplementedError

    def problems(self) -> list[FieldError]:
        """A class that is not there, and too many samples whatever the classes, in one go."""
        found = super().problems()
        if any(error.field == "classes" for error in found):
            found += self.model_copy(update={"classes": None}).problems()
        return found

    def make(self) -> Arrays:
        inputs, labels = self.examples()
        classes = self._classes(labels)
        of_class = np.flatnonzero(np.isin(labels, classes))
        train, test = (of_class[chosen] for chosen in self.split(len(of_class), self._named()))
        x, x_test = centred(inputs[train].astype(float), inputs[test].astype(float))
        if self.conflicts and self.targets != "signed":
            raise FieldError("conflicts", "they are of opposite signs; use `targets: signed`")
        x, y = with_conflicts(x, self._targets(labels[train], classes), self.conflicts)
        return x, y, x_test, self._targets(labels[test], classes)

    def _classes(self, labels: Array) -> list[int]:
        known = np.unique(labels).tolist()
        chosen = known if self.classes is None else list(self.classes)
        missing = [c for c in chosen if c not in known]
        if missing:
            raise FieldError("classes", f"there is no class {missing[0]} in these data; there are {_listed(known)}")
        if len(set(chosen)) < len(chosen):
            raise FieldError("classes", "a class stands there twice")
        return chosen

    def _targets(self, labels: Array, classes: list[int]) -> Array:
        if isinstance(self.targets, Component):
            return unknown(len(labels))
        if self.targets == "one_hot":
            return (labels[:, None] == np.array(classes)).astype(float)
        positive = labels == classes[1] if len(classes) == 2 else labels % 2 == 1
        return np.where(positive, 1.0, -1.0)[:, None]

    def _named(self) -> str:
        return type(self).__name__.lower() + (
            "" if self.classes is None else f" of classes {_listed(list(self.classes))}"
        )


class Digits(Labelled):
    """1797 hand-written digits, 8 x 8 pixels, on disk with scikit-learn."""

    statement: ClassVar[str] = "1797 real hand-written digits of 8 x 8 pixels, on disk with scikit-learn"
    name: Literal["digits"]
    """Which data: `ntkrun list data`."""

    def examples(self) -> tuple[Array, Array]:
        return _digits()


@lru_cache(maxsize=1)
def _digits() -> tuple[Array, Array]:
    """All inputs (1797, 64) and labels (1797,) of `sklearn.datasets.load_digits`, read from its file, whose last column
    is the label: importing scikit-learn takes longer than checking a config."""
    found = importlib.util.find_spec("sklearn")
    folder = Path(found.origin).parent if found and found.origin else Path()
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():  # a release that keeps it elsewhere
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)
        return inputs, labels
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:12]))
    return shown + (", ..." if len(values) > 12 else "")
