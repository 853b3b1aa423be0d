"""Functions whose gradients in their parameters follow from their input and the gradient δ of their output.

    linear        z_t = w a_t + b              ∂w = Σ_t δ_t a_tᵀ       ∂b = Σ_t δ_t
    convolution   as linear, with a_t the patch at position t, group by group
    embedding     z_t = w[k_t]                 ∂w = Σ_t e(k_t) δ_tᵀ    without the padding index
    normalisation z_t = w ∘ x̂_t + b            ∂w = Σ_t δ_t ∘ x̂_t      ∂b = Σ_t δ_t

Normalisation: layer, RMS, group, and batch with running statistics. Sums are over the positions t of an input: the
tokens or pixels to which a function is applied in parallel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["matrix", "table", "scale", "shift"]
Used = list[tuple[Tensor | None, "Use"]]  # a parameter and its use


@dataclass(frozen=True)
class Use:
    """One use of a parameter. `lead` below are the axes of positions, in the function's own order.

    `given` is the input: a (*lead, groups·q) for a matrix, k (*lead,) for a table, x̂ (*lead, n) for a scale, None for a
    shift. `output` is z, on the graph. Its channels are on axis 1 if `channels_first`, else on `trailing` last axes.
    """

    kind: Kind
    given: Tensor | None
    groups: int = 1
    channels_first: bool = False
    trailing: int = 1
    padding: int | None = None
    output: Tensor | None = None

    def at(self, output: Tensor) -> "Use":
        """Return the use with its output z."""
        return replace(self, output=output)

    def arranged(self, delta: Tensor) -> Tensor:
        """Return δ, shaped like z, as (*lead, n), with zeros at the table's padding index."""
        if self.channels_first:
            return delta.movedim(1, -1)
        delta = delta.flatten(delta.ndim - self.trailing)
        if self.padding is not None and self.given is not None:
            delta = delta * (self.given != self.padding).unsqueeze(-1)
        return delta


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Used:
    return [(weight, Use("matrix", input.detach())), (bias, Use("shift", None))]


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: object, **__: object) -> Used:
    padding = padding_idx if padding_idx is None or padding_idx >= 0 else len(weight) + padding_idx
    return [(weight, Use("table", input, padding=padding))]


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Used:
    if input.ndim != weight.ndim:  # one image without a batch
        return []
    patches = _patches(input.detach(), weight.shape[2:], stride, padding, dilation)
    return [
        (weight, Use("matrix", patches, groups, channels_first=True)),
        (bias, Use("shift", None, channels_first=True)),
    ]


def _patches(
    x: Tensor,
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
) -> Tensor:
    """Return the input patch of each output of a convolution: (B, C, *S) as (B, *S', C·k)."""
    axes = len(kernel)
    strides, dilations = _per_axis(stride, axes), _per_axis(dilation, axes)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if padding == "same":  # torch puts the odd element at the end
        pads = [((span - 1) // 2, (span - 1) - (span - 1) // 2) for span in spans]
    else:
        pads = [(p, p) for p in _per_axis(0 if isinstance(padding, str) else padding, axes)]
    x = F.pad(x, [p for pair in reversed(pads) for p in pair])
    for axis in range(axes):
        x = x.unfold(2 + axis, spans[axis], strides[axis])[..., :: dilations[axis]]
    return x.movedim(1, 1 + axes).flatten(1 + axes)


def _per_axis(value: int | Sequence[int], axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Used:
    normal = F.layer_norm(input.detach(), normalized_shape, eps=eps)
    return _affine(normal, weight, bias, len(normalized_shape))


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Used:
    normal = F.rms_norm(input.detach(), normalized_shape, eps=eps)
    return _affine(normal, weight, None, len(normalized_shape))


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Used:
    return _affine_channels(F.group_norm(input.detach(), num_groups, eps=eps), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Used:
    if training:
        return []
    return _affine_channels(F.batch_norm(input.detach(), running_mean, running_var, eps=eps), weight, bias)


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None, trailing: int) -> Used:
    flat = normal.flatten(normal.ndim - trailing)
    return [(weight, Use("scale", flat, trailing=trailing)), (bias, Use("shift", None, trailing=trailing))]


def _affine_channels(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Used:
    return [
        (weight, Use("scale", normal.movedim(1, -1), channels_first=True)),
        (bias, Use("shift", None, channels_first=True)),
    ]


# All known functions and the uses of their parameters.
LAYERS: dict[Any, Callable[..., Used]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}


def total(use: Use, delta: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return the gradient of this use in its parameter, summed over all positions, from δ (*lead, n), and the size
    Σ_t ‖δ_t‖ ‖given_t‖, to which its rounding error is proportional."""
    d = delta.flatten(0, -2)
    size = torch.linalg.vector_norm(d, dim=1)
    if use.kind == "shift":
        return d.sum(dim=0).reshape(shape), size.sum()
    assert use.given is not None
    if use.kind == "table":
        ids = use.given.flatten()
        return d.new_zeros(shape).index_add_(0, ids, d), size.sum()
    given = use.given.flatten(0, -2)
    scale = (size * torch.linalg.vector_norm(given, dim=1)).sum()
    if use.kind == "scale":
        return (d * given).sum(dim=0).reshape(shape), scale
    return torch.einsum("tgp,tgq->gpq", torch.unflatten(d, 1, (use.groups, -1)), _grouped(use, given)).reshape(
        shape
    ), scale


def _grouped(use: Use, given: Tensor) -> Tensor:
    return torch.unflatten(given, -1, (use.groups, -1))


def rows(use: Use, given: Tensor | None, delta: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradients of this use, (N, O, P), per input and output, from δ (N, O, T, n) and given (N, T, ...)."""
    n, o = delta.shape[:2]
    if use.kind == "shift":
        return delta.sum(dim=2)
    assert given is not None
    if use.kind == "table":
        ids = given[:, None, :, None].expand_as(delta)
        return delta.new_zeros(n, o, *shape).scatter_add_(2, ids, delta).flatten(2)
    if use.kind == "scale":
        return torch.einsum("notp,ntp->nop", delta, given)
    grouped = torch.unflatten(delta, 3, (use.groups, -1))
    return torch.einsum("notgp,ntgq->nogpq", grouped, _grouped(use, given)).flatten(2)
