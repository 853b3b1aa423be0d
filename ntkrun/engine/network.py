"""Dense networks in the NTK parametrisation, many seeds stacked; the forward pass and the output gradients."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.activations import activation

WEIGHTS, BIASES = 0, 1  # roles in the key of a random generator


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
        return Parameters([w.clone() for w in self.weights], [b.clone() for b in self.biases])

    def select(self, positions: list[int]) -> "Parameters":
        """The networks at these positions of the stack, in this order (a copy)."""
        return Parameters([w[positions] for w in self.weights], [b[positions] for b in self.biases])


@dataclass(frozen=True)
class Layers:
    """What a forward pass leaves: `activations[l]` = a^(l), l = 0..L-1, and `preactivations[l]` = z^(l+1), each (S, N,
    n)."""

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
    and biases start as independent N(0, 1): the scale stands in the forward pass (NTK parametrisation; Jacot, Gabriel
    and Hongler 2018, section 2). The last layer is linear. Raises UserError for sizes that make no network.
    """

    inputs: int
    outputs: int
    depth: int
    width: int | tuple[int, ...]
    activation: str = "relu"
    beta: float = 0.1
    weight_scale: float = 1.0

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

    @property
    def widths(self) -> tuple[int, ...]:
        """(n_0, n_1, ..., n_L)."""
        hidden = self.width if isinstance(self.width, tuple) else (self.width,) * (self.depth - 1)
        return (self.inputs, *hidden, self.outputs)

    @property
    def parameter_count(self) -> int:
        """P = Σ_l (n_l + 1) n_{l+1}."""
        return sum((n + 1) * m for n, m in zip(self.widths, self.widths[1:], strict=False))

    def scale(self, layer: int) -> float:
        """σ_w/√n_l, the factor before w^(l)."""
        return self.weight_scale / math.sqrt(self.widths[layer])

    def init(
        self, seeds: Sequence[int], dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> Parameters:
        """Initial parameters, one network a seed, every entry N(0, 1).

        Drawn in float64 on the CPU from a generator of its own for each (seed, layer, role), then cast and moved: a
        network starts from the same numbers whatever it is stacked with and wherever it runs. The shape is part of the
        key, so that networks of different widths are independent, as the intervals of fitted exponents take them to be.
        """

        def draw(layer: int, role: int, *shape: int) -> Tensor:
            stack = torch.empty(len(seeds), *shape, dtype=dtype)
            for position, seed in enumerate(seeds):
                stack[position] = torch.from_numpy(_generator(seed, layer, role, *shape).standard_normal(shape))
            return stack.to(device)

        n = self.widths
        return Parameters(
            weights=[draw(l, WEIGHTS, n[l + 1], n[l]) for l in range(self.depth)],
            biases=[draw(l, BIASES, n[l + 1]) for l in range(self.depth)],
        )

    def apply(self, params: Parameters, x: Tensor) -> Tensor:
        """F(W, x) for inputs x (N, n_0): (S, N, O)."""
        with torch.no_grad():
            return self.forward(params, x).outputs

    def forward(self, params: Parameters, x: Tensor) -> Layers:
        """One pass through all layers; in grad mode it is recorded from z^(1) on, for `pullback`."""
        _check_inputs(self, x)
        sigma = activation(self.activation).function
        a = [x.to(params.weights[0]).expand(len(params.weights[0]), -1, -1)]
        z = [self._affine(params, 0, a[0])]
        z[0].requires_grad_(torch.is_grad_enabled())
        for layer in range(1, self.depth):
            a.append(sigma(z[-1]))
            z.append(self._affine(params, layer, a[-1]))
        return Layers(a, z)

    def _affine(self, params: Parameters, layer: int, a: Tensor) -> Tensor:
        bias, weight = params.biases[layer].unsqueeze(1), params.weights[layer]
        return torch.baddbmm(bias, a, weight.mT, beta=self.beta, alpha=self.scale(layer))


def pullback(layers: Layers, cotangent: Tensor) -> list[Tensor]:
    """Σ_i v_i ∂F_i(x)/∂z^(l) for l = 1..L, each (S, N, n_l), given v (S, N, O): one backward pass.

    F(x) depends on the pre-activations of x alone, so the derivative of the sum over inputs is the derivative at each.
    """
    return list(torch.autograd.grad(layers.outputs, layers.preactivations, cotangent, retain_graph=True))


def output_gradients(layers: Layers) -> list[Tensor]:
    """δ_i^(l)(x) = ∂F_i(x)/∂z^(l) for l = 1..L, each (S, N, O, n_l): one backward pass an output."""
    outputs = layers.outputs
    eye = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    passes = [pullback(layers, e_i.expand_as(outputs)) for e_i in eye]
    return [torch.stack(of_one_layer, dim=2) for of_one_layer in zip(*passes, strict=True)]


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _check_inputs(net: DenseNetwork, x: Tensor) -> None:
    if x.ndim != 2 or x.shape[1] != net.inputs:
        raise UserError(f"inputs of shape {tuple(x.shape)} given to a network that takes (N, {net.inputs})")
