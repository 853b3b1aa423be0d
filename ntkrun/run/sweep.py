"""Run what is missing of a sweep: plan minus store, through an engine, into the store."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntkrun.config.reader import Sweep
from ntkrun.engine.footprint import Footprint
from ntkrun.files.writing import inside
from ntkrun.plan.problem import check_ready, notes_on, task_of
from ntkrun.plan.runs import Run, Stack, columns, missing_runs, plan
from ntkrun.plan.stacks import WHOLE_SWEEP, Shard, bytes_for, finer, recut, runs_of, too_large
from ntkrun.run.engines import HERE, Asked, opened
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import Profile, Watch
from ntkrun.run.rows import rows_of_failed
from ntkrun.run.task import ATTEMPTS, Done, Engine, Failed, Lost, Outcome, OutOfMemory
from ntkrun.store.directory import Results, Store


@dataclass(frozen=True)
class How:
    """How missing runs are run: on which `device`, with `memory` GiB for a stack (None: three quarters of what is
    free), `profile` told where the time went, those that failed before again or not, to the first that fails or to the
    end, on the engine that was `asked` for."""

    device: str = "auto"
    memory: float | None = None
    profile: Profile | None = None
    retry_failed: bool = False
    fail_fast: bool = False
    asked: Asked = HERE


def run_sweep(
    sweep: Sweep,
    results: str | Path = "results",
    device: str = "auto",
    watch: Watch | None = None,
    memory: float | None = None,
    profile: Profile | None = None,
    retry_failed: bool = False,
    fail_fast: bool = False,
    asked: Asked | None = None,
) -> Results:
    """Run what is missing of a sweep into `results`/<name>, and return its tables.

    Runs that are finished there are never run again. An interrupt keeps every finished stack. Runs are stacked within
    `memory` GiB (None: three quarters of what is free); a stack that does not fit after all, or fails, is halved. A run
    that fails by itself is recorded as failed and left alone from then on, unless `retry_failed`; `fail_fast` ends the
    sweep there. `profile` is told where the time went. `asked`: on which engine. Raises UserError for a device or an
    engine that is not there, a directory that cannot be written or is in use, data that cannot be had, and a network
    that is known not to fit.
    """
    how = How(device, memory, profile, retry_failed, fail_fast, asked or HERE)
    run_shard(WHOLE_SWEEP, sweep, results, how, watch or Watch())
    return Store(Path(results) / sweep.name).read()


def run_shard(shard: Shard, sweep: Sweep, results: str | Path, how: How, watch: Watch) -> int:
    """The same for a shard of the sweep, while others may be at other shards. Returns how many runs of the sweep are
    still to come; the tables are written once none is."""
    store, runs, interrupts = Store(Path(results) / sweep.name), plan(sweep), Interrupts()
    mine, kept = runs_of(shard, runs), inside(store.root, "checkpoints")
    check_ready(point for point, _ in sweep.points)
    with opened(how.asked, how.device, kept, watch, interrupts, how.profile is not None) as on:
        budget = bytes_for(on.memory if how.memory is None else how.memory, on.device)

        def stacked(finished: set[str], failed: Collection[str]) -> list[Stack]:
            missing = list(missing_runs(mine, finished, () if how.retry_failed else failed))
            stacks = on.checkpoints.stacked(missing, budget)
            return finer(stacks, on.workers) if on.workers > 1 else stacks

        stacked(store.finished(), store.failed())  # what does not fit is said before anything is written
        with store.writing(shard, watch.waits):
            if how.retry_failed:
                store.forget_failed({run.run_id for run in mine})
            finished, failed = store.finished(), store.failed()
            missing = stacked(finished, failed)
            store.begin(_description(sweep, runs, on.made_by), [columns(run) for run in runs])
            over, without_end = (sum(run.run_id in ended for run in mine) for ended in (finished, failed))
            watch.begins(missing, over, without_end, on.workers)
            loop = Loop(store, watch, how.profile, on.made_by, budget, how.fail_fast, interrupts)
            to_come = loop.to_the_tables(on.engine, missing, lambda: _write_tables(store, shard, runs))
            on.checkpoints.remove_stale(store.finished())
    return to_come


def _write_tables(store: Store, shard: Shard, runs: Sequence[Run]) -> int:
    """The tables, but of a shard only once no run is to come; how many are."""
    to_come = len(list(missing_runs(runs, store.finished(), store.failed())))
    if shard == WHOLE_SWEEP or not to_come:
        store.write_tables()
    return to_come


def _description(sweep: Sweep, runs: Sequence[Run], made_by: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": dict(sweep.resolved),
        "config_hash": sweep.hash,
        "runs": len(runs),
        "notes": list(notes_on(runs)),
        "made_by": made_by,
    }


# ---------------------------------------------------------------- loop


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
