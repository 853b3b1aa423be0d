"""The time that a running sweep still takes, from what its stacks have taken so far.

A stack that runs is extrapolated from its own states: probed and plain ones by their own means. A stack to come takes
the seconds per run of its grid point, as far as it is known: from stacks that ended, else from the one that runs, else
from timing (timing.py); of other grid points they are interpolated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ntkrun.config.schema import Point
from ntkrun.plan.costs import operations
from ntkrun.plan.problem import task_of
from ntkrun.plan.runs import Stack
from ntkrun.run.timing import interpolated, writing_seconds

PROBED = 3.0  # seconds of a probed state, in those of a plain one, as long as only one kind has been seen


@dataclass
class Current:
    """The stack that runs: when it began and reached its first and its last state so far, and, of probed states and of
    plain ones, how many follow the first state, how many of these were reached, and in how many seconds."""

    stack: Stack
    began: float
    last: float
    states: dict[bool, int]
    reached: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    took: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    @classmethod
    def begin(cls, stack: Stack, step: int, began: float, now: float) -> "Current":
        task = task_of(stack.point)
        probed = sum(later > step for later in task.probed)
        return cls(stack, began, now, {True: probed, False: task.steps - step - probed})

    def state(self, probed: bool, now: float) -> None:
        self.reached[probed] += 1
        self.took[probed] += now - self.last
        self.last = now

    def seconds(self) -> float | None:
        """Return the seconds of the stack from its beginning to its end; None before the first of several steps."""
        means = {kind: self.took[kind] / count for kind, count in self.reached.items() if count}
        if not means and any(self.states.values()):
            return None
        if True not in means and False in means:
            means[True] = PROBED * means[False]
        if False not in means and True in means:
            means[False] = means[True] / PROBED
        left = sum(max(0, self.states[kind] - self.reached[kind]) * mean for kind, mean in means.items())
        return self.last - self.began + left


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

    def state(self, stack: Stack, step: int, probed: bool, now: float) -> None:
        """Learn that a stack in this process has reached a state. The stack before it has then ended."""
        if self.current is not None and self.current.stack is stack:
            self.current.state(probed, now)
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
