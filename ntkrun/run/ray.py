"""The Ray engine: connect to a cluster or start Ray on this machine, and run stacks on its workers."""

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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ntkrun.config.schema import Point
from ntkrun.engine.devices import GIB, free_bytes
from ntkrun.engine.memory import stack_bytes
from ntkrun.errors import UserError
from ntkrun.files.writing import errors_as_sentence
from ntkrun.plan.memo import Memo
from ntkrun.plan.problem import Inputs, inputs_of, problem_of
from ntkrun.plan.runs import Stack
from ntkrun.plan.stacks import SHARE
from ntkrun.run.provenance import provenance
from ntkrun.run.task import Failed, Lost, Outcome, OutOfMemory, outcome_of, run_task
from ntkrun.theory.activations import Activation, know, registered

# Ray reads these when it is imported. LOCAL_ONLY keeps a local Ray's sockets on the loopback interface, on Linux too.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
SOCKETS = "/tmp"  # folder of Ray's sockets; short, because the path of a socket may have at most 100 characters
TOKEN = "ray._private.authentication"  # logger that warns at each start that a token is in use; see docs/cluster.md
LOG_LENGTH, LOG_COUNT = 4000, 3  # characters per worker's log, and number of workers, in the log of a lost stack
MESSAGE_LENGTH = 600  # characters of Ray's error message that are shown if it does not start
REACHED = 10.0  # seconds to wait for a cluster to answer; Ray itself tries for minutes
BESIDE = GIB // 2  # bytes that Python and torch need in addition to a stack
POLL = 0.5  # seconds between checks for an interrupt

Work = TypeVar("Work")


@dataclass(frozen=True)
class Workers:
    """The workers that stacks run on: `count` at once, each with `cpus` CPUs and `gpus` of a GPU.

    `device` is their kind of device (cpu or cuda), `node_bytes` the memory of a node in bytes, and `memory` the GiB
    that a stack may take. `made_by` is the workers' provenance and `logs` the folder of their logs. `registered` is a
    Ray reference to the activations that this program has registered.
    """

    count: int
    device: str
    cpus: int
    gpus: float
    node_bytes: int
    memory: float
    made_by: dict[str, Any]
    logs: Path
    registered: Any


def import_ray() -> Any:
    """Import Ray with its usage statistics turned off and return it. Raises UserError where it is not installed."""
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray: Ray is not installed; pip install 'ntkrun[ray]'") from None
    return ray


@contextlib.contextmanager
def connected_workers(address: str | None, jobs: int | None, device: str) -> Iterator[Workers]:
    """Yield the workers of the cluster at `address` (auto or HOST:PORT), or of a local Ray if there is no address.

    A local Ray ends with the context, including all its processes. Raises UserError where Ray is not installed or does
    not start, or there is no such cluster or device.
    """
    check(address)
    with _existing_cluster(address) if address else _local_ray(jobs, device):
        yield _workers(jobs, device)


def check(address: str | None) -> None:
    """Raise UserError where Ray is not installed, cannot be limited to this machine, or the address is malformed."""
    if address and "://" in address:
        raise UserError(f"--ray-address {address}: give auto or HOST:PORT, on a node of the cluster")
    if not address and "ray" in sys.modules and not LOCAL_ONLY.items() <= os.environ.items():
        variables = " ".join(f"{name}={value}" for name, value in LOCAL_ONLY.items())
        raise UserError(
            f"Ray was imported before ntkrun could limit its sockets to this machine; set {variables} before the import"
        )
    os.environ.update({} if address else LOCAL_ONLY)
    import_ray()


@contextlib.contextmanager
def _local_ray(jobs: int | None, device: str) -> Iterator[None]:
    logging.getLogger(TOKEN).setLevel(logging.ERROR)
    cpus, gpus = local_resources(jobs, device)
    options = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with errors_as_sentence(Path(SOCKETS), comfort="; Ray needs it for its sockets"):
        folder = tempfile.mkdtemp(prefix="ntkrun-", dir=SOCKETS)
    try:
        with _session("--engine ray", address="local", _temp_dir=folder, **options):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def local_resources(jobs: int | None, device: str) -> tuple[int, int]:
    """Return the number of CPUs and of GPUs for a local Ray."""
    return max(jobs or 1, torch.get_num_threads()), 0 if device == "cpu" else torch.cuda.device_count()


