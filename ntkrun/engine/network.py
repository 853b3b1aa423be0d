"""Dense networks with many seeds stacked: the forward pass and the output gradients."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.parametrization import Scales, scales
from ntkrun.engine.torch_settings import spread
from ntkrun.errors import UserError
from ntkrun.theory.activations import activation

WEIGHTS, BIASES, BATCHES = 0, 1, 2  # roles in the key of a random generator


@dataclass(frozen=True)
class Parameters:
    """The parameters of S stacked networks: `weights[l]` is (S, n_{l+1}, n_l), `biases[l]` is (S, n_{l+1}), l =
    0..L-1."""

    weights: list[Tensor]
    biases: list[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.weights
        yield from self.biases

    def clone(self) -> "Parameters":
        """Return a copy."""
        return Parameters([w.clone() for w in self.weights], [b.clone() for b in self.biases])

    def zeros(self) -> "Parameters":
        """Return zeros of the same shapes."""
        return Parameters([torch.zeros_like(w) for w in self.weights], [torch.zeros_like(b) for b in self.biases])

    def set_(self, values: "Parameters") -> None:
        """Copy these values into the parameters, in place."""
        for target, source in zip(self, values, strict=True):
            target.copy_(source)

    def select(self, positions: list[int]) -> "Parameters":
        """Return a copy of the networks at these positions of the stack, in this order."""
        return Parameters([w[positions] for w in self.weights], [b[positions] for b in self.biases])


@dataclass(frozen=True)
class Layers:
    """Results of a forward pass: `activations[l]` = a^(l), l = 0..L-1, and `preactivations[l]` = z^(l+1), each (S, N,
    n). The network and its parameters are included for the backward pass."""

    net: "DenseNetwork"
    params: Parameters
    activations: list[Tensor]
    preactivations: list[Tensor]

    @property
    def outputs(self) -> Tensor:
        """F(x) = z^(L), (S, N, O)."""
        return self.preactivations[-1]


@dataclass(frozen=True)
class DenseNetwork:
    """A dense network with L = `depth` weight layers and widths n_0 = `inputs`, n_1, ..., n_{L-1}, n_L = `outputs`:

        a^(0) = x,   z^(l+1) = (σ_w/√n_l) w^(l) a^(l) + β b^(l),   a^(l) = σ(z^(l)),   F(x) = z^(L).

    `width` is n_1 = ... = n_{L-1}, or the L-1 hidden widths one by one; `beta` is β, `weight_scale` is σ_w. All weights
    and biases start as independent N(0, 1): the scale is part of the forward pass (NTK parametrization; Jacot, Gabriel
    and Hongler 2018, section 2). The last layer is linear. `parametrization` may also be "standard" or "mean_field":
    the same network with its scales in other places, see parametrization.py. Raises UserError for invalid sizes.
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
    def parameter_count(self) -> int:
        """P = Σ_l (n_l + 1) n_{l+1}."""
        return sum((n + 1) * m for n, m in zip(self.widths, self.widths[1:], strict=False))

    @cached_property
    def scales(self) -> tuple[Scales, ...]:
        """The scales of every layer, set by the parametrization from σ_w, β and the widths."""
        return scales(self.parametrization, self.widths, self.weight_scale, self.beta)

    def scale(self, layer: int) -> float:
        """Return the factor before w^(l), σ_w/√n_l in the NTK parametrization."""
        return self.scales[layer].weight

    def bias_scale(self, layer: int) -> float:
        """Return the factor before b^(l), β in the NTK parametrization."""
        return self.scales[layer].bias

    def weight_std(self, layer: int) -> float:
        """Return the standard deviation of the initial entries of w^(l)."""
        return self.scales[layer].weight_std

    def bias_std(self, layer: int) -> float:
        """Return the standard deviation of the initial entries of b^(l)."""
        return self.scales[layer].bias_std

    def init(
        self, seeds: Sequence[int], dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> Parameters:
        """Return initial parameters, one network per seed, with normal entries: N(0, 1) in the NTK parametrization.

        Entries are drawn in float64 on the CPU, with a separate generator for each (seed, layer, role), then scaled,
        cast and moved. So a network starts from the same numbers in any stack and on any device, and as the same
        function in the NTK and the standard parametrization. The shape is part of the generator's key, so that networks
        of different widths are independent, as the intervals of fitted exponents assume.
        """

        def draw(stack: Tensor, std: float, layer: int, role: int, positions: range) -> None:
            shape = stack.shape[1:]
            drawn = torch.empty(shape, dtype=torch.float64)  # shared by all seeds: mapping new memory takes time
            for position in positions:
                generator(seeds[position], layer, role, *shape).standard_normal(out=drawn.numpy())
                stack[position] = drawn.mul_(std)

        n, layers = self.widths, range(self.depth)
        weights = [torch.empty(len(seeds), n[l + 1], n[l], dtype=dtype) for l in layers]
        biases = [torch.empty(len(seeds), n[l + 1], dtype=dtype) for l in layers]
        tensors = [(weights[l], self.weight_std(l), l, WEIGHTS) for l in layers]
        tensors += [(biases[l], self.bias_std(l), l, BIASES) for l in layers]
        spread(lambda task: draw(*task), [(*tensor, part) for tensor in tensors for part in _shares(len(seeds))])
        return Parameters([w.to(device) for w in weights], [b.to(device) for b in biases])

    def apply(self, params: Parameters, x: Tensor) -> Tensor:
        """Return F(W, x) for inputs x (N, n_0): (S, N, O)."""
        with torch.no_grad():
            return self.forward(params, x).outputs

    def forward(self, params: Parameters, x: Tensor) -> Layers:
        """Run all layers on inputs x: (N, n_0) shared by the stack, or (S, N, n_0) with separate inputs for every
        network."""
        _check_inputs(self, x)
        sigma = activation(self.activation).function
        a = [x.to(params.weights[0]).expand(len(params.weights[0]), -1, -1)]
        z = [self._affine(params, 0, a[0])]
        for layer in range(1, self.depth):
            a.append(sigma(z[-1]))
            z.append(self._affine(params, layer, a[-1]))
        return Layers(self, params, a, z)

    def _affine(self, params: Parameters, layer: int, a: Tensor) -> Tensor:
        b, w = params.biases[layer].unsqueeze(1), params.weights[layer].mT
        return torch.baddbmm(b, a, w, beta=self.bias_scale(layer), alpha=self.scale(layer))


def output_gradients(layers: Layers) -> list[Tensor]:
    """Return δ_i^(l)(x) = ∂F_i(x)/∂z^(l) for l = 1..L, each (S, N, O, n_l), i the third axis.

    δ_i^(L) = e_i,   δ_i^(l) = (s_l · δ_i^(l+1) w^(l)) ∘ σ'(z^(l)),   s_l the factor before w^(l)
    """
    top = layers.outputs
    s, n, o = top.shape
    return _backward(layers, torch.eye(o, dtype=top.dtype, device=top.device).expand(s, n, o, o))


def pullback(layers: Layers, cotangent: Tensor) -> list[Tensor]:
    """Return Σ_i v_i ∂F_i(x)/∂z^(l) for l = 1..L, each (S, N, n_l), for v (S, N, O), in one backward pass."""
    return [d.squeeze(2) for d in _backward(layers, cotangent.unsqueeze(2))]


def _backward(layers: Layers, top: Tensor) -> list[Tensor]:
    """Run the recursion of δ from `top` (S, N, R, O), R vectors per input, down to z^(1): L tensors (S, N, R, n_l)."""
    net, sigma = layers.net, activation(layers.net.activation)
    deltas = [top]
    for layer in range(len(layers.preactivations) - 1, 0, -1):  # the layers may be a network's first ones only
        slope = sigma.slope(layers.preactivations[layer - 1], layers.activations[layer])
        back = _scaled_product(deltas[0].flatten(1, 2), layers.params.weights[layer], net.scale(layer))
        deltas.insert(0, back.view(*top.shape[:3], back.shape[-1]).mul_(slope.unsqueeze(2)))
    return deltas


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale · a b, with the factor inside the product (with beta=0 the first argument is not read)."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _shares(count: int) -> list[range]:
    """Split `count` seeds into one range per thread."""
    threads = min(count, torch.get_num_threads())
    return [range(count * k // threads, count * (k + 1) // threads) for k in range(threads)]


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of a seed and key. Generators with different keys are independent."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _check_inputs(net: DenseNetwork, x: Tensor) -> None:
    if x.ndim not in (2, 3) or x.shape[-1] != net.inputs:
        raise UserError(f"the inputs have shape {tuple(x.shape)}, but the network takes (N, {net.inputs})")
