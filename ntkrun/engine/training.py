"""Gradient descent on a stack of networks, as an iterator of states.

The loss is (1/N) Σ_i ℓ(f(x_i), y_i), with ℓ from theory/losses.py. f is the network's function F, or F scaled and
centred by output_scale.py. With batches the gradient is that of B inputs, drawn for the step. Time is t = η·step.

The step and the kernel share their passes: with r = ∂loss/∂F (of loss/α² if f has a factor α),

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
from ntkrun.engine.output_scale import PLAIN, OutputScale, Readout
from ntkrun.engine.update import Update
from ntkrun.theory.losses import LOSSES, Loss

GROWTH_LIMIT = 1e6  # a run whose loss has grown by this factor has diverged
STEPS_AHEAD = 64  # batches are drawn and sent to the device for this many steps at once


@dataclass(frozen=True)
class Divergence:
    """A diverged run: its position in the initial stack, the step at which it diverged, and the reason."""

    position: int
    step: int
    reason: str


@dataclass(frozen=True)
class State:
    """The runs of a stack before an update. A state is valid until the next one is requested, because parameters are
    updated in place, and on CUDA the passes too.

    `positions` are the positions of the remaining runs in the initial stack (S of them). `diverged` lists the runs that
    diverged at this step or earlier and were detected since the last check. `checked` is True if divergence has been
    checked up to this state. Results of unchecked states from the step at which a run diverged must be dropped.
    `params` is W, `start` is W_0, `velocity` is v with momentum. `batch` (S, B) holds the inputs used by the update;
    None means all.

    `outputs` are f, (S, N, O), and `loss` (S,) is the loss of these outputs.

    At probed steps `layers`, `outputs` and `loss` cover all inputs, `deltas` are δ^(l), (S, N, O, n_l), from the passes
    of the training step itself, and `distances` are ‖p - p_0‖ of each parameter, (S, 2L), float64. At other steps
    `layers`, `outputs` and `loss` cover the batch, and `deltas` and `distances` are None. Functions of these tensors
    that run at every step may be called through `replay`.
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
    """A training run before the update of `step` > 0: the part of a State that cannot be recomputed from its seeds."""

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
    """Yield states 0..`steps` of gradient descent on inputs x (N, n_0), targets y (N, O). Changes `params`.

    `batches` yields the input indices (S, B) of a step, for the initial stack. A run whose loss is not finite, or has
    grown by GROWTH_LIMIT, is removed from the stack; the other runs continue. Training ends early when no run remains.
    Losses are checked at step 0, every `check_every` steps and at the last step; each check makes a GPU wait for the
    host. With `resume`, and otherwise the same arguments, state 0 is followed by those from the snapshot's step on.
    """
    descent = Update.begin(params, step_size, momentum, moves=steps > 0)
    runs = _Runs.begin(net, params, descent, Readout.begin(scale, net, params, x))
    clock.lap("initialisation")
    for step in chain([0], range(resume.step if resume else 1, steps + 1)):
        if resume and step == resume.step:
            runs = runs.at(resume)
            batches = batches and islice(batches, step - 1, None)
        probe, batch = step in probed, next(batches) if batches else None
        forward = runs.forward(x, y, loss, batch, probe)
        runs.losses.append(forward.loss.clone())
        checked = step % check_every == 0 or step == steps
        diverged = runs.divergences(step) if checked else []
        if diverged:
            runs = runs.without(diverged)
            forward = runs.forward(x, y, loss, batch, probe)
        clock.lap("forward")
        deltas = runs.replay("deltas", partial(output_gradients, forward.layers)) if probe and runs.positions else None
        clock.lap("backward")
        yield runs.state(step, diverged, checked, forward, deltas)
        if not runs.positions:
            return
        if step < steps:
            d = runs.downhill(forward, deltas, loss)
            clock.lap("backward")
            runs.move(forward, d, probe, measure=step + 1 in probed)
            clock.lap("update")


