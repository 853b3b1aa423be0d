"""The progress of a sweep: its events while it runs, and the time of each phase."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ntkrun.config.schema import Point
from ntkrun.engine.clock import PHASES
from ntkrun.engine.probes import Measurement
from ntkrun.engine.tiles import pieces
from ntkrun.engine.training import State
from ntkrun.plan.runs import Stack
from ntkrun.run.task import Done


class ProgressListener:
    """Receives each event and ignores it. Subclasses, such as the progress bar, show events."""

    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int) -> None: ...
    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None: ...
    def committed(self, stack: Stack, done: Done) -> None: ...
    def note(self, stack: Stack, text: str) -> None: ...
    def split(self, stack: Stack, why: str) -> None: ...
    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None: ...
    def tick(self) -> None: ...  # about every half second while an engine of several workers waits
    def close(self) -> None: ...


class Listeners(ProgressListener):
    """Hands each event on to several listeners, in their order."""

    def __init__(self, *listeners: ProgressListener):
        self.listeners = listeners

    def begin(self, missing: Sequence[Stack], finished: int, failed: int, workers: int) -> None:
        for listener in self.listeners:
            listener.begin(missing, finished, failed, workers)

    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None:
        for listener in self.listeners:
            listener.state(stack, state, measurement)

    def committed(self, stack: Stack, done: Done) -> None:
        for listener in self.listeners:
            listener.committed(stack, done)

    def note(self, stack: Stack, text: str) -> None:
        for listener in self.listeners:
            listener.note(stack, text)

    def split(self, stack: Stack, why: str) -> None:
        for listener in self.listeners:
            listener.split(stack, why)

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        for listener in self.listeners:
            listener.failed(stack, reason, last_step, log)

    def tick(self) -> None:
        for listener in self.listeners:
            listener.tick()

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


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
