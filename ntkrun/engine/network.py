"""Networks with many seeds stacked: what the rest of the engine needs of an architecture.

A network is a list of named layers, each with a weight and biases, and three functions: its initial parameters, its
forward pass, which tells how each layer used its parameters, and its backward pass to the outputs of the layers.
Kernels, updates and probes follow from these for every architecture (uses.py, kernel.py).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.parametrization import Scales
from ntkrun.engine.torch_settings import spread
from ntkrun.engine.uses import Use

WEIGHTS, BIASES, BATCHES = 0, 1, 2  # roles in the key of a random generator


@dataclass(frozen=True)
class Parameters:
    """The parameters of S stacked networks, by layer l = 0..L-1. In a dense network `weights[l]` is (S, n_{l+1}, n_l)
    and `biases[l]` is (S, n_{l+1}); biases of a layer without any are (S, 0). Iteration yields all weights, then all
    biases.

    >>> import ntkrun, torch
    >>> params = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=8).init(seeds=[0, 1, 2])
    >>> [tuple(tensor.shape) for tensor in params]
    [(3, 8, 2), (3, 1, 8), (3, 8), (3, 1)]
    """

    weights: list[Tensor]
    biases: list[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.weights
        yield from self.biases

    def clone(self) -> "Parameters":
        """Return a copy, which shares no memory with the original.

        >>> copy = params.clone()
        >>> copy.weights[0] += 1  # in place
        >>> torch.equal(copy.weights[0], params.weights[0])
        False
        """
        return Parameters([w.clone() for w in self.weights], [b.clone() for b in self.biases])

    def zeros(self) -> "Parameters":
        """Return zeros of the same shapes, dtypes and devices.

        >>> [float(tensor.abs().sum()) for tensor in params.zeros()]
        [0.0, 0.0, 0.0, 0.0]
        """
        return Parameters([torch.zeros_like(w) for w in self.weights], [torch.zeros_like(b) for b in self.biases])

    def set_(self, values: "Parameters") -> None:
        """Copy these values into the parameters, in place.

        >>> target = params.zeros()
        >>> target.set_(params)
        >>> torch.equal(target.weights[0], params.weights[0])
        True
        """
        for target, source in zip(self, values, strict=True):
            target.copy_(source)

    def part(self, networks: slice) -> "Parameters":
        """Return the parameters of these networks of the stack, as views.

        >>> [tuple(tensor.shape) for tensor in params.part(slice(1, 3))]
        [(2, 8, 2), (2, 1, 8), (2, 8), (2, 1)]
        """
        return Parameters([w[networks] for w in self.weights], [b[networks] for b in self.biases])

    def double(self) -> "Parameters":
        """Return the parameters in float64.

        >>> params.weights[0].dtype, params.double().weights[0].dtype
        (torch.float32, torch.float64)
        """
        return Parameters([w.double() for w in self.weights], [b.double() for b in self.biases])


@dataclass(frozen=True)
class Layer:
    """A layer of a network: its `name`; the shapes of its weight and biases in one network, for a matrix (n_{l+1}, n_l)
    and (n_{l+1},); its `scales`, the factors before them and their initial standard deviations; the numbers that it
    puts out for an input; and the `positions` of an input at which it is applied."""

    name: str
    weight: tuple[int, ...]
    biases: int
    scales: Scales
    outputs: int
    positions: int = 1

    @property
    def parameter_count(self) -> int:
        return math.prod(self.weight) + self.biases

    @property
    def size(self) -> float:
        """√m times the initial standard deviation of the weight, m its longest side: the unit of ‖w‖_op."""
        return math.sqrt(max(self.weight)) * self.scales.weight_std


@dataclass(frozen=True)
class Forward:
    """A forward pass on N inputs. For each layer it has how it used its parameters, its outputs z^(l+1), and the
    `activations` that leave it: a^(l+1), and F itself for the last layer. Both are (S, N, n), or (S, N, T, n) with
    positions; z of a Free use is (S, N, P)."""

    params: Parameters
    uses: list[Use]
    z: list[Tensor]
    activations: list[Tensor]

    @property
    def outputs(self) -> Tensor:
        """F(x) = z^(L), (S, N, O)."""
        return self.z[-1]


class Network(ABC):
    """An architecture with its sizes. A network's numbers of inputs and outputs are n_0 and O."""

    inputs: int
    outputs: int

    @cached_property
    @abstractmethod
    def layers(self) -> tuple[Layer, ...]:
        """The layers l = 0..L-1, from the inputs to the outputs."""

    @abstractmethod
    def forward(self, params: Parameters, x: Tensor) -> Forward:
        """Run all layers on inputs x: (N, n_0) shared by the stack, or (S, N, n_0) with separate inputs for every
        network. Return what a backward pass needs: for each layer l = 0..L-1 its outputs `z[l]`, which are z^(l+1),
        what leaves it, `activations[l]`, and how it used its parameters; `outputs` is F (S, N, O). Raises UserError for
        inputs of another shape.

        >>> [tuple(z.shape) for z in net.forward(params, x).z]
        [(4, 3, 64), (4, 3, 64), (4, 3, 1)]
        """

    @abstractmethod
    def backward(self, forward: Forward, top: Tensor, layer: int = -1) -> list[Tensor]:
        """Return the gradients of R numbers per input with respect to the outputs of all layers up to this one: for
        each layer Σ_j v_rj ∂z_j/∂z^(l+1), (S, N, R, n), where z are the outputs of `layer`, by default F, and v is
        `top`, (S, N, R, n of this layer). With positions n is (T, n)."""

    @abstractmethod
    def of_one_input(self, weights: list[Tensor], biases: list[Tensor], x: Tensor) -> Tensor:
        """Return F(x), (O,), of one network on one input x (n_0,), from the formula that defines the network. It is
        slow, and serves as a reference.

        >>> one = net.of_one_input([w[0] for w in params.weights], [b[0] for b in params.biases], x[0])
        >>> torch.allclose(one, net.apply(params, x)[0, 0])
        True
        """

    @property
    def can_be_recorded(self) -> bool:
        """True if no pass makes the host wait for the device, so that CUDA graphs can record it."""
        return False

    @cached_property
    def parameter_count(self) -> int:
        """P, the number of parameters of one network."""
        return sum(layer.parameter_count for layer in self.layers)

    def init(
        self, seeds: Sequence[int], dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> Parameters:
        """Return initial parameters, one network per seed, with normal entries: N(0, 1) in the NTK parametrization.

        Entries are drawn in float64 on the CPU, with a separate generator for each (seed, layer, role), then scaled,
        cast and moved. So a network starts from the same numbers in any stack and on any device, and as the same
        function in the NTK and the standard parametrization. All widths are part of the generator's key, so that
        networks of different widths are independent, as the intervals of fitted exponents assume.

        >>> alone, stacked = net.init(seeds=[3]), net.init(seeds=[0, 1, 2, 3])
        >>> torch.equal(alone.weights[1][0], stacked.weights[1][3])
        True
        """

        widths = (self.inputs, *(layer.outputs for layer in self.layers))

        def draw(stack: Tensor, std: float, layer: int, role: int, positions: range) -> None:
            drawn = torch.empty(stack.shape[1:], dtype=torch.float64)  # shared by all seeds: mapping memory takes time
            for position in positions:
                generator(seeds[position], layer, role, *widths).standard_normal(out=drawn.numpy())
                stack[position] = drawn.mul_(std)

        weights = [torch.empty(len(seeds), *layer.weight, dtype=dtype) for layer in self.layers]
        biases = [torch.empty(len(seeds), layer.biases, dtype=dtype) for layer in self.layers]
        tensors = [(weights[l], layer.scales.weight_std, l, WEIGHTS) for l, layer in enumerate(self.layers)]
        tensors += [(biases[l], layer.scales.bias_std, l, BIASES) for l, layer in enumerate(self.layers)]
        spread(lambda task: draw(*task), [(*tensor, part) for tensor in tensors for part in _shares(len(seeds))])
        return Parameters([w.to(device) for w in weights], [b.to(device) for b in biases])

    def apply(self, params: Parameters, x: Tensor) -> Tensor:
        """Return the outputs F(x), (S, N, O), for inputs x (N, n_0), without a graph for autograd. Raises UserError as
        `forward` does.

        >>> F = net.apply(params, x)
        >>> F.shape, F.requires_grad
        (torch.Size([4, 3, 1]), False)
        """
        with torch.no_grad():
            return self.forward(params, x).outputs

    def output_gradients(self, forward: Forward) -> list[Tensor]:
        """Return δ_i^(l)(x) = ∂F_i(x)/∂z^(l) for l = 1..L, each (S, N, O, n_l), i the third axis; δ_i^(L) = e_i.

        >>> delta = net.output_gradients(net.forward(params, x))
        >>> tuple(delta[0].shape), float(delta[-1].min()), float(delta[-1].max())
        ((4, 3, 1, 64), 1.0, 1.0)
        """
        top = forward.outputs
        s, n, o = top.shape
        return self.backward(forward, torch.eye(o, dtype=top.dtype, device=top.device).expand(s, n, o, o))

    def pullback(self, forward: Forward, v: Tensor) -> list[Tensor]:
        """Return Σ_i v_i ∂F_i(x)/∂z^(l) for l = 1..L, each (S, N, n_l), for v (S, N, O), in one backward pass.

        >>> passed = net.forward(params, x)
        >>> pulled = net.pullback(passed, v=2 * torch.ones(4, 3, 1, dtype=torch.float64))
        >>> torch.allclose(pulled[0], 2 * net.output_gradients(passed)[0][:, :, 0])
        True
        """
        return [d.squeeze(2) for d in self.backward(forward, v.unsqueeze(2))]


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of a seed and key. Generators with different keys are independent."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _shares(count: int) -> list[range]:
    """Split `count` seeds into one range per thread."""
    threads = min(count, torch.get_num_threads())
    return [range(count * k // threads, count * (k + 1) // threads) for k in range(threads)]
