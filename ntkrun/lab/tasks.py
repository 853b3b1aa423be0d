"""A grid point as a task of the engine, and what the task leaves as rows of the tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

import ntkrun
from ntkrun.engine.stack import StackResult, StackTask
from ntkrun.errors import TooLarge, UserError
from ntkrun.lab.limits import check_limits, limit_outputs
from ntkrun.lab.plan import Run, Stack, detail_steps, kept_steps, probed_steps
from ntkrun.lab.points import data_of, limit_kernel, network, output_scale, step_size
from ntkrun.lab.sections import Point
from ntkrun.lab.tables import completed, of_runs, with_limits
from ntkrun.theory import corrections
from ntkrun.theory.activations import activation

PREDICTED = {
    "kernel_variance": corrections.kernel_variance,
    "kurtosis": corrections.output_kurtosis,
    "square_correlation": corrections.output_square_correlation,
}
T = TypeVar("T")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def task_of(point: Point, seeds: tuple[int, ...] = ()) -> StackTask:
    """What the engine is to do for a stack of these seeds of a grid point."""
    data = data_of(point)
    point.check_targets(data)
    check_limits(point)
    steps, kept, probes = point.training.steps, point.probes.kernels, point.probes
    keep = kept_steps((step for step in kept if step != "last"), steps)
    outputs = kept_steps(probes.outputs, steps)
    return StackTask(
        network=network(point),
        seeds=seeds,
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


def notes_on(runs: Sequence[Run]) -> tuple[str, ...]:
    """What a person should read before the numbers: what the data sets report of themselves, such as repeated inputs,
    and limit kernels that cannot be had."""
    points = list(dict.fromkeys(run.point for run in runs))
    of_data = [note for point in points for note in data_of(point).notes]
    of_limits = [note for point in points if (note := _limit(point)[1])]
    return tuple(dict.fromkeys(of_data + of_limits))


def rows_of(
    stack: Stack, result: StackResult, threads: int, made_by: dict[str, Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[int, np.ndarray]]]:
    """A stack's result, computed with so many threads, as rows of the tables, and its kernels by run."""
    ids, point = [run.run_id for run in stack.runs], stack.point
    departed = {run.position: run for run in result.departed}
    ended = {
        "status": ["diverged" if k in departed else "done" for k in range(len(ids))],
        "reason": [departed[k].reason if k in departed else "" for k in range(len(ids))],
        "last_step": [departed[k].step if k in departed else point.training.steps for k in range(len(ids))],
        "step_size": step_size(point),
        "seconds": result.seconds / len(ids),
        "threads": threads,
    }
    kept = sorted(kept_steps(point.probes.outputs, point.training.steps))
    frames = {
        "runs": _runs(stack, ended, made_by),
        "steps": of_runs(result.steps, ids),
        "layers": of_runs(result.layers, ids),
        "modes": completed(of_runs(result.modes, ids), "modes"),
        "outputs": with_limits(of_runs(result.outputs, ids), len(data_of(point).x), kept, limit_outputs(point, kept)),
    }
    return frames, {ids[position]: kernels for position, kernels in result.kernels.items()}


def rows_of_failed(stack: Stack, reason: str, last_step: int, made_by: dict[str, Any]) -> pd.DataFrame:
    """The rows of `runs` of a stack that failed, which is all there is of it."""
    eta = _known(step_size, stack.point)
    ended = {
        "status": "failed",
        "reason": reason,
        "last_step": last_step,
        "step_size": eta,
        "seconds": 0.0,
        "threads": 0,
    }
    return _runs(stack, ended, made_by)


def _runs(stack: Stack, ended: dict[str, Any], made_by: dict[str, Any]) -> pd.DataFrame:
    """A row a run: how it ended, and what is known of it before it starts."""
    net = network(stack.point)
    return pd.DataFrame(
        {
            "run_id": [run.run_id for run in stack.runs],
            **ended,
            "smooth": not activation(stack.point.network.activation).kinks,
            "parameters": net.parameter_count,
            "device": made_by["device"],
            "torch": made_by["versions"]["torch"],
            "ntkrun": ntkrun.__version__,
            "commit": made_by["commit"] or "",
            **{f"predicted_{name}": _known(formula, net) for name, formula in PREDICTED.items()},
        }
    )


def _limit(point: Point) -> tuple[np.ndarray | None, str]:
    """The limit kernel of a grid point, or None and why it cannot be had. Raises TooLarge."""
    try:
        return limit_kernel(point).numpy(), ""
    except TooLarge:
        raise
    except UserError as error:
        return None, f"{error}; so distance_to_limit and the limit's flow are not measured"


def _known(formula: Callable[[T], float], of: T) -> float:
    """What a formula says, nan where its conditions do not hold."""
    try:
        return formula(of)
    except UserError:
        return math.nan
