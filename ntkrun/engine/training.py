"""Full-batch gradient descent on a stack of networks, as an iterator of states.

Loss and its convention: (1/N) Σ_i ½ Σ_o (F_o(x_i) - y_io)², the mean over inputs of half the squared error, summed over
outputs. (torch's MSELoss has no ½ and also averages over outputs.) Time is t = η·step.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.network import DenseNetwork, Layers, Parameters, output_gradients, pullback

GROWTH_LIMIT = 1e6  # a run whose loss has grown by this factor has diverged


@dataclass(frozen=True)
class Departure:
    """A run that left its stack: its position in the stack as it started, the step, and why."""

    position: int
    step: int
    reason: str


@dataclass(frozen=True)
class State:
    """The runs of a stack before an update. Valid until the next state is asked for: parameters are updated in place.

    `positions` are those of the runs still going, in the stack as it started (S of them); `departed` left at this step.
    `layers` and `deltas` (δ^(l), (S, N, O, n_l)) are from the passes of the training step itself; `deltas` is None at
    steps that are not probed.
    """

    step: int
    positions: list[int]
    departed: list[Departure]
    params: Parameters
    layers: Layers
    loss: Tensor
    deltas: list[Tensor] | None


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """(1/N) Σ_i ½ Σ_o (F - y)², for outputs (S, N, O) and targets (N, O): (S,)."""
    return (outputs - y).square().sum(dim=2).mean(dim=1) / 2


def train(
    net: DenseNetwork,
    params: Parameters,
    x: Tensor,
    y: Tensor,
    step_size: float,
    steps: int,
    probed: Collection[int],
) -> Iterator[State]:
    """States 0..`steps` of gradient descent W ← W - η ∇loss on inputs x (N, n_0), targets y (N, O); changes `params`.

    The step and the kernel share their passes: with r = ∂loss/∂F,

        ∂loss/∂w^(l) = (σ_w/√n_l) Σ_x (Σ_i r_i(x) δ_i^(l+1)(x)) a^(l)(x)ᵀ
        ∂loss/∂b^(l) = β Σ_x Σ_i r_i(x) δ_i^(l+1)(x).

    A run whose loss is not finite, or has grown by GROWTH_LIMIT, leaves the stack; the others go on. Ends early when
    none is left.
    """
    positions = list(range(len(params.weights[0])))
    start: Tensor | None = None
    for step in range(steps + 1):
        layers = _passes(net, params, x)
        loss = squared_error(layers.outputs.detach(), y)
        start = loss if start is None else start
        departed = _departures(loss, start, step, positions)
        if departed:
            left = {run.position for run in departed}
            keep = [k for k, position in enumerate(positions) if position not in left]
            positions = [positions[k] for k in keep]
            params, start, loss = params.select(keep), start[keep], loss[keep]
            if keep:
                layers = _passes(net, params, x)
        deltas = output_gradients(layers) if step in probed and positions else None
        yield State(step, positions, departed, params, layers, loss, deltas)
        if not positions:
            return
        if step < steps:
            _descend(net, params, layers, _directions(layers, deltas, y), step_size)


def _passes(net: DenseNetwork, params: Parameters, x: Tensor) -> Layers:
    with torch.enable_grad():
        return net.forward(params, x)


def _directions(layers: Layers, deltas: list[Tensor] | None, y: Tensor) -> list[Tensor]:
    """Σ_i r_i δ_i^(l) for l = 1..L, each (S, N, n_l), from the δ of the kernel where they are there already."""
    residual = (layers.outputs.detach() - y) / len(y)
    if deltas is None:
        return pullback(layers, residual)
    return [(residual.unsqueeze(3) * delta).sum(dim=2) for delta in deltas]


def _descend(net: DenseNetwork, params: Parameters, layers: Layers, directions: list[Tensor], step_size: float) -> None:
    for layer, d in enumerate(directions):
        a = layers.activations[layer].detach()
        params.weights[layer].baddbmm_(d.mT, a, alpha=-step_size * net.scale(layer))
        params.biases[layer].add_(d.sum(dim=1), alpha=-step_size * net.beta)


def _departures(loss: Tensor, start: Tensor, step: int, positions: list[int]) -> list[Departure]:
    """Which runs have diverged, and how."""
    departed = []
    for position, now, first in zip(positions, loss.tolist(), start.tolist(), strict=True):
        if not now < float("inf"):  # true of nan as well
            departed.append(Departure(position, step, f"the loss is not finite at step {step}"))
        elif now > GROWTH_LIMIT * first:
            departed.append(Departure(position, step, f"the loss has grown {now / first:.1e}-fold by step {step}"))
    return departed
