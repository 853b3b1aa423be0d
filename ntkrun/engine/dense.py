"""Dense networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ntkrun.engine.network import Forward, Layer, Network, Parameters
from ntkrun.engine.parametrization import Scales, scales
from ntkrun.engine.uses import Affine, Use
from ntkrun.errors import UserError
from ntkrun.theory.activations import ACTIVATIONS, activation


@dataclass(frozen=True)
class DenseNetwork(Network):
    """A dense network with L = `depth` weight layers and widths n_0 = `inputs`, n_1, ..., n_{L-1}, n_L = `outputs`:

        a^(0) = x,   z^(l+1) = (σ_w/√n_l) w^(l) a^(l) + β b^(l),   a^(l) = σ(z^(l)),   F(x) = z^(L).

    `width` is n_1 = ... = n_{L-1}, or the L-1 hidden widths one by one; `beta` is β, `weight_scale` is σ_w.
    `activation` is one of `ntkrun list activations` or a registered one. The last layer is linear. The parametrizations
    are

    * "ntk": all weights and biases start as independent N(0, 1), and the scales are in the forward pass, as above
      (Jacot, Gabriel and Hongler 2018, section 2);
    * "standard": weights start as N(0, σ_w²/n_l), biases as N(0, β²), and the forward pass has no factors;
    * "mean_field": as "ntk", with F divided by √n_{L-1} (Yang and Hu 2021).

    An object holds sizes and no parameters: `init` draws those, for many networks at once. Raises UserError for sizes
    below 1, scales out of range, and unknown names.

    >>> import ntkrun, torch
    >>> net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=3, width=64, activation="erf")
    >>> net.widths, net.parameter_count
    ((2, 64, 64, 1), 4417)
    >>> params = net.init(seeds=[0, 1, 2, 3], dtype=torch.float64)  # four networks, side by side
    >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    >>> net.apply(params, x).shape  # networks, inputs, outputs
    torch.Size([4, 3, 1])
    """

    inputs: int
    outputs: int
    depth: int
    width: int | tuple[int, ...]
    activation: str = "relu"
    beta: float = 0.1
    weight_scale: float = 1.0
    parametrization: str = "ntk"

    def __post_init__(self) -> None:
        if isinstance(self.width, Sequence):
            object.__setattr__(self, "width", tuple(self.width))
            if len(self.width) != self.depth - 1:
                raise UserError(
                    f"width: {len(self.width)} widths for the {self.depth - 1} hidden layers of depth {self.depth}"
                )
        if self.depth < 1 or min(self.widths) < 1:
            raise UserError(f"depth {self.depth} and widths {self.widths}: all must be at least 1")
        if not (
            math.isfinite(self.beta) and self.beta >= 0 and math.isfinite(self.weight_scale) and self.weight_scale > 0
        ):
            raise UserError(f"beta {self.beta} must not be negative, weight_scale {self.weight_scale} must be positive")
        activation(self.activation)
        scales(self.parametrization, self.widths, self.weight_scale, self.beta)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """(n_0, n_1, ..., n_L)."""
        hidden = self.width if isinstance(self.width, tuple) else (self.width,) * (self.depth - 1)
        return (self.inputs, *hidden, self.outputs)

    @property
    def skips(self) -> tuple[float, ...]:
        """The factor γ_l with which z^(l) is added to z^(l+1), for l = 1..L-1: none is."""
        return (0.0,) * (self.depth - 1)

    @cached_property
    def scales(self) -> tuple[Scales, ...]:
        """The scales of every layer, set by the parametrization from σ_w, β and the widths."""
        return scales(self.parametrization, self.widths, self.weight_scale, self.beta)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        n = self.widths
        return tuple(
            Layer(self._name(l), (n[l + 1], n[l]), n[l + 1], self.scales[l], n[l + 1]) for l in range(self.depth)
        )

    def _name(self, layer: int) -> str:
        return "output" if layer == self.depth - 1 else "input" if layer == 0 else f"hidden {layer}"

    @property
    def can_be_recorded(self) -> bool:
        """True for the σ of ntkrun. A user's σ may read values, for which the host would have to wait."""
        return self.activation in ACTIVATIONS

    def forward(self, params: Parameters, x: Tensor) -> Forward:
        if x.ndim not in (2, 3) or x.shape[-1] != self.inputs:
            raise UserError(f"the inputs have shape {tuple(x.shape)}, but the network takes (N, {self.inputs})")
        sigma = activation(self.activation).function
        a = [x.to(params.weights[0]).expand(len(params.weights[0]), -1, -1)]
        z = [self._affine(params, 0, a[0])]
        for layer in range(1, self.depth):
            a.append(sigma(z[-1]))
            z.append(self._added(layer, z[-1], self._affine(params, layer, a[-1])))
        uses: list[Use] = [Affine(a[l], s.weight, s.bias) for l, s in enumerate(self.scales)]
        return Forward(params, uses, z, [*a[1:], z[-1]])

    def backward(self, forward: Forward, top: Tensor, layer: int = -1) -> list[Tensor]:
        """Return gradients with respect to pre-activations: δ^(l) = (s_l · δ^(l+1) w^(l)) ∘ σ'(z^(l)), s_l the factor
        before w^(l), for l = 1..L, from δ^(L) = `top` (S, N, R, O) down, each (S, N, R, n_l). R is the number of
        vectors that are pulled back for each input. With another `layer` than the last, `top` belongs to its outputs.

        >>> top = torch.ones(4, 3, 1, 1, dtype=torch.float64)  # one vector, of one number, for each input
        >>> [tuple(delta.shape) for delta in net.backward(net.forward(params, x), top)]
        [(4, 3, 1, 64), (4, 3, 1, 64), (4, 3, 1, 1)]
        """
        sigma = activation(self.activation)
        deltas = [top]
        for l in range(layer % self.depth, 0, -1):
            slope = sigma.slope(forward.z[l - 1], forward.activations[l - 1]).unsqueeze(2)
            w, delta = forward.params.weights[l], deltas[0]
            delta = delta[:, :1] if delta.stride(1) == 0 else delta  # e_i, the same for every input
            # s_l is applied inside the product (with beta=0 the first argument is not read).
            back = torch.baddbmm(w.new_empty(1), delta.flatten(1, 2), w, beta=0, alpha=self.scales[l].weight)
            back = back.view(*delta.shape[:3], back.shape[-1])
            back = back.mul_(slope) if back.shape[1] == slope.shape[1] else back * slope
            deltas.insert(0, self._added(l, deltas[0], back))
        return deltas

    def of_one_input(self, weights: list[Tensor], biases: list[Tensor], x: Tensor) -> Tensor:
        sigma = activation(self.activation).function
        a = x
        for s, w, b in zip(self.scales, weights, biases, strict=True):
            z = s.weight * (w @ a) + s.bias * b
            a = sigma(z)
        return z

    def _affine(self, params: Parameters, layer: int, a: Tensor) -> Tensor:
        b, w, s = params.biases[layer].unsqueeze(1), params.weights[layer].mT, self.scales[layer]
        return torch.baddbmm(b, a, w, beta=s.bias, alpha=s.weight)

    def _added(self, layer: int, skipped: Tensor, new: Tensor) -> Tensor:
        """Return what a layer makes of its affine part `new` and the `skipped` input: here, the affine part alone."""
        return new
