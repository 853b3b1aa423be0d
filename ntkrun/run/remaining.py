"""The time that a running sweep still takes, from what its stacks have taken so far.

A stack that runs is extrapolated from its own states: plain ones, probed ones and those with details by their own
means, since the early states of a stack are often of other kinds than the later ones. A stack to come takes
the seconds per run of its grid point, as far as it is known: from stacks that ended, else from the one that runs, else
from timing (timing.py); of other grid points they are interpolated.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ntkrun.config.schema import Point
from ntkrun.engine.task import StackTask
from ntkrun.plan.costs import operations
from ntkrun.plan.problem import problem_of
from ntkrun.plan.runs import Stack
from ntkrun.run.timing import interpolated, writing_seconds

# Seconds of a state of each kind relative to a plain one, for kinds that have not been seen yet.
RELATIVE = {"plain": 1.0, "probed": 3.0, "detailed": 10.0}


@dataclass
class Current:
    """The stack that runs: its task, when it began and when it reached its last state so far, and, by the kind of
    state, how many are to come, how many were reached after the first one, and in how many seconds."""

    stack: Stack
    task: StackTask
    began: float
    last: float
    to_come: Counter[str]
    reached: Counter[str] = field(default_factory=Counter)
    took: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RELATIVE, 0.0))

    @classmethod
    def begin(cls, stack: Stack, step: int, began: float, now: float) -> "Current":
        task = problem_of(stack.point).task
        probed, detailed = (sum(later > step for later in steps) for steps in (task.probed, task.detailed))
        counts = {"plain": task.steps - step - probed, "probed": probed - detailed, "detailed": detailed}
        return cls(stack, task, began, now, Counter(counts))

    def state(self, step: int, now: float) -> None:
        kind = "detailed" if step in self.task.detailed else "probed" if step in self.task.probed else "plain"
        self.to_come[kind] -= 1
        self.reached[kind] += 1
        self.took[kind] += now - self.last
        self.last = now

    def seconds(self) -> float | None:
        """Return the seconds of the stack from its beginning to its end; None before the first of several steps."""
        if not self.reached:
            return None if any(self.to_come.values()) else self.last - self.began
        plain = sum(self.took.values()) / sum(count * RELATIVE[kind] for kind, count in self.reached.items())
        means = {kind: plain * relative for kind, relative in RELATIVE.items()}
        means |= {kind: self.took[kind] / count for kind, count in self.reached.items()}
        return self.last - self.began + sum(count * means[kind] for kind, count in self.to_come.items())


class Remaining:
    """The seconds that remain of a sweep of these missing stacks on `workers` workers. All times are those of one clock
    of the caller. `timed` gives the seconds per run of the grid points that are known beforehand."""

    def __init__(self, missing: Sequence[Stack], workers: int, now: float, timed: Mapping[Point, float]) -> None:
        self.workers, self.began, self.free = workers, now, now
        self.timed = timed
        self.runs: dict[Point, int] = {}  # that have not ended
        costs: dict[Point, float] = {}
        for stack in missing:
            self.runs[stack.point] = self.runs.get(stack.point, 0) + len(stack.runs)
            costs[stack.point] = costs.get(stack.point, 0.0) + operations(stack)
        self.costs = {point: cost / self.runs[point] for point, cost in costs.items()}
        self.writing = sum(writing_seconds(point, runs) for point, runs in self.runs.items())  # mostly at the end
        self.ended: dict[Point, tuple[int, float]] = {}  # runs and seconds
        self.current: Current | None = None
        self.uncommitted: list[Stack] = []  # that ended in this process and are not committed yet

    def state(self, stack: Stack, step: int, now: float) -> None:
        """Learn that a stack in this process has reached a state. The stack before it has then ended."""
        if self.current is not None and self.current.stack is stack:
            self.current.state(step, now)
            return
        if self.current is not None:
            self.uncommitted.append(self.current.stack)
            self.free = self.current.last
            self._count(self.current.stack, self.free - self.current.began)
        self.current = Current.begin(stack, step, self.free, now)

    def end(self, stack: Stack, seconds: float, now: float) -> None:
        """Learn that a stack has been committed, or recorded as failed, after so many seconds of its own."""
        if self.current is not None and self.current.stack is stack:
            self.current, self.free = None, now
        elif any(ended is stack for ended in self.uncommitted):
            self.uncommitted = [ended for ended in self.uncommitted if ended is not stack]
            return
        self._count(stack, seconds)

    def split(self, stack: Stack) -> None:
        """Learn that a stack is tried again in parts."""
        if self.current is not None and self.current.stack is stack:
            self.current = None

    def seconds(self, now: float) -> float:
        """Return the seconds until the sweep ends."""
        ended = {point: seconds / runs for point, (runs, seconds) in self.ended.items() if seconds}
        known, current = {**self.timed, **ended}, self.current
        of_current = None if current is None else current.seconds()
        if current is not None and of_current is not None and current.stack.point not in self.ended:
            known |= {current.stack.point: of_current / len(current.stack.runs)}
        per_run = interpolated(known, self.costs)
        left = sum(count * per_run[point] for point, count in self.runs.items())
        if current is not None:
            expected = len(current.stack.runs) * per_run[current.stack.point]
            passed = now - current.began
            rest = (expected if of_current is None else of_current) - passed
            return max(0.0, left - expected) + max(0.0, rest) + self.writing
        # Other processes tell of no states: their stacks are half done on average, unless the time is too short.
        done = sum(seconds for _, seconds in self.ended.values())
        under_way = max(0.0, self.workers * (now - self.began) - done) if self.workers > 1 else 0.0
        return (left - min(under_way, left / 2)) / self.workers + self.writing

    def _count(self, stack: Stack, seconds: float) -> None:
        self.runs[stack.point] = max(0, self.runs.get(stack.point, 0) - len(stack.runs))
        runs, before = self.ended.get(stack.point, (0, 0.0))
        self.ended[stack.point] = runs + len(stack.runs), before + seconds