@contextlib.contextmanager
def _existing_cluster(address: str) -> Iterator[None]:
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray-address {address}: no cluster answers there ({error})") from None
    with _session(f"--ray-address {address}", address=address):
        yield


@contextlib.contextmanager
def _session(option: str, **init_options: Any) -> Iterator[None]:
    """Run Ray for as long as the context lasts. Raises UserError, beginning with `option`, where Ray does not start."""
    ray = import_ray()
    try:
        _start(ray, option, init_options)
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, option: str, init_options: dict[str, Any]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **init_options)
    except SystemExit:  # Ray's own answer to SIGTERM
        raise KeyboardInterrupt from None
    except Exception as error:  # noqa: BLE001 - Ray raises even Exception itself; only Ray's code runs here
        raise UserError(f"{option}: Ray does not start: {' '.join(str(error).split())[:MESSAGE_LENGTH]}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it by its own


def _workers(jobs: int | None, device: str) -> Workers:
    """Return the workers: `jobs` of them, or by default one per GPU, or else per CPU. They share the CPUs equally."""
    ray = import_ray()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, all_gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    if not cpus:
        raise UserError("--engine ray: the cluster offers no CPU, so no task would ever start; add a node with CPUs")
    kind = device_kind(device, all_gpus)
    count = worker_count(jobs, cpus, all_gpus, kind)
    per_gpu = -(-count // all_gpus) if kind == "cuda" else 0
    threads = max(1, min(cpus // count, int(max(node.get("CPU", 1) for node in nodes))))
    gpus = 1 / per_gpu if per_gpu else 0.0
    made_by, free, logs = ray.get(task(_probe_worker, threads, gpus, 0).remote(kind))
    memory = memory_each(free, count, all_gpus if kind == "cuda" else len(nodes))
    node_bytes = int(min(node.get("memory", free) for node in nodes))
    return Workers(count, kind, threads, gpus, node_bytes, memory, made_by, Path(logs), _sent(registered()))


def worker_count(jobs: int | None, cpus: int, gpus: int, kind: str) -> int:
    """Return the number of workers: `jobs`, or by default one per GPU or CPU of the kind of device."""
    return jobs or (gpus if kind == "cuda" else cpus)


def memory_each(free: int, workers: int, places: int) -> float:
    """Return the GiB that a worker's stack may take, if the workers share `places` nodes or GPUs with `free` bytes
    each."""
    return SHARE * free / -(-workers // places) / GIB


def _sent(functions: Any) -> Any:
    """Return a Ray reference to the user's own activations. Ray sends their code in memory, never in a file."""
    try:
        return import_ray().put(functions)
    except TypeError as error:
        names = ", ".join(function.name for function in functions)
        why = str(error).strip().splitlines()[0]
        raise UserError(f"activations {names}: cannot be sent to Ray's workers ({why}); use the local engine") from None


def device_kind(device: str, gpus: int) -> str:
    """Return cpu or cuda. Ray chooses which of a machine's GPUs a worker uses."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: with --engine ray choose auto, cpu or cuda; Ray assigns the GPUs")
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: Ray has no GPU; choose auto or cpu")
    return "cuda" if gpus and device != "cpu" else "cpu"


def task(function: Any, cpus: int, gpus: float, size: int) -> Any:
    """Return a function as a Ray task that requests these CPUs, this part of a GPU and `size` bytes, and never
    retries."""
    return import_ray().remote(function).options(max_retries=0, num_cpus=cpus, num_gpus=gpus, memory=size)


def in_flight(
    waiting: deque[Work], start: Callable[[Work], Any], most: int, stopping: Callable[[], bool] = lambda: False
) -> Generator[tuple[Work, Any], None, None]:
    """Start the waiting work, at most `most` at once, and yield each piece with its reference when it ends.

    The caller may change `waiting` between two results. Raises KeyboardInterrupt if `stopping` returns True. Work that
    is still running when the iterator is closed or interrupted is cancelled.
    """
    ray, running = import_ray(), dict[Any, Work]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                work = waiting.popleft()
                running[start(work)] = work
            for reference in ray.wait(list(running), timeout=POLL)[0]:
                yield running.pop(reference), reference
            if stopping():
                raise KeyboardInterrupt
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _probe_worker(kind: str) -> tuple[dict[str, Any], int, str]:
    """Return a worker's provenance, its free bytes and the folder of its logs. Runs in the worker."""
    context = import_ray().get_runtime_context()
    logs = Path(context.get_temp_dir(), context.get_session_name(), "logs")
    return provenance(torch.device(kind)), free_bytes(torch.device(kind)), str(logs)


def log_tails(logs: Path) -> str:
    """Return the last lines that workers wrote to standard error, if this machine can read their logs."""
    files = sorted((file for file in logs.glob("worker-*.err") if file.stat().st_size), key=lambda f: f.stat().st_mtime)
    tails = [f"{file}:\n{file.read_text('utf-8', 'replace')[-LOG_LENGTH:]}" for file in files[-LOG_COUNT:]]
    return "\n".join([f"logs of the workers: {logs}", *tails, ""])


# ---------------------------------------------------------------- ray


@dataclass(frozen=True)
class Ray:
    """The engine that runs stacks on the workers from `connected_workers`. It raises KeyboardInterrupt once `stopping`
    returns True.

    The workers receive the inputs of a grid point, and so load no data and compute no limit kernel. Inputs are sent to
    Ray once per grid point, and again where those of later grid points have taken 1 GiB since.
    """

    workers: Workers
    timed: bool
    stopping: Callable[[], bool]

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        submit = partial(self._submit, Memo[Point, tuple[Any, int]](lambda sent: sent[1]))
        with closing(in_flight(waiting, submit, self.workers.count, self.stopping)) as results:
            for stack, reference in results:
                yield stack, self._outcome(reference)

    def _submit(self, references: Memo[Point, tuple[Any, int]], stack: Stack) -> Any:
        workers = self.workers
        try:
            reference, _ = references.get(stack.point, lambda: _with_size(inputs_of(stack.point)))
        except Exception as error:  # noqa: BLE001 - no error in a stack may end the other stacks
            return import_ray().put(outcome_of(error, 0))
        size = stack_bytes(problem_of(stack.point).task, len(stack.runs)) if workers.device == "cpu" else 0
        remote_task = task(_attempted, workers.cpus, workers.gpus, min(size + BESIDE, workers.node_bytes))
        return remote_task.remote(stack, reference, workers.device, workers.cpus, self.timed, workers.registered)

    def _outcome(self, reference: Any) -> Outcome:
        from ray import exceptions

        try:
            return import_ray().get(reference)
        except exceptions.OutOfMemoryError as error:  # Ray ends a worker before the system would
            return OutOfMemory(0, str(error))
        except exceptions.RayTaskError as error:  # `run_task` lets OSError pass, such as a file that the node lacks
            return Failed(str(error).strip().splitlines()[-1], 0, str(error))
        except exceptions.RayError as error:
            why = str(error).strip().splitlines()[0]
            return Lost(f"its worker is gone: {why}", f"{error}\n{log_tails(self.workers.logs)}")


def _with_size(inputs: Inputs) -> tuple[Any, int]:
    """Return a Ray reference to these inputs, and their bytes."""
    return import_ray().put(inputs), inputs.nbytes


def _attempted(
    stack: Stack, inputs: Inputs, kind: str, threads: int, timed: bool, registered: Sequence[Activation]
) -> Outcome:
    """Run a stack in a worker with as many threads as it has CPUs. The number of threads affects the last digits."""
    know(registered)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    return run_task(stack, torch.device(kind), _made_by(kind), timed=timed, inputs_of=lambda point: inputs)


@lru_cache(maxsize=1)
def _made_by(kind: str) -> dict[str, Any]:
    return provenance(torch.device(kind))
