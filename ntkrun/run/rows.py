"""The result of a stack as rows of the tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

import ntkrun
from ntkrun.engine.stack import StackResult
from ntkrun.errors import UserError
from ntkrun.plan.problem import data_of, limit_outputs, network, step_size
from ntkrun.plan.runs import Stack, kept_steps
from ntkrun.store.tables import completed
from ntkrun.theory import corrections
from ntkrun.theory.activations import activation

PREDICTED = {
    "kernel_variance": corrections.kernel_variance,
    "kurtosis": corrections.output_kurtosis,
    "square_correlation": corrections.output_square_correlation,
}
T = TypeVar("T")


def rows_of(
    stack: Stack, result: StackResult, threads: int, made_by: dict[str, Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[int, np.ndarray]]]:
    """A stack's result, computed with so many threads, as rows of the tables, and its kernels by run."""
    ids, point = [run.run_id for run in stack.runs], stack.point
    diverged = {run.position: run for run in result.diverged}
    ended = {
        "status": ["diverged" if k in diverged else "done" for k in range(len(ids))],
        "reason": [diverged[k].reason if k in diverged else "" for k in range(len(ids))],
        "last_step": [diverged[k].step if k in diverged else point.training.steps for k in range(len(ids))],
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


def _known(formula: Callable[[T], float], of: T) -> float:
    """What a formula says, nan where its conditions do not hold."""
    try:
        return formula(of)
    except UserError:
        return math.nan


# ---------------------------------------------------------------- tables


def of_runs(columns: dict[str, list[float]], ids: Sequence[str]) -> pd.DataFrame:
    """Positions in the stack to run ids, runs one after the other, each in the order of its steps."""
    frame = pd.DataFrame(columns if columns else {"position": [], "step": []})
    frame = frame.sort_values("position", kind="stable", ignore_index=True)
    frame.insert(0, "run_id", np.array(ids, dtype=object)[frame["position"].to_numpy(dtype=int)])
    return frame.drop(columns="position")


def with_limits(outputs: pd.DataFrame, inputs: int, kept: Sequence[int], limits: dict[str, np.ndarray]) -> pd.DataFrame:
    """The outputs table of a stack with what infinite width says, by column (T, A, O) at the `kept` steps, in their
    order; `point` numbers training inputs, `inputs` of them, and then test inputs."""
    if not len(outputs):
        return completed(pd.DataFrame(), "outputs")
    point, output = outputs["point"].to_numpy(dtype=int), outputs["output"].to_numpy(dtype=int)
    at = np.searchsorted(np.array(kept), outputs["step"].to_numpy(dtype=int))
    found = {name: values[at, point, output] for name, values in limits.items()}
    train = point < inputs
    places = {"part": np.where(train, "train", "test"), "input": np.where(train, point, point - inputs)}
    return completed(outputs.drop(columns=["point", "time"]).assign(**places, **found), "outputs")
