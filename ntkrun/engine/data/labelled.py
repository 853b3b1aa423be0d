"""Data sets of labelled examples: how labels become targets. `digits` is one that scikit-learn carries."""

from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ntkrun.engine.data.base import Array, DataSet, centred
from ntkrun.errors import FieldError


class Labelled(DataSet):
    """Examples with a class each.

    `classes` selects some of them (all when it is not given). Targets: `signed`, one output: with two classes selected,
    -1 for the first and +1 for the second; otherwise by the parity of the class, +1 for odd and -1 for even. `one_hot`:
    an output a class, 1 for its own and 0 elsewhere. Inputs are centred by the training inputs' mean and scaled to norm
    sqrt(n_0).
    """

    targets: Literal["signed", "one_hot"] = "signed"
    classes: tuple[int, ...] | None = Field(None, min_length=1)

    def examples(self) -> tuple[Array, Array]:
        """All inputs, (count, n_0), and labels, (count,) whole numbers."""
        raise NotImplementedError

    def problems(self) -> list[FieldError]:
        """A class that is not there, and too many samples whatever the classes, in one go."""
        found = super().problems()
        if any(error.field == "classes" for error in found):
            found += self.model_copy(update={"classes": None}).problems()
        return found

    def make(self) -> tuple[Array, Array, Array, Array]:
        inputs, labels = self.examples()
        classes = self._classes(labels)
        of_class = np.flatnonzero(np.isin(labels, classes))
        train, test = (of_class[chosen] for chosen in self.split(len(of_class), self._named()))
        x, x_test = centred(inputs[train].astype(float), inputs[test].astype(float))
        return x, self._targets(labels[train], classes), x_test, self._targets(labels[test], classes)

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

    def examples(self) -> tuple[Array, Array]:
        return _digits()


@lru_cache(maxsize=1)
def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return inputs, labels


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:12]))
    return shown + (", ..." if len(values) > 12 else "")
