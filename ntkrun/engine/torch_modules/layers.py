"""Functions whose gradients in a parameter follow from their input and the gradient δ of their output (uses.py).

    linear          z_t = w a_t      Affine
    convolution     z_t = w a_t      Affine, with a_t the patch at position t, group by group
    embedding       z_t = w[k_t]     Lookup, without the padding index
    normalisation   z_t = w ∘ x̂_t    Elementwise
    their biases    z_t = b          Free, after the sum over positions

Normalisation: layer, RMS, group, and batch with running statistics. The positions t of an input are the tokens or
pixels to which a function is applied in parallel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ntkrun.engine.uses import Affine, Elementwise, Free, Lookup, Use

Used = list[tuple[Tensor | None, "Application"]]  # a parameter and how it is applied


@dataclass(frozen=True)
class Application:
    """One application of a parameter, by the kind of its use. `lead` below are the axes of positions, in the function's
    own order.

    `given` is the input: a (*lead, groups·n), k (*lead,) for Lookup, or 1 (*lead, 1) for Free. `output` is z, on the
    graph. Its channels are on axis 1 if `channels_first`, else on `trailing` last axes.
    """

    kind: type[Use]
    given: Tensor
    groups: int = 1
    channels_first: bool = False
    trailing: int = 1
    padding: int | None = None
    output: Tensor | None = None

    def at(self, output: Tensor) -> "Application":
        """Return the application with its output z."""
        return replace(self, output=output)

    def arranged(self, delta: Tensor) -> Tensor:
        """Return δ, shaped like z, as (*lead, groups·m), with zeros at the table's padding index."""
        if self.channels_first:
            return delta.movedim(1, -1)
        delta = delta.flatten(delta.ndim - self.trailing)
        if self.padding is not None:
            delta = delta * (self.given != self.padding).unsqueeze(-1)
        return delta

    def use(self, given: Tensor, delta: Tensor, size: int, pairs: int) -> tuple[Use, Tensor]:
        """Return the use of a parameter of `size` rows, and its δ, from `given` (N, T, groups·n), or k (N, T), and δ
        (N, O, T, groups·m). Groups are stacked, as networks are; each has a part of the parameter."""
        delta = self._stacked(delta)
        if self.kind is Lookup:
            return Lookup(given.unsqueeze(0), size, pairs), delta
        a = self._stacked(given)
        return (Affine(a, 1.0, 0.0, pairs) if self.kind is Affine else Elementwise(a, 0.0)), delta

    def _stacked(self, channels: Tensor) -> Tensor:
        if self.groups == 1:
            return channels.unsqueeze(0)
        return torch.unflatten(channels, -1, (self.groups, -1)).movedim(-2, 0)

    def gradient(self, given: Tensor, delta: Tensor, size: int) -> Tensor:
        """Return the gradients of each input and output in the parameter, (N, O, P)."""
        if self.kind is Free:
            return delta.sum(dim=2)
        use, delta = self.use(given, delta, size, 1)
        return use.gradient(delta).movedim(0, 2).flatten(2)

    def total(self, delta: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the gradient in a parameter of this shape, summed over all positions, from δ (*lead, m), and the size
        Σ_t ‖δ_t‖ ‖a_t‖, to which its rounding error is proportional."""
        d = delta.flatten(0, -2)
        given = self.given.flatten(0, -1 if self.kind is Lookup else -2)
        size = torch.linalg.vector_norm(d, dim=1)
        if self.kind not in (Lookup, Free):
            size = size * torch.linalg.vector_norm(given, dim=1)
        return self.gradient(given[None], d[None, None], shape[0]).view(shape), size.sum()


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Used:
    return [(weight, Application(Affine, input.detach())), (bias, Application(Free, _ones(input)))]


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: object, **__: object) -> Used:
    padding = padding_idx if padding_idx is None or padding_idx >= 0 else len(weight) + padding_idx
    return [(weight, Application(Lookup, input, padding=padding))]


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
        (weight, Application(Affine, patches, groups, channels_first=True)),
        (bias, Application(Free, _ones(patches), channels_first=True)),
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
    return _scaled(normal, weight, bias, len(normalized_shape))


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Used:
    normal = F.rms_norm(input.detach(), normalized_shape, eps=eps)
    return _scaled(normal, weight, None, len(normalized_shape))


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Used:
    return _scaled_channels(F.group_norm(input.detach(), num_groups, eps=eps), weight, bias)


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
    return _scaled_channels(F.batch_norm(input.detach(), running_mean, running_var, eps=eps), weight, bias)


def _scaled(normal: Tensor, weight: Tensor | None, bias: Tensor | None, trailing: int) -> Used:
    flat = normal.flatten(normal.ndim - trailing)
    return [
        (weight, Application(Elementwise, flat, trailing=trailing)),
        (bias, Application(Free, _ones(flat), trailing=trailing)),
    ]


def _scaled_channels(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Used:
    a = normal.movedim(1, -1)
    return [
        (weight, Application(Elementwise, a, channels_first=True)),
        (bias, Application(Free, _ones(a), channels_first=True)),
    ]


def _ones(a: Tensor) -> Tensor:
    """Return the input of a bias at all positions of a."""
    return a.new_ones(1).expand(*a.shape[:-1], 1)


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