def batches(net: DenseNetwork, seeds: Sequence[int], inputs: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches (S, B) without end: `size` of the inputs 0..`inputs`-1 per step and run, i.i.d. with replacement.

    Each run has its own generator, so its batches do not depend on the other runs of the stack. The widths are part of
    the generator's key, as the shapes are for initial weights.
    """
    generators = [generator(seed, net.depth, BATCHES, *net.widths) for seed in seeds]
    while True:
        ahead = np.stack([random.integers(inputs, size=(STEPS_AHEAD, size)) for random in generators], axis=1)
        yield from torch.from_numpy(ahead).to(device)


@dataclass
class _Runs:
    """The remaining runs of a stack. `distances` belong to the latest probed state, or to the next one if it is probed.
    `losses` are those of the steps since the last check for divergence. The work of each step goes through `replay`,
    which must be replaced when the tensors change."""

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
        distances = params.weights[0].new_zeros(stack, sum(1 for _ in params), dtype=torch.float64)
        rows = torch.arange(stack, device=distances.device)
        return cls(net, list(range(stack)), rows, params, descent, readout, distances, replay_of(net, rows.device))

    def forward(self, x: Tensor, y: Tensor, loss: Loss, batch: Tensor | None, probe: bool) -> "_Pass":
        return self.replay(("forward", probe), partial(_forward, self, x, y, loss, probe), batch)

    def downhill(self, forward: "_Pass", deltas: list[Tensor] | None, loss: Loss) -> list[Tensor]:
        """Return the directions d^(l) of the step's loss."""

        def compute() -> list[Tensor]:
            r = self.readout.pull(loss.gradient(forward.outputs, forward.targets) * forward.shares)
            return directions(forward.layers, deltas, r)

        return self.replay(("directions", deltas is None), compute)

    def move(self, forward: "_Pass", d: list[Tensor], probe: bool, measure: bool) -> None:
        """Update the parameters, and then their distances from the start if `measure`."""

        def step() -> None:
            self.descent.update(forward.layers, d)
            if measure:
                self.descent.distance.measure(self.distances)

        self.replay(("update", probe, measure), step)

    def state(
        self, step: int, diverged: list[Divergence], checked: bool, forward: "_Pass", deltas: list[Tensor] | None
    ) -> State:
        start, velocity = self.descent.distance.start, self.descent.velocity
        distances = None if deltas is None else self.distances
        passes = (forward.batch, forward.layers, forward.outputs, forward.loss, deltas, distances, self.replay)
        return State(step, self.positions, diverged, checked, self.params, start, velocity, *passes)

    def divergences(self, step: int) -> list[Divergence]:
        """Return the runs that diverged by `step`, with step and reason. All unchecked losses come in one transfer."""
        losses = torch.stack(self.losses, dim=1).tolist()  # indexed by run, then step
        self.losses = []
        self.first_losses = self.first_losses or [run_losses[0] for run_losses in losses]
        runs = zip(self.positions, losses, self.first_losses, strict=True)
        checks = [_divergence(position, run_losses, first, step) for position, run_losses, first in runs]
        return [divergence for divergence in checks if divergence]

    def without(self, diverged: list[Divergence]) -> "_Runs":
        """Return the runs that have not diverged."""
        removed = {run.position for run in diverged}
        return self._select([k for k, position in enumerate(self.positions) if position not in removed])

    def at(self, snapshot: Snapshot) -> "_Runs":
        """Return the runs of a snapshot in the state that it recorded."""
        remaining, runs = set(snapshot.positions), self
        if len(remaining) < len(self.positions):
            runs = self._select([k for k, position in enumerate(self.positions) if position in remaining])
        runs.params.set_(snapshot.params)
        if runs.descent.velocity is not None and snapshot.velocity is not None:
            runs.descent.velocity.set_(snapshot.velocity)
        if snapshot.distances is not None:
            runs.distances.copy_(snapshot.distances)
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
    """Return the first divergence in a run's losses, which end at `last_step`, or None."""
    for step, loss in enumerate(losses, start=last_step - len(losses) + 1):
        if not loss < float("inf"):  # true of nan as well
            return Divergence(position, step, f"the loss is not finite at step {step}")
        if loss > GROWTH_LIMIT * first:
            return Divergence(position, step, f"the loss has grown {loss / first:.1e}-fold by step {step}")
    return None


@dataclass(frozen=True)
class _Pass:
    """The forward pass of a step: its outputs f and loss, the targets of its inputs, and the `shares` of these inputs
    in the loss that the step minimises."""

    batch: Tensor | None
    layers: Layers
    outputs: Tensor
    targets: Tensor
    shares: Tensor | float
    loss: Tensor


def _forward(runs: _Runs, x: Tensor, y: Tensor, loss: Loss, probe: bool, batch: Tensor | None) -> _Pass:
    """Run the forward pass on all inputs at a probed step, else on the batch only."""
    batch, readout = None if batch is None else batch.index_select(0, runs.rows), runs.readout
    if batch is None or probe:
        shares = shares_of(batch, x)
    else:
        readout, x, y, shares = readout.of_batch(batch), x[batch], y[batch], 1 / batch.shape[1]
    layers = runs.net.forward(runs.params, x)
    outputs = readout(layers.outputs)
    return _Pass(batch, layers, outputs, y, shares, loss(outputs, y))


def shares_of(batch: Tensor | None, x: Tensor) -> Tensor | float:
    """Return the weight of each of the inputs x (N, n_0) in the loss of a step: 1/N without batches. With batches it is
    (S, N, 1): how often the batch (S, B) contains the input, divided by B."""
    if batch is None:
        return 1 / len(x)
    runs, size = batch.shape
    weight = x.new_full((runs, size), 1 / size)
    return x.new_zeros(runs, len(x)).scatter_add_(1, batch, weight).unsqueeze(2)


def directions(layers: Layers, deltas: list[Tensor] | None, r: Tensor) -> list[Tensor]:
    """Return d^(l) = Σ_i r_i δ_i^(l) for l = 1..L, each (S, N, n_l), from the δ of the kernel if they are available."""
    if deltas is None:
        return pullback(layers, r)
    if r.shape[2] == 1:
        return [r * delta.squeeze(2) for delta in deltas]
    return [(r.unsqueeze(2) @ delta).squeeze(2) for delta in deltas]
