"""Many workers: equal tables whoever computed them, what a stack costs beside its numbers, and 100,000 runs on disk.

python benchmarks/bench_workers.py equal | nodes | driver | workers | overhead | cores | large
"""

# Ray ships no annotations for its test clusters:
# mypy: disable-error-code="no-untyped-call"

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from ntkrun.config.reader import Sweep, parse_config
from ntkrun.evidence.report.status import status_document
from ntkrun.plan.runs import Stack, plan, run_row, stacks
from ntkrun.plan.stacks import Shard
from ntkrun.run.engines import EngineSelection
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import RunOptions, run_shard, run_sweep
from ntkrun.store.results_directory import Results, Store, read_results

TEXT = """\
name: workers
network: {depth: 3}
data: {name: sphere, dimension: 3, samples: 16, test_samples: 4}
training: {steps: 200}
sweep: {grid: {network.width: [32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76]}, seeds: 4}
"""
RAY = ["--engine", "ray", "--jobs", "2", "--no-plots", "-q"]
TINY = """\
name: large
data: {name: sphere, dimension: 3, samples: 4, test_samples: 0}
training: {steps: 2}
sweep: {grid: {network.width: [4, 8], network.depth: [2, 3, 4, 5, 6]}, seeds: 10000}
"""
T = TypeVar("T")
KILLS = 40
STACK = 10  # runs of a stack of the large sweep, so that there are 10,000 of them


def main(what: str) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="ntkrun-bench-"))
    try:
        {f.__name__: f for f in (equal, nodes, driver, workers, overhead, cores, large)}[what](folder)
    finally:
        shutil.rmtree(folder)


def equal(folder: Path) -> None:
    """Local, four jobs, four shards: the same bits."""
    sweep = parse_config(TEXT)
    here = _timed("local", lambda: run_sweep(sweep, folder / "local", "cpu"))
    there = _timed("--jobs 4", lambda: run_sweep(sweep, folder / "ray", "cpu", engine=EngineSelection("ray", 4)))
    shards = [Shard(number, 4) for number in range(1, 5)]
    _timed(
        "--shard 1..4/4",
        lambda: [run_shard(k, sweep, folder / "shards", RunOptions("cpu"), ProgressListener()) for k in shards],
    )
    for name, other in (("--jobs 4", there), ("shards", read_results(folder / "shards" / sweep.name))):
        print(f"{name}: {'equal' if _same(here, other) else 'DIFFERENT'}")


