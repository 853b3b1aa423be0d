"""The progress of a sweep: its events while it runs, the file that tells of them, and the time of each phase."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ntkrun.config.schema import Point
from ntkrun.engine.clock import PHASES
from ntkrun.engine.probes import Measurement
from ntkrun.engine.tiles import pieces
from ntkrun.engine.training import State
from ntkrun.plan.runs import Stack, run_row
from ntkrun.run.remaining import Remaining
from ntkrun.run.task import Done
from ntkrun.store.progress import Progress, write_progress

WRITE_EVERY = 2.0  # seconds between two writings of a file of progress, some milliseconds each


class ProgressListener:
    """Receives each event and ignores it. Subclasses, such as the progress bar, show events.

    `timing` comes before some steps of grid points are timed, which long sweeps do before they begin, and `timed` with
    the seconds per run that this gave.
    """

    def timing(self, points: int) -> None: ...
    def timed(self, per_run: Mapping[Point, float]) -> None: ...
    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int = 1) -> None: ...
    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None: ...
    def committed(self, stack: Stack, done: Done) -> None: ...
    def note(self, stack: Stack, text: str) -> None: ...
    def split(self, stack: Stack, why: str) -> None: ...
    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None: ...
    def tick(self) -> None: ...  # about every half second while an engine of several workers waits
    def close(self) -> None: ...


EVENTS = ("timing", "timed", "begin", "state", "committed", "note", "split", "failed", "tick", "close")


class Listeners(ProgressListener):
    """Several listeners, each of which receives every event, in their order."""

    def __init__(self, *listeners: ProgressListener) -> None:
        for event in EVENTS:
            setattr(self, event, partial(_tell_all, [getattr(listener, event) for listener in listeners]))


def _tell_all(receivers: Sequence[Callable[..., None]], *what: Any) -> None:
    for receive in receivers:
        receive(*what)


class Tracker(ProgressListener):
    """Knows how far a sweep has come: the runs of each outcome, a label for each grid point, and the time left."""

    def __init__(self) -> None:
        self.per_run: Mapping[Point, float] = {}
        Tracker.begin(self, (), 0, 0, 1)

    def timed(self, per_run: Mapping[Point, float]) -> None:
        self.per_run = per_run

    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int = 1) -> None:
        self.ended_runs, self.failed_runs, self.labels = finished, failed, labels(missing)
        self.planned = finished + failed + sum(len(stack.runs) for stack in missing)
        self.started = time.monotonic()
        self.remaining = Remaining(missing, workers, self.started, self.per_run)

    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None:
        self.remaining.state(stack, state.step, time.monotonic())

    def committed(self, stack: Stack, done: Done) -> None:
        self.ended_runs += len(stack.runs)
        self.remaining.end(stack, done.seconds, time.monotonic())

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        self.failed_runs += len(stack.runs)
        self.remaining.end(stack, 0.0, time.monotonic())

    def split(self, stack: Stack, why: str) -> None:
        self.remaining.split(stack)


class ProgressFile(Tracker):
    """Writes the progress of a shard into the results directory (store/progress.py), for `ntkrun status`."""

    def __init__(self, root: Path, shard: tuple[int, int]) -> None:
        super().__init__()
        self.root, self.shard = root, shard
        self.written = -math.inf

    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int = 1) -> None:
        super().begin(missing, finished, failed, workers)
        if missing:
            self._write()

    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None:
        super().state(stack, state, measurement)
        if time.monotonic() - self.written < WRITE_EVERY:
            return
        means = {name: math.nan if measurement is None else measurement.mean(name) for name in ("loss", "kernel_drift")}
        finite = {name: mean if math.isfinite(mean) else None for name, mean in means.items()}
        steps = {"label": self.labels[stack.point], "step": state.step, "steps": stack.point.training.steps}
        self._write(steps | finite)

    def committed(self, stack: Stack, done: Done) -> None:
        super().committed(stack, done)
        self._write()

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        super().failed(stack, reason, last_step, log)
        self._write()

    def close(self) -> None:
        if self.written > -math.inf:
            self._write()

    def _write(self, now: dict[str, Any] | None = None) -> None:
        self.written = time.monotonic()
        moment = datetime.now().astimezone().isoformat(timespec="seconds")
        counts = (self.planned, self.ended_runs, self.failed_runs, self.remaining.workers)
        ended = self.ended_runs + self.failed_runs == self.planned
        left = 0.0 if ended else self.remaining.seconds(self.written)
        write_progress(self.root, Progress(moment, os.getpid(), self.shard, *counts, left, now))


def labels(missing: Sequence[Stack]) -> dict[Point, str]:
    """Return a label for each grid point, made of the values that the sweep varies, as in 'width 256'."""
    rows = {stack.point: run_row(stack.runs[0]) for stack in missing}
    keys = dict.fromkeys(key for row in rows.values() for key in row if key not in ("run_id", "seed"))
    varied = [key for key in keys if len({str(row.get(key)) for row in rows.values()}) > 1] or ["network.width"]

    def label(row: dict[str, Any]) -> str:
        return ", ".join(f"{key.split('.', 1)[1].replace('_', ' ')} {row[key]}" for key in varied if key in row)

    return {point: label(row) for point, row in rows.items()}


# ---------------------------------------------------------------- profile


COLUMNS = 7  # number of widths that fit side by side into 80 characters with the phase and the sum


class Profile:
    """The seconds of each phase, by the width of the networks."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    def add(self, point: Point, seconds: Mapping[str, float]) -> None:
        """Add the seconds that a stack of this grid point took in each phase."""
        width = point.network.width
        name = str(width) if isinstance(width, int) else "-".join(map(str, width))
        totals = self.seconds.setdefault(name, dict.fromkeys(PHASES, 0.0))
        for phase, duration in seconds.items():
            totals[phase] += duration

    def document(self) -> list[dict[str, Any]]:
        return [{"width": width, "seconds": dict(phases)} for width, phases in self.seconds.items()]

    def lines(self) -> list[str]:
        """Return a table of seconds as lines: one row per phase, one column per width, COLUMNS widths at a time."""
        if not self.seconds:
            return ["where the time went: nothing was run"]
        total = {phase: sum(phases[phase] for phases in self.seconds.values()) for phase in PHASES}
        columns = list(self.seconds.items())
        lines = ["where the time went, in seconds, by width"]
        for part in pieces(len(columns), COLUMNS):
            lines += _table([*columns[part], ("all", total)])
        return lines


def _table(columns: list[tuple[str, Mapping[str, float]]]) -> list[str]:
    rows = [("", [name if len(name) < 8 else name[:6] + "…" for name, _ in columns])]
    rows += [(phase, [_seconds(phases[phase]) for _, phases in columns]) for phase in PHASES]
    rows.append(("together", [_seconds(sum(phases.values())) for _, phases in columns]))
    return [f"{name:<14}" + "".join(f"{cell:>8}" for cell in cells) for name, cells in rows]


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.2f}"
