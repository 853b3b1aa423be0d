"""Gradient descent on a stack of networks, as an iterator of states.

The loss is (1/N) Σ_i ℓ(f(x_i), y_i), ℓ from theory/losses.py and f the network's function F, or what readout.py makes
of it; with batches its gradient is that of B inputs, drawn for the step. Time is t = η·step.

The step and the kernel share their passes: with r = ∂loss/∂F (of loss/α² where f has an α),

    ∂loss/∂w^(l) = s_l Σ_x (Σ_i r_i(x) δ_i^(l+1)(x)) a^(l)(x)ᵀ
    ∂loss/∂b^(l) = c_l Σ_x Σ_i r_i(x) δ_i^(l+1)(x).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.cuda_graphs import Replay, replay_of
from ntkrun.engine.network import BATCHES, DenseNetwork, Layers, Parameters, generator, output_gradients, pullback
from ntkrun.engine.readout import PLAIN, OutputScale, Readout
from ntkrun.engine.update import Update
from ntkrun.theory.losses import LOSSES, Loss

GROWTH_LIMIT = 1e6  # a run whose loss has grown by this factor has diverged
STEPS_AHEAD = 64  # batches are drawn, and sent to the device, for so many steps at once


@dataclass(frozen=True)
class Divergence:
    """A run that left its stack: its position in the stack as it started, the step, and why."""

    position: int
    step: int
    reason: str


@dataclass(frozen=True)
class State:
    """The runs of a stack before an update. Valid until the next state is asked for: parameters are updated in place,
    and on CUDA the passes too.

    `positions` are those of the runs still going, in the stack as it started (S of them); `diverged` were found to have
    diverged since the last check, at this step or before. `checked`: divergence has been looked for up to this state;
    what unchecked states say of a run from its departure's step on is to be dropped.
    `params` is W, `start` is W_0, `velocity` v with momentum. `batch` are the inputs whose loss the update descends,
    (S, B); None means all.

    `outputs` are f, (S, N, O), and `loss` (S,) is of them.

    At probed steps `layers`, `outputs` and `loss` are of all inputs, `deltas` are δ^(l), (S, N, O, n_l), from the
    passes of the training step itself, and `distances` are ‖p - p_0‖ of each parameter, (S, 2L), float64. At others
    `layers`, `outputs` and `loss` are of the batch, and there are no `deltas` and `distances`. What is made of these
    tensors at every step may be `replay`ed as they are.
    """

    step: int
    positions: list[int]
    diverged: list[Divergence]
    checked: bool
    params: Parameters
    start: Parameters
    velocity: Parameters | None
    batch: Tensor | None
    layers: Layers
    outputs: Tensor
    loss: Tensor
    deltas: list[Tensor] | None
    distances: Tensor | None
    replay: Replay


@dataclass(frozen=True)
class Snapshot:
    """Where a training stands before the update of `step` > 0: what of a State cannot be made again from its seeds."""

    step: int
    positions: list[int]
    params: Parameters
    velocity: Parameters | None
    distances: Tensor | None


def train(
    net: DenseNetwork,
    params: Parameters,
    x: Tensor,
    y: Tensor,
    step_size: float,
    steps: int,
    probed: Collection[int],
    loss: Loss = LOSSES["squared"],
    momentum: float = 0.0,
    batches: Iterator[Tensor] | None = None,
    check_every: int = 1,
    scale: OutputScale = PLAIN,
    clock: Laps = NO_CLOCK,
    resume: Snapshot | None = None,
) -> Iterator[State]:
    """States 0..`steps` of gradient descent on inputs x (N, n_0), targets y (N, O); changes `params`.

    `batches` gives (S, B) input numbers a step, for the stack as it started. A run whose loss is not finite, or has
    grown by GROWTH_LIMIT, leaves the stack; the others go on. Ends early when none is left. Losses are looked at every
    `check_every` steps, at step 0 and at the last: on a device of its own each look makes it wait for the host.

    To `resume` a training that stood elsewhere is to begin as it began: after state 0 come those from there on.
    """
    descent = Update.begin(params, step_size, momentum, moves=steps > 0)
    runs = _Runs.begin(net, params, descent, Readout.begin(scale, net, params, x))
    clock.lap("initialisation")
    for step in chain([0], range(resume.step if resume else 1, steps + 1)):
        if resume and step == resume.step:
            runs = runs.at(resume)
            batches = batches and islice(batches, step - 1, None)
        probe, batch = step in probed, next(batches) if batches else None
        seen = runs.forward(x, y, loss, batch, probe)
        runs.losses.append(seen.loss.clone())
        checked = step % check_every == 0 or step == steps
        diverged = runs.divergences(step) if checked else []
        if diverged:
            runs = runs.without(diverged)
            seen = runs.forward(x, y, loss, batch, probe)
        clock.lap("forward")
        deltas = runs.replay("deltas", partial(output_gradients, seen.layers)) if probe and runs.positions else None
        clock.lap("backward")
        yield runs.state(step, diverged, checked, seen, deltas)
        if not runs.positions:
            return
        if step < steps:
            d = runs.downhill(seen, deltas, loss)
            clock.lap("backward")
            runs.move(seen, d, probe, measure=step + 1 in probed)
            clock.lap("update")


def batches(net: DenseNetwork, seeds: Sequence[int], inputs: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """`size` of the inputs 0..`inputs`-1 a step and run, i.i.d. with replacement: (S, B), without end.

    Each run has a generator of its own, so that what it draws does not depend on what it is stacked with; its widths
    are part of the key, as shapes are for initial weights.
    """
    draws = [generator(seed, net.depth, BATCHES, *net.widths) for seed in seeds]
    while True:
        ahead = np.stack([draw.integers(inputs, size=(STEPS_AHEAD, size)) for draw in draws], axis=1)
        yield from torch.from_numpy(ahead).to(device)


@dataclass
class _Runs:
    """What the runs still going carry from step to step; `distances` of the last state that is probed, or will be;
    `losses` of the steps since divergence was last looked for. What is done at each step is `replay`ed as long as the
    tensors are these."""

    net: DenseNetwork
    positions: list[int]
    rows: Tensor  # the positions on the device: a list would be sent there at every step
    params: Parameters
    descent: Update
    readout: Readout
    distances: Tensor
    replay: Replay
    losses: list[Tensor] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, net: DenseNetwork, params: Parameters, descent: Update, readout: Readout) -> "_Runs":
        stack = len(params.weights[0])
        nowhere = params.weights[0].new_zeros(stack, sum(1 for _ in params), dtype=torch.float64)
        rows = torch.arange(stack, device=nowhere.device)
        return cls(net, list(range(stack)), rows, params, descent, readout, nowhere, replay_of(net, rows.device))

    def forward(self, x: Tensor, y: Tensor, loss: Loss, batch: Tensor | None, probe: bool) -> "_Pass":
        return self.replay(("forward", probe), partial(_forward, self, x, y, loss, probe), batch)

    def downhill(self, seen: "_Pass", deltas: list[Tensor] | None, loss: Loss) -> list[Tensor]:
        """The directions d^(l) of the step's loss."""

        def found() -> list[Tensor]:
            r = self.readout.pull(loss.gradient(seen.outputs, seen.targets) * seen.shares)
            return directions(seen.layers, deltas, r)

        return self.replay(("directions", deltas is None), found)

    def move(self, seen: "_Pass", d: list[Tensor], probe: bool, measure: bool) -> None:
        """Take the step; `measure` the distances that it leads to."""

        def step() -> None:
            self.descent.update(seen.layers, d)
            if measure:
                self.descent.distance.measure(self.distances)

        self.replay(("update", probe, measure), step)

    def state(
        self, step: int, diverged: list[Divergence], checked: bool, seen: "_Pass", deltas: list[Tensor] | None
    ) -> State:
        start, velocity = self.descent.distance.start, self.descent.velocity
        distances = None if deltas is None else self.distances
        passes = (seen.batch, seen.layers, seen.outputs, seen.loss, deltas, distances, self.replay)
        return State(step, self.positions, diverged, checked, self.params, start, velocity, *passes)

    def divergences(self, step: int) -> list[Divergence]:
        """Which runs have diverged by `step`, since which step, and how: one transfer for all losses not looked at."""
        losses = torch.stack(self.losses, dim=1).tolist()  # by run, then step
        self.losses = []
        self.first_losses = self.first_losses or [of_run[0] for of_run in losses]
        runs = zip(self.positions, losses, self.first_losses, strict=True)
        found = [_divergence(position, of_run, first, step) for position, of_run, first in runs]
        return [departure for departure in found if departure]

    def without(self, diverged: list[Divergence]) -> "_Runs":
        left = {run.position for run in diverged}
        return self._select([k for k, position in enumerate(self.positions) if position not in left])

    def at(self, standing: Snapshot) -> "_Runs":
        """The runs that still went on there, as they stood."""
        going, runs = set(standing.positions), self
        if len(going) < len(self.positions):
            runs = self._select([k for k, position in enumerate(self.positions) if position in going])
        runs.params.set_(standing.params)
        if runs.descent.velocity is not None and standing.velocity is not None:
            runs.descent.velocity.set_(standing.velocity)
        if standing.distances is not None:
            runs.distances.copy_(standing.distances)
        return runs

    def _select(self, keep: list[int]) -> "_Runs":
        params = self.params.select(keep)
        return _Runs(
            self.net,
            [self.positions[k] for k in keep],
            self.rows[keep],
            params,
            self.descent.select(keep, params),
            self.readout.select(keep),
            self.distances[keep],
            replay_of(self.net, self.rows.device),
            [loss[keep] for loss in self.losses],
            [self.first_losses[k] for k in keep],
        )