def nodes(folder: Path) -> None:
    """Two nodes of Ray on this machine, one of them killed in mid-sweep."""
    from ray.cluster_utils import Cluster

    sweep = parse_config(TEXT, overrides=["training.steps=1000"])
    here = _timed("local", lambda: run_sweep(sweep, folder / "local", "cpu"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    doomed = cluster.add_node(num_cpus=1)
    try:
        timer = threading.Timer(20.0, lambda: cluster.remove_node(doomed, allow_graceful=False))
        timer.start()
        selection = EngineSelection("ray", None, cluster.address)
        there = _timed(
            "two nodes, one killed", lambda: run_sweep(sweep, folder / "ray", "cpu", Says(), engine=selection)
        )
        timer.cancel()
    finally:
        cluster.shutdown()
    committed = there.runs["run_id"].value_counts()
    print(f"{len(there.runs)} of {len(here.runs)} runs, each {committed.max()} times; equal: {_same(here, there)}")


def driver(folder: Path) -> None:
    """`ntkrun sweep --engine ray` killed when some stacks are committed, and the same command again."""
    text = TEXT.replace("steps: 200", "steps: 1000")
    (folder / "workers.yaml").write_text(text, encoding="utf-8")
    here = run_sweep(parse_config(text), folder / "local", "cpu")
    code = f"from ntkrun.cli import main; import sys; sys.argv[1:] = {['sweep', 'workers.yaml', *RAY]}; main()"
    command = [sys.executable, "-c", code]
    killed = subprocess.Popen(command, cwd=folder)
    while len(Store(folder / "results" / "workers").finished()) < 12:
        time.sleep(0.5)
    killed.kill()
    killed.wait()
    before = len(Store(folder / "results" / "workers").finished())
    _timed(f"killed with {before} runs committed; again", lambda: subprocess.run(command, cwd=folder, check=True))
    there = read_results(folder / "results" / "workers")
    print(f"{len(there.runs)} of {len(here.runs)} runs; equal: {_same(here, there)}")


def workers(folder: Path) -> None:
    """Workers of `--jobs 2` killed at random moments, KILLS of them, in as many sweeps as that takes."""
    sweep, draw, told = parse_config(TEXT, overrides=["training.steps=1000"]), random.Random(0), Says()
    here, killed, sweeps, over = run_sweep(sweep, folder / "local", "cpu"), 0, 0, threading.Event()

    def kill() -> None:
        nonlocal killed
        while killed < KILLS and not over.wait(draw.uniform(0.5, 3.0)):
            busy = _busy_workers()
            if busy:
                os.kill(draw.choice(busy), signal.SIGKILL)
                killed += 1

    reaper = threading.Thread(target=kill)
    reaper.start()
    try:
        while killed < KILLS:
            place, failed = folder / str(sweeps), True
            while failed:  # a stack that was killed three times has failed
                there = run_sweep(sweep, place, "cpu", told, retry_failed=True, engine=EngineSelection("ray", 2))
                failed = (there.runs["status"] == "failed").any()
            assert there.runs["run_id"].is_unique
            assert _same(here, there)
            sweeps += 1
    finally:
        over.set()
        reaper.join()
    print(f"{killed} workers killed, {told.lost} stacks lost and run again; {sweeps} sweeps complete, each equal")


def _busy_workers() -> list[int]:
    """Ray's workers on this machine that are at a stack: they say so in the place of their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::_attempted"):
                found.append(int(entry.name))
    return found


def overhead(folder: Path) -> None:
    """Milliseconds a stack beside its training, by engine: 108 stacks that train nothing, less 12 such stacks. Those of
    this process's own time hold on a busy machine as well; on the local engine the stacks themselves are among them."""
    for name, selection in (("local", EngineSelection()), ("ray", EngineSelection("ray", 1))):
        few, many = (_beside(folder / name / str(betas), betas, selection) for betas in (1, 9))
        each, own = (1000 * (after - before) / 96 for before, after in zip(few, many, strict=True))
        print(
            f"{name}: {each:.0f} ms a stack, {own:.0f} of this process; {few[0] - 0.012 * each:.1f} s to start and end"
        )


def _beside(folder: Path, kinds: int, selection: EngineSelection) -> tuple[float, float]:
    """Seconds of 12 times so many stacks, without their training and probes; and of this process alone."""
    betas = [round(0.1 * (1 + k), 1) for k in range(kinds)]
    overrides = ["training.steps=0", "sweep.seeds=1", f"sweep.grid.network.beta={betas}"]
    started, own = time.perf_counter(), time.process_time()
    results = run_sweep(parse_config(TEXT, overrides=overrides), folder, "cpu", engine=selection)
    taken = time.perf_counter() - started - results.runs["seconds"].sum()
    return float(taken), time.process_time() - own


def cores(folder: Path) -> None:
    """One core, and two workers with a core each, at the same stacks."""
    sweep = parse_config(TEXT, overrides=["training.steps=500"])
    for name, selection in (
        ("local", EngineSelection()),
        ("--jobs 1", EngineSelection("ray", 1)),
        ("--jobs 2", EngineSelection("ray", 2)),
    ):
        _timed(name, lambda: run_sweep(sweep, folder / name, "cpu", engine=selection))  # noqa: B023 - called at once
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


class Says(ProgressListener):
    """Prints and counts what is noted of a stack: that it was lost."""

    lost = 0

    def note(self, stack: Stack, text: str) -> None:
        self.lost += 1
        print(f"width {stack.point.network.width}: {text[:100]}")


def large(folder: Path) -> None:
    """100,000 runs planned, committed, and read, without training any."""
    sweep = parse_config(TINY)
    runs = _timed("plan", lambda: plan(sweep))
    rows, description = [run_row(run) for run in runs], {"config": dict(sweep.resolved), "made_by": {}}
    for what, together in (("one by one", 1), ("twenty together", 20)):  # as stacks of two seconds, and of a tenth
        print(f"stacks committed {what}")
        _large(Store(folder / what / sweep.name), sweep, description, rows, together)


def _large(store: Store, sweep: Sweep, description: dict[str, Any], rows: list[dict[str, Any]], together: int) -> None:
    with store.writing():
        _timed("write the plan", lambda: store.begin(description, rows))
        _timed("commit", lambda: _commit_all(store, sweep, together * STACK))
    _timed("finished", Store(store.root).finished)  # as the next sweep asks it
    document = _timed("status", lambda: status_document(store.plan(), store.runs(), store.writers(), store.failed()))
    found = [path.stat().st_size for path in store.root.rglob("*")]
    size = f"{len(found)} files and folders of {sum(found) / 1e6:.0f} MB"
    print(f"{document['done']} done; {size}; {_gib():.2f} GiB at most")
    _timed("read all tables", store.read)
    print(f"{_gib():.2f} GiB at most")


def _commit_all(store: Store, sweep: Sweep, runs: int) -> None:
    for stack in stacks(plan(sweep)):
        for start in range(0, len(stack.runs), runs):
            store.commit(_frames([run.run_id for run in stack.runs[start : start + runs]]), {})


def _frames(ids: list[str]) -> dict[str, pd.DataFrame]:
    ended = {"status": "done", "reason": "", "last_step": 2, "step_size": 1.0, "parameters": 9, "seconds": 0.1}
    runs = pd.DataFrame({"run_id": ids, **ended})
    rows = pd.DataFrame({"run_id": np.repeat(ids, 3), "step": [0, 1, 2] * len(ids)})
    steps = rows.assign(time=0.0, loss=0.5, test_loss=0.5, kernel_drift=0.1)
    layers = rows.assign(layer=0, weight_drift=0.1)
    return {"runs": runs, "steps": steps, "layers": layers}


def _same(one: Results, other: Results) -> bool:
    return all(getattr(one, table).equals(getattr(other, table)) for table in ("steps", "layers", "modes", "outputs"))


def _timed(what: str, call: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = call()
    print(f"{what}: {time.perf_counter() - started:.1f} s", flush=True)
    return result


def _gib() -> float:
    return getrusage(RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main(sys.argv[1])
