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
from ntkrun.plan.runs import Run, Stack, missing_runs, plan, run_row
from ntkrun.plan.stacks import WHOLE_SWEEP, Shard, bytes_for, halved, runs_in_shard, split_for_workers, too_large
from ntkrun.run.engines import THIS_PROCESS, EngineSelection, open_engine
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import Profile, ProgressListener
from ntkrun.run.rows import rows_of_failed
from ntkrun.run.task import ATTEMPTS, Done, Engine, Failed, Lost, Outcome, OutOfMemory
from ntkrun.store.directory import Results, Store


@dataclass(frozen=True)
class RunOptions:
    """How missing runs are run: on which `device`, with `memory` GiB for a stack (None: three quarters of what is
    free), `profile` told where the time went, those that failed before again or not, to the first that fails or to the
    end, on which `engine`."""

    device: str = "auto"
    memory: float | None = None
    profile: Profile | None = None
    retry_failed: bool = False
    fail_fast: bool = False
    engine: EngineSelection = THIS_PROCESS


def run_sweep(
    sweep: Sweep,
    results: str | Path = "results",
    device: str = "auto",
    watch: ProgressListener | None = None,
    memory: float | None = None,
    profile: Profile | None = None,
    retry_failed: bool = False,
    fail_fast: bool = False,
    engine: EngineSelection | None = None,
) -> Results:
    """Run what is missing of a sweep into `results`/<name>, and return its tables.

    Runs that are finished there are never run again. An interrupt keeps every finished stack. Runs are stacked within
    `memory` GiB (None: three quarters of what is free); a stack that does not fit after all, or fails, is halved. A run
    that fails by itself is recorded as failed and left alone from then on, unless `retry_failed`; `fail_fast` ends the
    sweep there. `profile` is told where the time went. `engine`: on which engine. Raises UserError for a device or an
    engine that is not there, a directory that cannot be written or is in use, data that cannot be had, and a network
    that is known not to fit.
    """
    how = RunOptions(device, memory, profile, retry_failed, fail_fast, engine or THIS_PROCESS)
    run_shard(WHOLE_SWEEP, sweep, results, how, watch or ProgressListener())
    return Store(Path(results) / sweep.name).read()


def run_shard(shard: Shard, sweep: Sweep, results: str | Path, how: RunOptions, watch: ProgressListener) -> int:
    """The same for a shard of the sweep, while others may be at other shards. Returns how many runs of the sweep are
    still to come; the tables are written once none is."""
    store, runs, interrupts = Store(Path(results) / sweep.name), plan(sweep), Interrupts()
    mine, kept = runs_in_shard(shard, runs), inside(store.root, "checkpoints")
    check_ready(point for point, _ in sweep.points)
    with open_engine(how.engine, how.device, kept, watch, interrupts, how.profile is not None) as on:
        budget = bytes_for(on.memory if how.memory is None else how.memory, on.device)

        def stacked(finished: set[str], failed: Collection[str]) -> list[Stack]:
            missing = list(missing_runs(mine, finished, () if how.retry_failed else failed))
            stacks = on.checkpoints.stacked(missing, budget)
            return split_for_workers(stacks, on.workers) if on.workers > 1 else stacks

        stacked(store.finished(), store.failed())  # what does not fit is said before anything is written
        with store.writing(shard, watch.waiting_for):
            if how.retry_failed:
                store.forget_failed({run.run_id for run in mine})
            finished, failed = store.finished(), store.failed()
            missing = stacked(finished, failed)
            store.begin(_description(sweep, runs, on.made_by), [run_row(run) for run in runs])
            over, without_end = (sum(run.run_id in ended for run in mine) for ended in (finished, failed))
            watch.begin(missing, over, without_end, on.workers)
            loop = Executor(store, watch, how.profile, on.made_by, budget, how.fail_fast, interrupts)
            remaining = loop.run_and_write_tables(on.engine, missing, lambda: _write_tables(store, shard, runs))
            on.checkpoints.remove_stale(store.finished())
    return remaining


