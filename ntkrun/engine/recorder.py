"""The recorder of a stack: it measures states against the first one, notes diverged runs, keeps checkpoints."""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from ntkrun.engine import detail_probes
from ntkrun.engine.calls import calls
from ntkrun.engine.checkpoint import Checkpoint, Keeper, checkpoint
from ntkrun.engine.clock import Laps
from ntkrun.engine.divergence import Losses
from ntkrun.engine.flows import advance
from ntkrun.engine.measured_rows import Axes, Columns, Kernels, Rows
from ntkrun.engine.probes import Measurement, Reference, measure, reference
from ntkrun.engine.task import StackTask
from ntkrun.engine.training import Descent, LearningProblem, State


class StackRecorder:
    """Measures a stack state by state.

    It holds the rows of its tables, its losses, the `reference` that states are compared with, and the change of
    outputs that the kernel predicts for the last state, until the outcome of that step is known. `measurement` is that
    of the latest state, None if it was not probed. A resumed training begins with state 0 again, from which only the
    reference is made; then it goes on at the step of the checkpoint.
    """

    def __init__(
        self,
        task: StackTask,
        problem: LearningProblem,
        read_every: int,
        clock: Laps,
        keeper: Keeper,
        resume: Checkpoint | None,
    ):
        self.task, self.problem, self.read_every = task, problem, read_every
        self.clock, self.keeper, self.resume = clock, keeper, resume
        self.started = time.perf_counter() - (resume.seconds if resume else 0.0)
        self.call = calls(problem.network, problem.x.device, clock)
        net = problem.network
        axes = Axes(len(net.layers), len(problem.x), len(problem.x_test), net.outputs)
        self.rows = Rows(axes, problem.step_size, task.keep_kernels, task.keep_last_kernel)
        self.losses = Losses(len(problem.seeds))
        self.reference: Reference | None = None
        self.measurement: Measurement | None = None
        self.pull: detail_probes.Pull | None = None
        self.time = torch.zeros(1, dtype=torch.float64, device=problem.x.device)

    def steps(self, descent: Descent) -> Iterator[int]:
        yield 0
        first = 1
        if self.resume:
            descent.restore(self.resume.snapshot)
            first, self.resume = self.resume.step, None
        for step in range(first, self.problem.steps + 1):
            if self.losses.all_diverged:
                return
            yield step

    def probes(self, step: int) -> bool:
        return step in self.task.probed

    def record(self, state: State) -> None:
        self.losses.add(state.loss)
        checked = state.step % self.read_every == 0 or state.step == self.problem.steps
        if checked:
            self.losses.check(state.step)
        if self.resume:
            self._take_up(state, self.resume)
            return
        self._complete(state)
        if checked:
            self.rows.read(self.losses.ends)
            self.clock.lap("probes")  # mostly eigenvalues
        if self.losses.all_diverged:
            self.measurement = None
            return
        if checked and 0 < state.step < self.problem.steps and self.keeper.due():
            self.keeper.keep(self.checkpoint(state))
        self.measurement = self._measured(state)
        self.clock.lap("reading back")
        if self.reference is not None and state.step < self.problem.steps:
            # The predictions of frozen kernels take the step that the state is about to take.
            self.call("flows", advance, self.reference.flows, state)

    def result(self) -> tuple[dict[str, Columns], Kernels]:
        """Return all tables, and the stored kernels by position and step."""
        self.rows.read(self.losses.ends)
        return self.rows.result()

    @property
    def seconds(self) -> float:
        """Run time of the stack, that before a checkpoint included."""
        return time.perf_counter() - self.started

    def checkpoint(self, state: State) -> Checkpoint:
        """Return the checkpoint of a state that is checked for divergence but not measured yet."""
        assert self.reference is not None, "computed from the first state"
        return checkpoint(state, self.reference.flows, self.rows.recorded, self.losses.diverged, self.seconds)

    def _complete(self, state: State) -> None:
        """Record the outcome of the last state's step."""
        if self.pull is not None:
            self.rows.complete(detail_probes.residuals(self.pull, state, self.problem))
            self.pull = None
            self.clock.lap("detail")

    def _measured(self, state: State) -> Measurement | None:
        if state.kernel is None:
            return None
        if self.reference is None:
            self.reference = reference(state, self.problem, bool(self.task.detailed), self.clock)
        options = state.step in self.task.detailed, state.step in self.task.keep_outputs
        self.time.fill_(state.step * self.problem.step_size)
        diverged = tuple(run.position for run in self.losses.diverged)
        measurement = replace(measure(state, self.reference, self.time, *options, self.clock), diverged=diverged)
        self.rows.add(measurement)
        self.pull = measurement.pull if state.step < self.problem.steps else None
        return measurement

    def _take_up(self, first: State, saved: Checkpoint) -> None:
        """Take up the records of a checkpoint, and make the reference from the first state of the training."""
        made = reference(first, self.problem, bool(self.task.detailed), self.clock)
        self.reference = replace(made, flows=saved.flows(made.flows))
        self.rows.recorded = saved.recorded()
        self.losses.take_up(saved.diverged)
