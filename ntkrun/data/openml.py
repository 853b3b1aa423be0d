"""The data set `openml`: MNIST, Fashion-MNIST and similar ones, downloaded once by scikit-learn and cached on disk."""

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
    """A classification data set from openml.org by name and version: mnist_784, Fashion-MNIST, Kuzushiji-MNIST, ...

    Labels that are whole numbers keep their value; others are numbered from 0 in alphabetical order.
    """

    statement: ClassVar[str] = (
        "a data set from openml.org, downloaded once and cached: dataset (mnist_784, Fashion-MNIST, ...)"
    )
    remote: ClassVar[bool] = True
    name: Literal["openml"]
    """Name of the data set, from `ntkrun list data`."""
    dataset: str = Field("mnist_784", min_length=1)
    """Name of the data set on openml.org: mnist_784, Fashion-MNIST, ..."""
    version: int = Field(1, ge=1)
    """Version of the data set on openml.org."""

    def problems(self) -> list[FieldError]:
        """Return no problems: without downloading the data they are unknown."""
        return []

    def identity(self) -> dict[str, Any]:
        """Return the values that identify the data. Name and version stand for the contents, since a version of a data
        set never changes."""
        return super().identity() | {"dataset": self.dataset, "version": self.version}

    def examples(self) -> tuple[Array, Array]:
        return _fetch(self.dataset, self.version)


@lru_cache(maxsize=2)
def _fetch(dataset: str, version: int) -> tuple[Array, Array]:
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns about versions and retries; the error below suffices
            inputs, labels = fetch_openml(dataset, version=version, as_frame=False, return_X_y=True, parser="liac-arff")
    except (URLError, OSError, HTTPException) as error:
        message = f"{dataset} is not in the cache and cannot be downloaded ({error})"
        raise FieldError("dataset", f"{message}; connect to the network once, or use name: idx with files") from None
    except ValueError as error:
        raise FieldError(
            "dataset", f"openml.org has no usable data set {dataset!r} in version {version} ({error})"
        ) from None
    return _dense(inputs, dataset), _whole_numbers(np.asarray(labels))


def _dense(inputs: Any, dataset: str) -> Array:
    x = np.asarray(inputs.todense() if hasattr(inputs, "todense") else inputs)
    if x.dtype == object or not np.isfinite(x.astype(float)).all():
        raise FieldError("dataset", f"{dataset} has inputs that are not finite numbers; choose another data set")
    return x.astype(float)


def _whole_numbers(labels: Array) -> Array:
    try:
        values = labels.astype(float)
    except ValueError:
        return np.unique(labels, return_inverse=True)[1]
    return values.astype(int) if (values == values.astype(int)).all() else np.unique(values, return_inverse=True)[1]
