"""Commit stacks that ended: small ones together, and soon enough that a kill loses at most HOLD seconds of work."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from ntkrun.files import disk
from ntkrun.plan.costs import rough_seconds
from ntkrun.plan.runs import Stack
from ntkrun.run.checkpoints import path_of
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import Profile, ProgressListener
from ntkrun.run.task import Done
from ntkrun.store.results_directory import Store
from ntkrun.store.tables import concatenated

HOLD = 2.0  # seconds of work, of one worker, that wait to be committed together: a commit takes 20 to 50 ms


class Committer(ProgressListener):
    """Keeps stacks that ended and commits them as one folder.

    It does so when HOLD seconds have passed since the first of them began, or would pass before the next one ends, and
    whenever `flush` is called. So a kill loses at most HOLD seconds of the work of stacks that ended. `watch` hears of
    a stack only when it is committed.
    """

    def __init__(self, store: Store, watch: ProgressListener, interrupts: Interrupts, profile: Profile | None = None):
        self.store, self.watch, self.interrupts, self.profile = store, watch, interrupts, profile
        self.ended: list[tuple[Stack, Done]] = []
        self.since = math.inf  # when the first of them began

    def add(self, stack: Stack, done: Done, following: Stack | None) -> None:
        """Take a stack that ended; `following` is the one that runs next, if it is known."""
        self.ended.append((stack, done))
        self.since = min(self.since, time.monotonic() - done.seconds)
        self._flush_if_due(rough_seconds(following) if following else 0.0)

    def tick(self) -> None:
        self._flush_if_due()

    def _flush_if_due(self, ahead: float = 0.0) -> None:
        if self.ended and time.monotonic() + ahead - self.since >= HOLD:
            self.flush()

    def flush(self) -> None:
        """Commit what is waiting."""
        if not self.ended:
            return
        started = time.perf_counter()
        with self.interrupts.deferred():
            results = [done for _, done in self.ended]
            tables = {
                name: concatenated([done.frames.get(name) for done in results], name) for name in results[0].frames
            }
            self.store.commit(
                tables if len(results) > 1 else results[0].frames,
                {run_id: kernels for done in results for run_id, kernels in done.kernels.items()},
            )
            committed, self.ended, self.since = self.ended, [], math.inf
            seconds = (time.perf_counter() - started) / len(committed)
            for stack, done in committed:
                if self.profile is not None:
                    self.profile.add(stack.point, done.phases)
                    self.profile.add(stack.point, {"writing": seconds})
                self.watch.committed(stack, done)


@dataclass(frozen=True)
class EndedStacks(ProgressListener):
    """Removes the checkpoints in `folder` of stacks whose outcome has been recorded."""

    folder: Path

    def committed(self, stack: Stack, done: Done) -> None:
        self._remove(stack)

    def split(self, stack: Stack, why: str) -> None:
        self._remove(stack)

    def failed(self, stack: Stack, reason: str, last_step: int, log: Path) -> None:
        self._remove(stack)

    def _remove(self, stack: Stack) -> None:
        path = path_of(self.folder, stack)
        if path.is_symlink() or not path.is_dir():  # ntkrun makes no folder of this name
            disk.remove(path)
