"""Ray itself: a local one of our own or a cluster that is running, tamed, and what its workers are given."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from ntkrun.engine.devices import GIB, free_bytes
from ntkrun.engine.footprint import Footprint
from ntkrun.errors import UserError
from ntkrun.files.writing import errors_as_sentence
from ntkrun.plan.problem import task_of
from ntkrun.plan.runs import Stack
from ntkrun.plan.stacks import SHARE
from ntkrun.run.provenance import provenance
from ntkrun.run.task import Failed, Lost, Outcome, OutOfMemory, run_task
from ntkrun.theory.activations import Activation, know, registered

# Read when Ray is imported. The second keeps a local Ray's sockets on the loopback interface, on Linux as well.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
SOCKETS = "/tmp"  # short: Ray's sockets lie in a folder there, and the path of a socket has 100 letters at most
TOKEN = "ray._private.authentication"  # who warns, at each start, that a token is in use: docs/cluster.md says it once
LAST_WORDS, SPEAKERS = 4000, 3  # letters of a worker's log, and workers, in the log of a stack that is lost
SAID = 600  # letters of what Ray has to say against starting
REACHED = 10.0  # seconds for a cluster to answer; Ray itself tries for minutes
BESIDE = GIB // 2  # bytes that Python and torch take beside a stack
POLL = 0.5  # seconds between two looks at whether somebody interrupts

Work = TypeVar("Work")


@dataclass(frozen=True)
class Workers:
    """What stacks run on: `count` at once on a kind of device, each with so many CPUs and a part of a GPU; the bytes of
    a node; what a stack may take in GiB; what makes the runs; where the workers' logs are; and the σ that this program
    has registered, as a reference."""

    count: int
    device: str
    cpus: int
    gpus: float
    node_bytes: int
    memory: float
    made_by: dict[str, Any]
    logs: Path
    registered: Any


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
    gone with all its processes afterwards. Raises UserError without Ray, where no such cluster or device is, and for
    what Ray has to say against starting."""
    check(address)
    with _cluster(address) if address else _machine(jobs, device):
        yield _workers(jobs, device)


def check(address: str | None) -> None:
    """Raises UserError where Ray is not installed, cannot be kept to this machine, or knows no address of that kind."""
    if address and "://" in address:
        raise UserError(f"--ray-address {address}: give auto or HOST:PORT, on a node of the cluster")
    if not address and "ray" in sys.modules and not LOCAL_ONLY.items() <= os.environ.items():
        said = " ".join(f"{name}={value}" for name, value in LOCAL_ONLY.items())
        raise UserError(f"Ray was imported before ntkrun could keep its sockets to this machine; set {said} first")
    os.environ.update({} if address else LOCAL_ONLY)
    imported()


@contextlib.contextmanager
def _machine(jobs: int | None, device: str) -> Iterator[None]:
    logging.getLogger(TOKEN).setLevel(logging.ERROR)
    cpus, gpus = here(jobs, device)
    what = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with errors_as_sentence(Path(SOCKETS), comfort="; Ray's sockets have to lie there"):
        folder = tempfile.mkdtemp(prefix="ntkrun-", dir=SOCKETS)
    try:
        with _begun("--engine ray", address="local", _temp_dir=folder, **what):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def here(jobs: int | None, device: str) -> tuple[int, int]:
    """CPUs and GPUs of a Ray of our own."""
    return max(jobs or 1, torch.get_num_threads()), 0 if device == "cpu" else torch.cuda.device_count()


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray-address {address}: nobody answers there ({error})") from None
    with _begun(f"--ray-address {address}", address=address):
        yield


