"""Ray itself: a local one of our own or a cluster that is running, tamed, and what its workers are given."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ntkrun.engine.memory import GIB, free_bytes
from ntkrun.errors import UserError
from ntkrun.lab.budget import SHARE
from ntkrun.lab.provenance import provenance

# Read when Ray is imported. The second keeps a local Ray's sockets on the loopback interface, on Linux as well.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
SOCKETS = "/tmp"  # short: Ray's sockets lie in a folder there, and the path of a socket has 100 letters at most
LAST_WORDS, SPEAKERS = 4000, 3  # letters of a worker's log, and workers, in the log of a stack that is lost
BESIDE = GIB // 2  # bytes that Python and torch take beside a stack
POLL = 0.5  # seconds between two looks at whether somebody interrupts

Work = TypeVar("Work")


@dataclass(frozen=True)
class Workers:
    """What stacks run on: `count` at once on a kind of device, each with so many CPUs and a part of a GPU; the bytes of
    a node; what a stack may take in GiB; what makes the runs; and where the workers' logs are."""

    count: int
    device: str
    cpus: int
    gpus: float
    node_bytes: int
    memory: float
    made_by: dict[str, Any]
    logs: Path


def imported() -> Any:
    """Ray, its usage statistics off. Raises UserError where it is not installed."""
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray: Ray is not installed; pip install 'ntkrun[ray]'") from None
    return ray


@contextlib.contextmanager
def connected(address: str | None, jobs: int | None, device: str) -> Iterator[Workers]:
    """The workers of the cluster at `address` (auto or HOST:PORT), or of a Ray of our own on this machine, which is
    gone with all its processes afterwards. Raises UserError without Ray, and where no such cluster or device is."""
    with _cluster(address) if address else _machine(jobs, device):
        yield _workers(jobs, device)


@contextlib.contextmanager
def _machine(jobs: int | None, device: str) -> Iterator[None]:
    if "ray" in sys.modules and not LOCAL_ONLY.items() <= os.environ.items():
        said = " ".join(f"{name}={value}" for name, value in LOCAL_ONLY.items())
        raise UserError(f"Ray was imported before ntkrun could keep its sockets to this machine; set {said} first")
    os.environ.update(LOCAL_ONLY)
    cpus, gpus = max(jobs or 1, torch.get_num_threads()), 0 if device == "cpu" else torch.cuda.device_count()
    folder = tempfile.mkdtemp(prefix="ntkrun-", dir=SOCKETS)
    what = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        with _begun(address="local", _temp_dir=folder, **what):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    if "://" in address:
        raise UserError(f"--ray-address {address}: give auto or HOST:PORT, on a node of the cluster")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_begun(address=address))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--ray-address {address}: {str(error).strip().splitlines()[0]}") from None
        yield


@contextlib.contextmanager
def _begun(**what: Any) -> Iterator[None]:
    ray, before = imported(), signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, configure_logging=False, **what)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place of ours
        yield
    finally:
        ray.shutdown()


def _workers(jobs: int | None, device: str) -> Workers:
    """So many tasks at once as `jobs` says, or as there are GPUs, or else CPUs; the CPUs are shared among them."""
    ray = imported()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, all_gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    kind = _kind(device, all_gpus)
    count = jobs or (all_gpus if kind == "cuda" else cpus)
    per_gpu = -(-count // all_gpus) if kind == "cuda" else 0
    threads = max(1, min(cpus // count, int(max(node.get("CPU", 1) for node in nodes))))
    gpus = 1 / per_gpu if per_gpu else 0.0
    made_by, free, logs = ray.get(task(_seen, threads, gpus, 0).remote(kind))
    together = per_gpu or -(-count // len(nodes))
    node_bytes = int(min(node.get("memory", free) for node in nodes))
    return Workers(count, kind, threads, gpus, node_bytes, SHARE * free / together / GIB, made_by, Path(logs))


def _kind(device: str, gpus: int) -> str:
    """cpu or cuda. Which of a machine's GPUs, Ray says."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: with --engine ray choose auto, cpu or cuda; Ray shares the GPUs out")
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: Ray has no GPU here; choose auto or cpu")
    return "cuda" if gpus and device != "cpu" else "cpu"


def task(function: Any, cpus: int, gpus: float, size: int) -> Any:
    """A function as a task that asks for these CPUs, this part of a GPU and these bytes, and is tried once."""
    return imported().remote(function).options(max_retries=0, num_cpus=cpus, num_gpus=gpus, memory=size)


def in_flight(
    waiting: deque[Work], start: Callable[[Work], Any], most: int, stopping: Callable[[], bool] = lambda: False
) -> Generator[tuple[Work, Any], None, None]:
    """Start what waits, at most so many at once, and yield each with its reference as it ends. `waiting` may change in
    between. What still runs when the iterator is closed, or ends by KeyboardInterrupt where it is `stopping`, is
    cancelled."""
    ray, running = imported(), dict[Any, Work]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                work = waiting.popleft()
                running[start(work)] = work
            for ended in ray.wait(list(running), timeout=POLL)[0]:
                yield running.pop(ended), ended
            if stopping():
                raise KeyboardInterrupt
    finally:
        for abandoned in running:
            ray.cancel(abandoned, force=True)


def _seen(kind: str) -> tuple[dict[str, Any], int, str]:
    """What a worker says of itself: what it makes runs with, free bytes, where its logs are."""
    context = imported().get_runtime_context()
    logs = Path(context.get_temp_dir(), context.get_session_name(), "logs")
    return provenance(torch.device(kind)), free_bytes(torch.device(kind)), str(logs)


def last_words(logs: Path) -> str:
    """What workers have said last on standard error, where their logs can be read from here."""
    files = sorted((file for file in logs.glob("worker-*.err") if file.stat().st_size), key=lambda f: f.stat().st_mtime)
    said = [f"{file}:\n{file.read_text(errors='replace')[-LAST_WORDS:]}" for file in files[-SPEAKERS:]]
    return "\n".join([f"logs of the workers: {logs}", *said, ""])
