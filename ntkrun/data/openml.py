"""`openml`: MNIST, Fashion-MNIST and their kin, fetched once by scikit-learn and cached on disk."""

import warnings
from functools import lru_cache
from http.client import HTTPException
from typing import Any, ClassVar, Literal
from urllib.error import URLError

import numpy as np
from pydantic import Field

from ntkrun.data.base import Array
from ntkrun.data.labelled import Labelled
from ntkrun.errors import FieldError


class OpenML(Labelled):
    """A classification data set of openml.org by its name and version: mnist_784, Fashion-MNIST, Kuzushiji-MNIST, ...

    Labels that are whole numbers keep their value; others are numbered from 0 in alphabetical order.
    """

    statement: ClassVar[str] = (
        "MNIST and its kin by name, fetched once and cached: dataset (mnist_784, Fashion-MNIST, ...)"
    )
    remote: ClassVar[bool] = True
    name: Literal["openml"]
    """Which data: `ntkrun list data`."""
    dataset: str = Field("mnist_784", min_length=1)
    """Its name on openml.org: mnist_784, Fashion-MNIST, ..."""
    version: int = Field(1, ge=1)
    """Its version there."""

    def problems(self) -> list[FieldError]:
        """Nothing can be told of what is not fetched."""
        return []

    def identity(self) -> dict[str, Any]:
        """A data set's version never changes, so its name and version stand for its contents."""
        return super().identity() | {"dataset": self.dataset, "version": self.version}

    def examples(self) -> tuple[Array, Array]:
        return _fetched(self.dataset, self.version)


@lru_cache(maxsize=2)
def _fetched(dataset: str, version: int) -> tuple[Array, Array]:
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's about versions and retries: the error says what matters
            inputs, labels = fetch_openml(dataset, version=version, as_frame=False, return_X_y=True, parser="liac-arff")
    except (URLError, OSError, HTTPException) as error:
        what = f"{dataset} is not in the cache and cannot be fetched ({error})"
        raise FieldError("dataset", f"{what}; connect to the network once, or use name: idx with files") from None
    except ValueError as error:
        raise FieldError(
            "dataset", f"openml has no usable data set {dataset!r} in version {version} ({error})"
        ) from None
    return _dense(inputs, dataset), _whole_numbers(np.asarray(labels))


def _dense(inputs: Any, dataset: str) -> Array:
    x = np.asarray(inputs.todense() if hasattr(inputs, "todense") else inputs)
    if x.dtype == object or not np.isfinite(x.astype(float)).all():
        raise FieldError("dataset", f"{dataset} has inputs that are not finite numbers; choose one of numbers alone")
    return x.astype(float)


def _whole_numbers(labels: Array) -> Array:
    try:
        values = labels.astype(float)
    except ValueError:
        return np.unique(labels, return_inverse=True)[1]
    return values.astype(int) if (values == values.astype(int)).all() else np.unique(values, return_inverse=True)[1]