@contextlib.contextmanager
def _begun(asked: str, **what: Any) -> Iterator[None]:
    """Ray, for as long as the context lasts; what it has to say against it is a UserError that begins with `asked`."""
    ray = imported()
    try:
        _start(ray, asked, what)
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, asked: str, what: dict[str, Any]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **what)
    except SystemExit:  # Ray's own answer to SIGTERM
        raise KeyboardInterrupt from None
    except Exception as error:  # noqa: BLE001 - Ray raises that itself, among others; nothing of ours runs within
        raise UserError(f"{asked}: Ray does not start: {' '.join(str(error).split())[:SAID]}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place of ours


def _workers(jobs: int | None, device: str) -> Workers:
    """So many tasks at once as `jobs` says, or as there are GPUs, or else CPUs; the CPUs are shared among them."""
    ray = imported()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, all_gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    if not cpus:
        raise UserError("--engine ray: the cluster offers no CPU, so no task would ever start; add a node that does")
    kind = device_kind(device, all_gpus)
    count = at_once(jobs, cpus, all_gpus, kind)
    per_gpu = -(-count // all_gpus) if kind == "cuda" else 0
    threads = max(1, min(cpus // count, int(max(node.get("CPU", 1) for node in nodes))))
    gpus = 1 / per_gpu if per_gpu else 0.0
    made_by, free, logs = ray.get(task(_seen, threads, gpus, 0).remote(kind))
    each = memory_each(free, count, all_gpus if kind == "cuda" else len(nodes))
    node_bytes = int(min(node.get("memory", free) for node in nodes))
    return Workers(count, kind, threads, gpus, node_bytes, each, made_by, Path(logs), _sent(registered()))


def at_once(jobs: int | None, cpus: int, gpus: int, kind: str) -> int:
    """How many workers there are to be."""
    return jobs or (gpus if kind == "cuda" else cpus)


def memory_each(free: int, workers: int, places: int) -> float:
    """GiB that a worker's stack may take, where workers share so many nodes or GPUs with `free` bytes on each."""
    return SHARE * free / -(-workers // places) / GIB


def _sent(functions: Any) -> Any:
    """A reference to the user's own σ, which travel as Ray sends code: in memory, never by a file."""
    try:
        return imported().put(functions)
    except TypeError as error:
        names = ", ".join(each.name for each in functions)
        why = str(error).strip().splitlines()[0]
        raise UserError(f"activations {names}: cannot be sent to Ray's workers ({why}); use the local engine") from None


def device_kind(device: str, gpus: int) -> str:
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
    said = [f"{file}:\n{file.read_text('utf-8', 'replace')[-LAST_WORDS:]}" for file in files[-SPEAKERS:]]
    return "\n".join([f"logs of the workers: {logs}", *said, ""])


# ---------------------------------------------------------------- ray


@dataclass(frozen=True)
class Ray:
    """Runs stacks on the workers that `connected` gives; where `stopping` says so it ends by KeyboardInterrupt."""

    workers: Workers
    timed: bool
    stopping: Callable[[], bool]

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        with closing(in_flight(waiting, self._started, self.workers.count, self.stopping)) as ended:
            for stack, reference in ended:
                yield stack, self._outcome(reference)

    def _started(self, stack: Stack) -> Any:
        workers = self.workers
        held = Footprint(task_of(stack.point)).bytes(len(stack.runs)) if workers.device == "cpu" else 0
        asked = task(_attempted, workers.cpus, workers.gpus, min(held + BESIDE, workers.node_bytes))
        return asked.remote(stack, workers.device, workers.cpus, self.timed, workers.registered)

    def _outcome(self, ended: Any) -> Outcome:
        from ray import exceptions

        try:
            return imported().get(ended)
        except exceptions.OutOfMemoryError as error:  # Ray ends a worker before the system would
            return OutOfMemory(0, str(error))
        except exceptions.RayTaskError as error:  # what `attempt` lets pass, such as a file that the node lacks
            return Failed(str(error).strip().splitlines()[-1], 0, str(error))
        except exceptions.RayError as error:
            what = str(error).strip().splitlines()[0]
            return Lost(f"its worker is gone: {what}", f"{error}\n{last_words(self.workers.logs)}")


def _attempted(stack: Stack, kind: str, threads: int, timed: bool, registered: Sequence[Activation]) -> Outcome:
    """In a worker, with as many threads as it has CPUs: their number has a say in the last digits."""
    know(registered)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    return run_task(stack, torch.device(kind), _made_by(kind), timed=timed)


@lru_cache(maxsize=1)
def _made_by(kind: str) -> dict[str, Any]:
    return provenance(torch.device(kind))