def _divergence(position: int, losses: list[float], first: float, last_step: int) -> Divergence | None:
    """The first of a run's losses, those of the steps up to `last_step`, that says it has diverged."""
    for step, now in enumerate(losses, start=last_step - len(losses) + 1):
        if not now < float("inf"):  # true of nan as well
            return Divergence(position, step, f"the loss is not finite at step {step}")
        if now > GROWTH_LIMIT * first:
            return Divergence(position, step, f"the loss has grown {now / first:.1e}-fold by step {step}")
    return None


@dataclass(frozen=True)
class _Pass:
    """The forward pass of a step and f there, the targets of its inputs, and their `shares` in the loss that the step
    descends."""

    batch: Tensor | None
    layers: Layers
    outputs: Tensor
    targets: Tensor
    shares: Tensor | float
    loss: Tensor


def _forward(runs: _Runs, x: Tensor, y: Tensor, loss: Loss, probe: bool, batch: Tensor | None) -> _Pass:
    """All inputs where everything is measured, else those of the batch alone."""
    batch, readout = None if batch is None else batch.index_select(0, runs.rows), runs.readout
    if batch is None or probe:
        shares = shares_of(batch, x)
    else:
        readout, x, y, shares = readout.of_batch(batch), x[batch], y[batch], 1 / batch.shape[1]
    layers = runs.net.forward(runs.params, x)
    outputs = readout(layers.outputs)
    return _Pass(batch, layers, outputs, y, shares, loss(outputs, y))


def shares_of(batch: Tensor | None, x: Tensor) -> Tensor | float:
    """What each of the inputs x (N, n_0) counts in the loss of a step: 1/N without batches; else how often the batch
    (S, B) drew it, over B: (S, N, 1)."""
    if batch is None:
        return 1 / len(x)
    runs, drawn = batch.shape
    each = x.new_full((runs, drawn), 1 / drawn)
    return x.new_zeros(runs, len(x)).scatter_add_(1, batch, each).unsqueeze(2)


def directions(layers: Layers, deltas: list[Tensor] | None, r: Tensor) -> list[Tensor]:
    """d^(l) = Σ_i r_i δ_i^(l) for l = 1..L, each (S, N, n_l), from the δ of the kernel where they are there already."""
    if deltas is None:
        return pullback(layers, r)
    if r.shape[2] == 1:
        return [r * delta.squeeze(2) for delta in deltas]
    return [(r.unsqueeze(2) @ delta).squeeze(2) for delta in deltas]
