"""Run the missing runs of a sweep (those in the plan but not in the store) with an engine, and store their results."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntkrun.config.reader import Sweep
from ntkrun.engine.memory import stack_bytes
from ntkrun.files.writing import inside
from ntkrun.plan.problem import check_ready, notes_on, problem_of
from ntkrun.plan.runs import Run, Stack, missing_runs, plan, run_row
from ntkrun.plan.stacks import WHOLE_SWEEP, Shard, bytes_for, halved, runs_in_shard, split_for_workers, too_large
from ntkrun.run.commits import Committer, EndedStacks
from ntkrun.run.engines import THIS_PROCESS, EngineSelection, open_engine
from ntkrun.run.interrupts import Interrupts
from ntkrun.run.progress import Listeners, Profile, ProgressFile, ProgressListener
from ntkrun.run.rows import rows_of_failed
from ntkrun.run.task import ATTEMPTS, Done, Engine, Failed, Lost, Outcome, OutOfMemory
from ntkrun.run.timing import timed_ahead
from ntkrun.store.results_directory import Results, Store


@dataclass(frozen=True)
class RunOptions:
    """Options of a sweep.

    A stack may take `memory` GiB (None: three quarters of the free memory). `profile` collects the time of each phase.
    `retry_failed` repeats runs that failed before, and `fail_fast` ends the sweep at the first failure.
    """

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
    """Run the missing runs of a sweep, write them to the directory `results`/<name>, and return its tables.

    Finished runs are never run again. An interrupt keeps every finished stack. `device` is "cpu", "cuda", or "auto" for
    a GPU where there is one. Runs are stacked within `memory` GiB (None: three quarters of the free memory). A stack
    that does not fit after all, or fails, is halved. A run that fails by itself is recorded as failed and later sweeps
    skip it, unless `retry_failed`; `fail_fast` ends the sweep there. `watch` receives the events of the sweep,
    `profile` collects the time of each phase, `engine` selects the engine (None: this process). Raises UserError for a
    device, an engine or data that are not available, a directory that cannot be written or is in use, and a network
    that is known not to fit.

    >>> import ntkrun
    >>> from pathlib import Path
    >>> config = "{name: tiny, network: {depth: 2, width: 8}, data: {name: circle, samples: 4}, sweep: {seeds: 2}}"
    >>> _ = Path("tiny.yaml").write_text(config)
    >>> for overrides in (["training.steps=3"], ["training.steps=3", "sweep.seeds=3"]):  # then only seed 2 is run
    ...     runs = ntkrun.run_sweep(ntkrun.load_config("tiny.yaml", overrides), device="cpu").runs
    ...     print(*runs["seed"], *runs["status"])
    0 1 done done
    0 1 2 done done done
    """
    options = RunOptions(device, memory, profile, retry_failed, fail_fast, engine or THIS_PROCESS)
    run_shard(WHOLE_SWEEP, sweep, results, options, watch or ProgressListener())
    return Store(Path(results) / sweep.name).read()


def run_shard(shard: Shard, sweep: Sweep, results: str | Path, how: RunOptions, watch: ProgressListener) -> int:
    """Run a shard of the sweep as `run_sweep` does, while other processes may run other shards. Return the number of
    runs of the sweep that are still missing. The tables are written once none is missing."""
    store, runs, interrupts = Store(Path(results) / sweep.name), plan(sweep), Interrupts()
    shard_runs, checkpoints = runs_in_shard(shard, runs), inside(store.root, "checkpoints")
    check_ready(point for point, _ in sweep.points)
    progress_file = ProgressFile(store.root, shard)
    watch = Listeners(watch, progress_file, EndedStacks(checkpoints))
    committer = Committer(store, watch, interrupts, how.profile)
    everyone = Listeners(committer, watch)
    with open_engine(how.engine, how.device, checkpoints, everyone, interrupts, how.profile is not None) as opened:
        budget = bytes_for(opened.memory if how.memory is None else how.memory, opened.device)

        def missing_stacks(finished: set[str], failed: Collection[str]) -> list[Stack]:
            missing = list(missing_runs(shard_runs, finished, () if how.retry_failed else failed))
            stacks = opened.checkpoints.stacked(missing, budget)
            return split_for_workers(stacks, opened.workers) if opened.workers > 1 else stacks

        missing_stacks(store.finished(), store.failed())  # raises for a network that does not fit
        with store.writing(shard), closing(progress_file):
            if how.retry_failed:
                store.forget_failed({run.run_id for run in shard_runs})
            finished, failed = store.finished(), store.failed()
            missing = missing_stacks(finished, failed)
            store.begin(_description(sweep, runs, opened.made_by), [run_row(run) for run in runs])
            finished_count, failed_count = (sum(run.run_id in ids for run in shard_runs) for ids in (finished, failed))
            if how.engine.engine == "local":
                watch.timed(timed_ahead(missing, opened.device, watch.timing))
            watch.begin(missing, finished_count, failed_count, opened.workers)
            executor = Executor(committer, opened.made_by, budget, how.fail_fast)
            remaining = executor.run_and_write_tables(opened.engine, missing, lambda: _write_tables(store, shard, runs))
            opened.checkpoints.remove_stale(store.finished())
    return remaining


def _write_tables(store: Store, shard: Shard, runs: Sequence[Run]) -> int:
    """Write the tables, in case of a shard only if no run is missing. Return the number of missing runs."""
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


# ---------------------------------------------------------------- execution


@dataclass(frozen=True)
class Executor:
    """Runs stacks and hands those that end to the committer.

    A stack that fails is tried again in halves. A run that fails by itself is recorded as failed, and the others
    continue.
    """

    committer: Committer
    made_by: dict[str, Any]
    budget: int
    fail_fast: bool
    lost: Counter[Stack] = field(default_factory=Counter)

    def run_and_write_tables(self, engine: Engine, missing: Sequence[Stack], write: Callable[[], int]) -> int:
        """Run all missing stacks and `write` the tables. After an error or interrupt too, what ended is committed and
        the tables are written."""
        interrupts = self.committer.interrupts
        with interrupts.handled():
            try:
                self.run(engine, missing)
                self.committer.flush()
            except BaseException:
                interrupts.cancel_grace()
                if interrupts.count < 2:  # a second one stops this at once
                    self.committer.flush()
                    write()
                raise
            with interrupts.deferred():
                remaining = write()
            interrupts.raise_if_requested()
            return remaining

    def run(self, engine: Engine, missing: Sequence[Stack]) -> None:
        waiting = deque(missing)
        with closing(engine.run(waiting)) as outcomes:
            for stack, outcome in outcomes:
                outcome = self.outcome_after_loss(stack, outcome)
                if isinstance(outcome, Done):
                    self.committer.add(stack, outcome, waiting[0] if waiting else None)
                elif isinstance(outcome, Lost):
                    waiting.append(stack)
                elif len(stack.runs) > 1 and not (isinstance(outcome, Failed) and outcome.every_run):
                    smaller = self.smaller_stacks(stack, outcome, waiting)
                    waiting.clear()
                    waiting.extend(smaller)
                else:
                    self.record_failure(stack, outcome)
                    if self.fail_fast:
                        return
                self.committer.interrupts.raise_if_requested()

    def outcome_after_loss(self, stack: Stack, outcome: Outcome) -> Outcome:
        """Return the outcome, or Failed for a stack that was Lost ATTEMPTS times: then the stack itself is to blame."""
        if not isinstance(outcome, Lost):
            return outcome
        self.lost[stack] += 1
        if self.lost[stack] == ATTEMPTS:
            return Failed(f"{outcome.reason}, {ATTEMPTS} times", 0, outcome.log)
        self.committer.watch.note(stack, f"{outcome.reason}; it runs again")
        return outcome

    def smaller_stacks(self, stack: Stack, outcome: OutOfMemory | Failed, waiting: Sequence[Stack]) -> list[Stack]:
        """Return the stacks to run in place of `waiting`. If memory ran out, all stacks of the grid point are halved.
        For another failure only this stack is halved, so that one bad run does not fail the others."""
        if isinstance(outcome, OutOfMemory):
            self.committer.watch.split(stack, "do not fit into memory")
            return halved(stack, waiting)
        self.committer.watch.split(stack, f"failed at step {outcome.last_step}, {outcome.reason}")
        return [*halved(stack, ()), *waiting]

    def record_failure(self, stack: Stack, outcome: OutOfMemory | Failed) -> None:
        reason = outcome.reason if isinstance(outcome, Failed) else self.too_large_after_all(stack)
        rows = rows_of_failed(stack, reason, outcome.last_step, self.made_by)
        with self.committer.interrupts.deferred():
            log = self.committer.store.commit_failed(rows, outcome.log)
        self.committer.watch.failed(stack, reason, outcome.last_step, log)

    def too_large_after_all(self, stack: Stack) -> str:
        needed = stack_bytes(problem_of(stack.point).task, 1)
        return f"{too_large(stack.point, needed, self.budget)}; it did not fit"
