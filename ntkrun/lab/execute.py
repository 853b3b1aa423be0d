"""Plan minus store -> engine -> store."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

import ntkrun
from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.probes import Measurement
from ntkrun.engine.stack import StackResult, StackTask, run_stack
from ntkrun.engine.training import State
from ntkrun.errors import UserError
from ntkrun.lab.config import Sweep
from ntkrun.lab.limits import limit_outputs
from ntkrun.lab.plan import Run, Stack, columns, detail_steps, kept_steps, plan, probed_steps, stacks
from ntkrun.lab.points import check_loss, data_of, limit_kernel, network, output_scale, step_size
from ntkrun.lab.provenance import provenance
from ntkrun.lab.sections import Point
from ntkrun.lab.store import Results, Store
from ntkrun.lab.tables import completed, of_runs, with_limits
from ntkrun.theory import corrections
from ntkrun.theory.activations import activation

PREDICTED = {
    "kernel_variance": corrections.kernel_variance,
    "kurtosis": corrections.output_kurtosis,
    "square_correlation": corrections.output_square_correlation,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Watch(Protocol):
    """Who follows a sweep as it goes: a progress bar, or nobody."""

    def begins(self, missing: Sequence[Stack], finished: int) -> None: ...
    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None: ...
    def committed(self, stack: Stack, result: StackResult) -> None: ...
    def close(self) -> None: ...


class Nobody:
    """Watches nothing."""

    def begins(self, missing: Sequence[Stack], finished: int) -> None: ...
    def state(self, stack: Stack, state: State, measurement: Measurement | None) -> None: ...
    def committed(self, stack: Stack, result: StackResult) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Outlook:
    """What a sweep would do: its runs, those of them that are still missing, and what the data have to say."""

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    notes: tuple[str, ...]
    path: Path

    def as_json(self) -> dict[str, Any]:
        return {
            "results": str(self.path),
            "runs": len(self.runs),
            "missing": [columns(run) for run in self.missing],
            "notes": list(self.notes),
        }


def run_sweep(
    sweep: Sweep, results: str | Path = "results", device: str = "auto", watch: Watch | None = None
) -> Results:
    """Run what is missing of a sweep into `results`/<name>, and return its tables.

    Runs that are finished there are never run again. An interrupt keeps every finished stack. Raises UserError for a
    device that is not there, a directory that cannot be written or is in use, and data that cannot be had.
    """
    watch = watch or Nobody()
    where = resolve_device(device)
    store = Store(Path(results) / sweep.name)
    runs = plan(sweep)
    with store.writing():
        finished = store.finished()
        missing = stacks(run for run in runs if run.run_id not in finished)
        made_by = provenance(where)
        store.begin(_description(sweep, runs, made_by), [columns(run) for run in runs])
        watch.begins(missing, sum(run.run_id in finished for run in runs))
        try:
            for stack in missing:
                with _memory(stack):
                    result = run_stack(_task(stack), where, lambda state, m, stack=stack: watch.state(stack, state, m))  # type: ignore[misc]
                store.commit(*_rows(stack, result, made_by))
                watch.committed(stack, result)
        finally:
            store.write_tables()
    return store.read()


def outlook(sweep: Sweep, results: str | Path = "results") -> Outlook:
    """What `run_sweep` would do, without doing it."""
    runs = plan(sweep)
    path = Path(results) / sweep.name
    finished = Store(path).finished()
    return Outlook(runs, tuple(run for run in runs if run.run_id not in finished), notes_on(runs), path)


def resolve_device(name: str) -> torch.device:
    """`auto` takes CUDA when there is one. float32 matrix products keep full precision (no tf32) on every device."""
    torch.set_float32_matmul_precision("highest")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:K")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: no such CUDA device here; choose auto or cpu")
    return torch.device(name)


def notes_on(runs: Sequence[Run]) -> tuple[str, ...]:
    """What a person should read before the numbers: what the data sets report of themselves, such as repeated inputs,
    and limit kernels that cannot be had."""
    points = list(dict.fromkeys(run.point for run in runs))
    of_data = [note for point in points for note in data_of(point).notes]
    of_limits = [note for point in points if (note := _limit(point)[1])]
    return tuple(dict.fromkeys(of_data + of_limits))


@contextmanager
def _memory(stack: Stack) -> Iterator[None]:
    """A stack that does not fit into memory is a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch says so with a class of its own on a GPU, and in the text alone on a CPU.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        count = network(stack.point).parameter_count
        raise UserError(
            f"network.width {stack.point.network.width}: {len(stack.runs)} networks of {count} parameters do not fit "
            "into memory; take fewer seeds or smaller networks. Finished runs are kept"
        ) from None