def _write_tables(store: Store, shard: Shard, runs: Sequence[Run]) -> int:
    """The tables, but of a shard only once no run is to come; how many are."""
    remaining = len(list(missing_runs(runs, store.finished(), store.failed())))
    if shard == WHOLE_SWEEP or not remaining:
        store.write_tables()
    return remaining


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
class Executor:
    """Rows are committed as stacks end; a stack that did not end is tried again in halves; a run that does not end by
    itself has failed, and the others go on."""

    store: Store
    watch: ProgressListener
    profile: Profile | None
    made_by: dict[str, Any]
    budget: int
    fail_fast: bool
    interrupts: Interrupts
    lost: Counter[Stack] = field(default_factory=Counter)

    def run_and_write_tables(self, engine: Engine, missing: Sequence[Stack], write: Callable[[], int]) -> int:
        """Run all that is missing and `write` the tables, which are written of what there is however this ends."""
        with self.interrupts.handled():
            try:
                self.run(engine, missing)
            except BaseException:
                self.interrupts.cancel_grace()
                write()  # a second interrupt stops this at once
                raise
            with self.interrupts.deferred():
                return write()

    def run(self, engine: Engine, missing: Sequence[Stack]) -> None:
        waiting = deque(missing)
        with closing(engine.run(waiting)) as ended:
            for stack, outcome in ended:
                outcome = self.outcome_after_loss(stack, outcome)
                if isinstance(outcome, Done):
                    self.commit(stack, outcome)
                elif isinstance(outcome, Lost):
                    waiting.append(stack)
                elif len(stack.runs) > 1 and not (isinstance(outcome, Failed) and outcome.every_run):
                    again = self.smaller_stacks(stack, outcome, waiting)
                    waiting.clear()
                    waiting.extend(again)
                else:
                    self.record_failure(stack, outcome)
                    if self.fail_fast:
                        return
                self.interrupts.raise_if_requested()

    def outcome_after_loss(self, stack: Stack, outcome: Outcome) -> Outcome:
        """The outcome; Lost so often that the stack itself is to blame has Failed."""
        if not isinstance(outcome, Lost):
            return outcome
        self.lost[stack] += 1
        if self.lost[stack] == ATTEMPTS:
            return Failed(f"{outcome.reason}, {ATTEMPTS} times", 0, outcome.log)
        self.watch.note(stack, f"{outcome.reason}; it runs again")
        return outcome

    def commit(self, stack: Stack, outcome: Done) -> None:
        started = time.perf_counter()
        with self.interrupts.deferred():
            self.store.commit(outcome.frames, outcome.kernels)
        if self.profile is not None:
            self.profile.add(stack.point, outcome.phases)
            self.profile.add(stack.point, {"writing": time.perf_counter() - started})
        self.watch.committed(stack, outcome)

    def smaller_stacks(self, stack: Stack, outcome: OutOfMemory | Failed, waiting: Sequence[Stack]) -> list[Stack]:
        """What is to be done in place of `waiting`. Memory: all of the grid point in halves. Another failure: one run's
        bad luck must not take the others along."""
        if isinstance(outcome, OutOfMemory):
            self.watch.split(stack, "do not fit into memory")
            return halved(stack, waiting)
        self.watch.split(stack, f"failed at step {outcome.last_step}, {outcome.reason}")
        return [*halved(stack, ()), *waiting]

    def record_failure(self, stack: Stack, outcome: OutOfMemory | Failed) -> None:
        reason = outcome.reason if isinstance(outcome, Failed) else self.too_large_after_all(stack)
        with self.interrupts.deferred():
            log = self.store.commit_failed(rows_of_failed(stack, reason, outcome.last_step, self.made_by), outcome.log)
        self.watch.failed(stack, reason, outcome.last_step, log)

    def too_large_after_all(self, stack: Stack) -> str:
        needed = Footprint(task_of(stack.point)).bytes(1)
        return f"{too_large(stack.point, needed, self.budget)}; it did not fit"
