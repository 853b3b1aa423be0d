"""What becomes of the outcomes of stacks: committed, tried again in smaller ones, or recorded as failed."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ntkrun.engine.footprint import Footprint
from ntkrun.lab.budget import recut, too_large
from ntkrun.lab.engines import ATTEMPTS, Done, Engine, Failed, Lost, Outcome, OutOfMemory
from ntkrun.lab.interrupts import Interrupts
from ntkrun.lab.plan import Stack
from ntkrun.lab.profile import Profile
from ntkrun.lab.store import Store
from ntkrun.lab.tasks import rows_of_failed, task_of
from ntkrun.lab.watch import Watch


@dataclass(frozen=True)
class Loop:
    """Rows are committed as stacks end; a stack that did not end is tried again in halves; a run that does not end by
    itself has failed, and the others go on."""

    store: Store
    watch: Watch
    profile: Profile | None
    made_by: dict[str, Any]
    budget: int
    fail_fast: bool
    interrupts: Interrupts
    lost: Counter[Stack] = field(default_factory=Counter)

    def to_the_tables(self, engine: Engine, missing: Sequence[Stack], write: Callable[[], int]) -> int:
        """Run all that is missing and `write` the tables, which are written of what there is however this ends."""
        with self.interrupts.heard():
            try:
                self.through(engine, missing)
            except BaseException:
                self.interrupts.be_patient()
                write()  # a second interrupt stops this at once
                raise
            with self.interrupts.finished_first():
                return write()

    def through(self, engine: Engine, missing: Sequence[Stack]) -> None:
        waiting = deque(missing)
        with closing(engine.run(waiting)) as ended:
            for stack, outcome in ended:
                outcome = self.found(stack, outcome)
                if isinstance(outcome, Done):
                    self.done(stack, outcome)
                elif isinstance(outcome, Lost):
                    waiting.append(stack)
                elif len(stack.runs) > 1 and not (isinstance(outcome, Failed) and outcome.every_run):
                    again = self.smaller(stack, outcome, waiting)
                    waiting.clear()
                    waiting.extend(again)
                else:
                    self.failed(stack, outcome)
                    if self.fail_fast:
                        return
                self.interrupts.stop_if_asked()

    def found(self, stack: Stack, outcome: Outcome) -> Outcome:
        """The outcome; Lost so often that the stack itself is to blame has Failed."""
        if not isinstance(outcome, Lost):
            return outcome
        self.lost[stack] += 1
        if self.lost[stack] == ATTEMPTS:
            return Failed(f"{outcome.reason}, {ATTEMPTS} times", 0, outcome.log)
        self.watch.note(stack, f"{outcome.reason}; it runs again")
        return outcome

    def done(self, stack: Stack, outcome: Done) -> None:
        started = time.perf_counter()
        with self.interrupts.finished_first():
            self.store.commit(outcome.frames, outcome.kernels)
        if self.profile is not None:
            self.profile.add(stack.point, outcome.phases)
            self.profile.add(stack.point, {"writing": time.perf_counter() - started})
        self.watch.committed(stack, outcome)

    def smaller(self, stack: Stack, outcome: OutOfMemory | Failed, waiting: Sequence[Stack]) -> list[Stack]:
        """What is to be done in place of `waiting`. Memory: all of the grid point in halves. Another failure: one run's
        bad luck must not take the others along."""
        if isinstance(outcome, OutOfMemory):
            self.watch.halved(stack, "do not fit into memory")
            return recut(stack, waiting)
        self.watch.halved(stack, f"failed at step {outcome.last_step}, {outcome.reason}")
        return [*recut(stack, ()), *waiting]

    def failed(self, stack: Stack, outcome: OutOfMemory | Failed) -> None:
        reason = outcome.reason if isinstance(outcome, Failed) else self.did_not_fit(stack)
        with self.interrupts.finished_first():
            log = self.store.commit_failed(rows_of_failed(stack, reason, outcome.last_step, self.made_by), outcome.log)
        self.watch.failed(stack, reason, outcome.last_step, log)

    def did_not_fit(self, stack: Stack) -> str:
        needed = Footprint(task_of(stack.point)).bytes(1)
        return f"{too_large(stack.point, needed, self.budget)}; it did not fit"