def _task(stack: Stack) -> StackTask:
    point, data = stack.point, data_of(stack.point)
    check_loss(point)  # the config reader could not, where data are fetched
    steps, kept, probes = point.training.steps, point.probes.kernels, point.probes
    keep = kept_steps((step for step in kept if step != "last"), steps)
    outputs = kept_steps(probes.outputs, steps)
    return StackTask(
        network=network(point),
        seeds=stack.seeds,
        x=data.x,
        y=data.y,
        x_test=data.x_test,
        y_test=data.y_test,
        step_size=step_size(point),
        steps=steps,
        probed=probed_steps(probes, steps) | keep | outputs,
        keep_kernels=keep,
        keep_last_kernel="last" in kept,
        dtype=DTYPES[point.training.dtype],
        loss=point.training.loss,
        batch=None if point.training.batch == "full" else point.training.batch,
        momentum=point.training.momentum,
        limit=_limit(point)[0],
        detailed=detail_steps(probes, steps),
        keep_outputs=outputs,
        scale=output_scale(point),
    )


def _limit(point: Point) -> tuple[np.ndarray | None, str]:
    """The limit kernel of a grid point, or None and why it cannot be had."""
    try:
        return limit_kernel(point).numpy(), ""
    except UserError as error:
        return None, f"{error}; so distance_to_limit and the limit's flow are not measured"


def _rows(
    stack: Stack, result: StackResult, made_by: dict[str, Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[int, np.ndarray]]]:
    """A stack's result as rows of the tables, and its kernels by run."""
    ids, point = [run.run_id for run in stack.runs], stack.point
    departed = {run.position: run for run in result.departed}
    runs = pd.DataFrame(
        {
            "run_id": ids,
            "status": ["diverged" if k in departed else "done" for k in range(len(ids))],
            "reason": [departed[k].reason if k in departed else "" for k in range(len(ids))],
            "last_step": [departed[k].step if k in departed else stack.point.training.steps for k in range(len(ids))],
            "step_size": step_size(stack.point),
            "smooth": not activation(point.network.activation).kinks,
            "parameters": network(stack.point).parameter_count,
            "seconds": result.seconds / len(ids),
            "device": made_by["device"],
            "torch": made_by["versions"]["torch"],
            "ntkrun": ntkrun.__version__,
            "commit": made_by["commit"] or "",
            **{f"predicted_{name}": _known(formula, network(point)) for name, formula in PREDICTED.items()},
        }
    )
    kept = sorted(kept_steps(point.probes.outputs, point.training.steps))
    frames = {
        "runs": runs,
        "steps": of_runs(result.steps, ids),
        "layers": of_runs(result.layers, ids),
        "modes": completed(of_runs(result.modes, ids), "modes"),
        "outputs": with_limits(of_runs(result.outputs, ids), len(data_of(point).x), kept, limit_outputs(point, kept)),
    }
    return frames, {ids[position]: kernels for position, kernels in result.kernels.items()}


def _known(formula: Callable[[DenseNetwork], float], net: DenseNetwork) -> float:
    """What a formula of corrections.py says, nan where its conditions do not hold."""
    try:
        return formula(net)
    except UserError:
        return math.nan


def _description(sweep: Sweep, runs: Sequence[Run], made_by: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": dict(sweep.resolved),
        "config_hash": sweep.hash,
        "runs": len(runs),
        "notes": list(notes_on(runs)),
        "made_by": made_by,
    }


def work(stack: Stack) -> float:
    """The cost of a stack in multiplications, roughly: the share of the time that it will take.

    A step of one run passes its P parameters forward and back (6N), over the test inputs (2M) and through memory (about
    60 multiplications' worth each); eigenvalues take about 150(NO)³; whatever the stack, a step costs some 2e8.
    """
    net, data, steps = network(stack.point), data_of(stack.point), stack.point.training.steps
    outputs = len(data.x) * data.outputs
    a_run = net.parameter_count * (6 * len(data.x) + 2 * len(data.x_test) + 60) + 150 * outputs**3
    return (steps + 1) * (len(stack.runs) * a_run + 2e8)
