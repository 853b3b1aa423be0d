"""The progress of a sweep on the terminal, and the lines of a dry run."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from ntkrun.config.schema import Point
from ntkrun.engine.devices import GIB
from ntkrun.engine.probes import Measurement
from ntkrun.engine.training import State
from ntkrun.evidence.cells import PlainConsole
from ntkrun.plan.limits import network
from ntkrun.plan.problem import step_size
from ntkrun.plan.runs import Stack
from ntkrun.run.forecast import DryRun
from ntkrun.run.progress import ProgressListener, Tracker, labels
from ntkrun.run.task import Done
from ntkrun.text import spelled_out

REFRESH = 1.0  # seconds between two updates from a running stack, and between two drawings of the bar, 200 bytes each


def progress_for(quiet: bool) -> ProgressListener:
    """Return the listener that reports a sweep's progress: all of it, or with `quiet` failures alone."""
    console = PlainConsole(stderr=True)
    return FailuresOnly(console) if quiet else TerminalProgress(console)


class TerminalProgress(Tracker):
    """The progress of a sweep: a live bar on a terminal that can move its cursor, elsewhere a plain line per stack."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console
        self.bar: Progress | None = None
        self.looked = 0.0

    def timing(self, points: int) -> None:
        self._say(f"timing a few steps of {_count(points, 'grid point')}")

    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int = 1) -> None:
        super().begin(missing, finished, failed, workers)
        count = f"{self.planned - finished - failed} runs to do, {finished} of {self.planned} already done"
        if failed:
            self._say(f"{failed} of {self.planned} runs failed earlier and are skipped; --retry-failed runs them again")
        if self.per_run:
            count += f", about {_duration(self.remaining.seconds(self.started))} left"
        if not missing:
            all_ended = f"all {self.planned} runs are finished" if not failed else f"{finished} runs are finished"
            self._say(f"nothing to run: {all_ended}")
        elif self.console.is_terminal and not self.console.is_dumb_terminal:
            self.bar = _bar(self.console)
            self.bar.start()
            self.task = self.bar.add_task("", total=1.0, numbers=count, counts="")
        else:
            self._say(count)

    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None:
        super().state(stack, state, measurement)
        now = time.monotonic()
        if self.bar is None or measurement is None or now - self.looked < REFRESH:
            return
        self.looked = now
        loss, drift = (measurement.mean(name) for name in ("loss", "kernel_drift"))
        self._draw(f"{self.labels[stack.point]}  step {state.step}  loss {loss:.2e}  kernel drift {drift:.3f}")

    def committed(self, stack: Stack, done: Done) -> None:
        super().committed(stack, done)
        label, runs = self.labels[stack.point], done.frames["runs"]
        for seed, status, reason in zip(stack.seeds, runs["status"], runs["reason"], strict=True):
            if status == "diverged":
                self._say(f"{label}, seed {seed}: diverged; {reason}")
        if self.bar is not None:
            self._draw()
        else:
            last = _last(done.frames["steps"]) if (runs["status"] == "done").any() else ", all diverged"
            self._say(f"{label}: {_count(len(runs), 'run')} in {done.seconds:.1f} s{last}; {self._counts()}")

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        super().failed(stack, reason, last_step, log)
        self._say(_failure(self.labels[stack.point], stack, reason, last_step, log))

    def note(self, stack: Stack, text: str) -> None:
        self._say(f"{self.labels[stack.point]}: {text}")

    def split(self, stack: Stack, why: str) -> None:
        super().split(stack, why)
        runs = len(stack.runs)
        self._say(f"{self.labels[stack.point]}: {runs} runs at once {why}; continuing with {-(-runs // 2)}")

    def tick(self) -> None:
        if self.bar is not None:
            self._draw()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _draw(self, numbers: str | None = None) -> None:
        """Draw the bar: of its length the part of the time that has passed."""
        assert self.bar is not None, "only a terminal has one"
        now = time.monotonic()
        passed = now - self.started
        done = passed / (passed + self.remaining.seconds(now)) if passed else 0.0
        fields = {"counts": self._counts()} | ({} if numbers is None else {"numbers": numbers})
        self.bar.update(self.task, completed=done, **fields)  # type: ignore[arg-type]

    def _counts(self) -> str:
        ended = self.ended_runs + self.failed_runs
        left = self.remaining.seconds(time.monotonic()) if ended < self.planned else 0.0
        return f"{ended}/{self.planned} runs" + (f", {_duration(left)} left" if left else "")

    def _say(self, line: str) -> None:
        """Print a line without wrapping it, so that a log can be searched."""
        self.console.print(line, soft_wrap=True, markup=False)


class FailuresOnly(ProgressListener):
    """A listener that reports failures and nothing else."""

    def __init__(self, console: Console):
        self.console = console
        self.labels: dict[Point, str] = {}

    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int = 1) -> None:
        self.labels = labels(missing)

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        line = _failure(self.labels[stack.point], stack, reason, last_step, log)
        self.console.print(line, soft_wrap=True, markup=False)


def _failure(label: str, stack: Stack, reason: str, last_step: int, log: Path) -> str:
    seeds = ", ".join(map(str, stack.seeds[:5])) + (", ..." if len(stack.seeds) > 5 else "")
    runs = f"{label}, seed{'s' * (len(stack.seeds) > 1)} {seeds}"
    return f"{runs}: failed at step {last_step}; {reason}; log in {log}"


def plan_lines(ahead: DryRun) -> list[str]:
    """Return what a sweep would do: two lines per grid point, and the total."""
    label = labels([Stack(estimate.point, estimate.runs) for estimate in ahead.estimates])
    lines = [f"{len(ahead.runs)} runs, {len(ahead.missing)} of them missing in {ahead.path}"]
    for estimate in ahead.estimates:
        seeds, steps = _count(len(estimate.runs), "seed"), estimate.point.training.steps
        parameters, step = network(estimate.point).parameter_count, f"step size {step_size(estimate.point):.4g}"
        lines.append(f"  {label[estimate.point]}: {seeds}, {parameters} parameters, {steps} steps, {step}")
        stacked = f"{_count(estimate.stacks, 'stack')} of {estimate.bytes / GIB:.2g} GiB"
        lines.append(f"    {stacked}, about {_duration(estimate.seconds)}")
    if ahead.estimates:
        largest = max(estimate.bytes for estimate in ahead.estimates) * ahead.workers / GIB
        workers = f" with {ahead.workers} workers" if ahead.workers > 1 else ""
        points = f"{ahead.timed} of {_count(len(ahead.estimates), 'grid point')}"
        lines.append(f"timed a few steps of {points} in {ahead.timing_seconds:.1f} s")
        lines.append(f"about {_duration(ahead.seconds)} in all{workers}, {largest:.2g} GiB at a time")
    return lines + [f"note: {note}" for note in ahead.notes]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


class _Bar(Progress):
    """A line of numbers above a line with the bar, the runs done and the time left. Each fits 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            numbers = spelled_out(task.fields["numbers"], self.console.encoding)
            yield Text(numbers, no_wrap=True, overflow="ellipsis")
            yield self.make_tasks_table([task])


def _bar(console: Console) -> Progress:
    counts = TextColumn("{task.fields[counts]}", markup=False)
    return _Bar(
        BarColumn(40), TaskProgressColumn(), counts, console=console, refresh_per_second=1 / REFRESH, transient=True
    )


def _last(steps: pd.DataFrame) -> str:
    """Return the mean loss and kernel drift at the last step, as text."""
    if not len(steps):
        return ""
    loss, drift = steps.loc[steps["step"] == steps["step"].max(), ["loss", "kernel_drift"]].mean()
    return f", loss {loss:.2e}, kernel drift {drift:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
