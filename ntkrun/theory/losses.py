"""The losses that a config may name: value, gradient and curvature with respect to the network's outputs.

The loss of a network is the mean over its N inputs of ℓ(F(x_i), y_i), summed over outputs:

    squared         ½ Σ_o (F_o - y_o)²                            any real targets
    huber           Σ_o h(F_o - y_o), h(r) = ½r² for |r| ≤ δ, δ(|r| - ½δ) beyond    any real targets
    logistic        Σ_o log(1 + exp(-y_o F_o))                    targets ±1
    cross_entropy   -Σ_o y_o log softmax(F)_o                     targets a distribution over two outputs or more

(torch's MSELoss has no ½ and also averages over outputs.) The training direction of Jacot, Gabriel and Hongler 2018 is
-∂ℓ_i/∂F(x_i); the 1/N of the mean goes with the kernel, dF(x)/dt = -(1/N) Σ_i K(x, x_i) ∂ℓ_i/∂F.

Outputs are (..., N, O) with any leading axes, targets y (N, O) or of the outputs' shape. torch is imported when a
function is called, so that configs are read and losses are listed without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Elementwise: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Loss:
    """A loss. `each` returns ℓ for every input (..., N), `gradient` ∂ℓ/∂F (..., N, O), `curvature` ∂²ℓ/∂F² (..., N, O,
    O). `threshold` is the |F - y| beyond which a gradient is clipped, None for losses that clip none. `objection`
    returns a sentence that explains why targets y (N, O) do not suit the loss, or "" if they do."""

    name: str
    statement: str
    each: Elementwise
    gradient: Elementwise
    curvature: Elementwise
    objection: Callable[[np.ndarray], str]
    threshold: float | None = None

    def __call__(self, outputs: "Tensor", y: "Tensor") -> "Tensor":
        """Return (1/N) Σ_i ℓ(F(x_i), y_i), shape (...)."""
        return self.each(outputs, y).mean(dim=-1)


def _any_target(y: np.ndarray) -> str:
    return ""


def _signs(y: np.ndarray) -> str:
    return "" if (np.abs(y) == 1).all() else "the logistic loss needs targets of +1 and -1, as from `targets: signed`"


def _distribution(y: np.ndarray) -> str:
    if y.shape[-1] < 2:
        return "cross_entropy needs two or more outputs, as from `targets: one_hot`; with one output use logistic"
    # 1e-9, because probabilities like 1/3 need not sum to exactly 1
    valid = (y >= 0).all() and (np.abs(y.sum(axis=-1) - 1) < 1e-9).all()
    return "" if valid else "cross_entropy needs targets that are distributions, as from `targets: one_hot`"


def _squared(outputs: "Tensor", y: "Tensor") -> "Tensor":
    return (outputs - y).square().sum(dim=-1) / 2


def _squared_curvature(outputs: "Tensor", y: "Tensor") -> "Tensor":
    return outputs.new_ones(outputs.shape).diag_embed()


def huber(threshold: float) -> Loss:
    """Return Huber's loss with threshold δ > 0: Σ_o h(F_o - y_o), h(r) = ½r² for |r| ≤ δ and δ(|r| - ½δ) beyond, whose
    gradient is F - y, clipped to [-δ, δ]."""

    def each(outputs: "Tensor", y: "Tensor") -> "Tensor":
        size = (outputs - y).abs()
        return (size * size / 2).where(size <= threshold, threshold * (size - threshold / 2)).sum(dim=-1)

    def gradient(outputs: "Tensor", y: "Tensor") -> "Tensor":
        return (outputs - y).clamp(-threshold, threshold)

    def curvature(outputs: "Tensor", y: "Tensor") -> "Tensor":
        return ((outputs - y).abs() <= threshold).to(outputs.dtype).diag_embed()

    statement = "Σ_o h(F_o - y_o), h(r) = ½r² for |r| ≤ δ, δ(|r| - ½δ) beyond; δ = training.huber_threshold"
    return Loss("huber", statement, each, gradient, curvature, _any_target, threshold)


def _logistic(outputs: "Tensor", y: "Tensor") -> "Tensor":
    from torch.nn.functional import softplus

    return softplus(-y * outputs).sum(dim=-1)


def _logistic_gradient(outputs: "Tensor", y: "Tensor") -> "Tensor":
    return -y * (-y * outputs).sigmoid()


def _logistic_curvature(outputs: "Tensor", y: "Tensor") -> "Tensor":
    return (outputs.sigmoid() * (-outputs).sigmoid()).diag_embed()


def _cross_entropy(outputs: "Tensor", y: "Tensor") -> "Tensor":
    return -(y * outputs.log_softmax(dim=-1)).sum(dim=-1)


def _cross_entropy_gradient(outputs: "Tensor", y: "Tensor") -> "Tensor":
    return outputs.softmax(dim=-1) - y


def _cross_entropy_curvature(outputs: "Tensor", y: "Tensor") -> "Tensor":
    p = outputs.softmax(dim=-1)
    return p.diag_embed() - p.unsqueeze(-1) * p.unsqueeze(-2)


def _table(*losses: Loss) -> MappingProxyType[str, Loss]:
    return MappingProxyType({loss.name: loss for loss in losses})


LOSSES = _table(
    Loss("squared", "½ Σ_o (F_o - y_o)²", _squared, lambda f, y: f - y, _squared_curvature, _any_target),
    Loss(
        "cross_entropy",
        "-Σ_o y_o log softmax(F)_o; targets: one_hot",
        _cross_entropy,
        _cross_entropy_gradient,
        _cross_entropy_curvature,
        _distribution,
    ),
    Loss(
        "logistic",
        "Σ_o log(1 + exp(-y_o F_o)); targets ±1",
        _logistic,
        _logistic_gradient,
        _logistic_curvature,
        _signs,
    ),
    huber(1.0),
)


def loss(name: str, huber_threshold: float = 1.0) -> Loss:
    """Return the loss of this name; δ is that of Huber's."""
    return huber(huber_threshold) if name == "huber" else LOSSES[name]
