"""Convert the result of a stack into rows of the tables."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd

import ntkrun
from ntkrun.engine.network import Network
from ntkrun.engine.stack import StackResult
from ntkrun.errors import UserError
from ntkrun.plan.limits import network
from ntkrun.plan.problem import Inputs, limit_outputs, step_size
from ntkrun.plan.runs import Stack
from ntkrun.store.tables import completed, empty
from ntkrun.theory import corrections
from ntkrun.theory.activations import activation
from ntkrun.theory.architecture import SizedArchitecture

PREDICTED = {
    "kernel_variance": corrections.kernel_variance,
    "deep_kernel_variance": corrections.deep_kernel_variance,
}
OF_INPUTS = {"kurtosis": corrections.output_kurtosis, "square_correlation": corrections.output_square_correlation}
SAME_NORM = 1e-6  # relative: inputs that were scaled to one norm differ by rounding
T = TypeVar("T")


def rows_of(
    stack: Stack, inputs: Inputs, result: StackResult, threads: int, made_by: dict[str, Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[int, np.ndarray]]]:
    """Return a stack's result, computed from `inputs` with `threads` threads, as rows of the tables, and its kernels by
    run."""
    ids, task = [run.run_id for run in stack.runs], inputs.task
    diverged = {run.position: run for run in result.diverged}
    ended = {
        "status": ["diverged" if k in diverged else "done" for k in range(len(ids))],
        "reason": [diverged[k].reason if k in diverged else "" for k in range(len(ids))],
        "last_step": [diverged[k].step if k in diverged else task.steps for k in range(len(ids))],
        "step_size": task.step_size,
        "seconds": result.seconds / len(ids),
        "threads": threads,
    }
    output_steps = sorted(task.keep_outputs)
    frames = {
        "runs": _runs(stack, task.network, ended, made_by, inputs),
        "steps": of_runs(result.steps, ids),
        "layers": with_names(of_runs(result.layers, ids), task.network),
        "modes": of_runs(result.modes, ids),
        "outputs": with_limits(
            of_runs(result.outputs, ids), len(task.x), output_steps, limit_outputs(inputs, output_steps)
        ),
    }
    frames = {table: completed(frame, table) if len(frame) else empty(table) for table, frame in frames.items()}
    return frames, {ids[position]: kernels for position, kernels in result.kernels.items()}


def rows_of_failed(stack: Stack, reason: str, last_step: int, made_by: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of `runs` for a stack that failed. It has no rows in other tables."""
    eta = _value_or_nan(step_size, stack.point)
    ended = {
        "status": "failed",
        "reason": reason,
        "last_step": last_step,
        "step_size": eta,
        "seconds": 0.0,
        "threads": 0,
    }
    return _runs(stack, network(stack.point), ended, made_by)


def _runs(
    stack: Stack, net: Network, ended: dict[str, Any], made_by: dict[str, Any], inputs: Inputs | None = None
) -> pd.DataFrame:
    """Return one row per run: how it ended, and the facts that do not depend on training; those that depend on the
    `inputs` are nan without them."""
    sigma = activation(stack.point.network.activation)
    return pd.DataFrame(
        {
            "run_id": [run.run_id for run in stack.runs],
            **ended,
            "smooth": not sigma.kinks,
            "smoothness": sigma.smoothness,
            "lipschitz": sigma.lipschitz,
            "limit_lambda_min": math.nan if inputs is None else inputs.limit_lambda_min,
            "parameters": net.parameter_count,
            "device": made_by["device"],
            "torch": made_by["versions"]["torch"],
            "ntkrun": ntkrun.__version__,
            "commit": made_by["commit"] or "",
            **_predictions(net, inputs),
        }
    )


def _predictions(net: Network, inputs: Inputs | None) -> dict[str, float]:
    """Return the finite-width formulas for layered networks; nan for others, and where their conditions do not hold.
    With biases those of the outputs depend on ‖x‖, and are nan where training and test inputs differ in it."""
    names = [f"predicted_{name}" for name in (*PREDICTED, *OF_INPUTS)]
    if not isinstance(net, SizedArchitecture):
        return dict.fromkeys(names, math.nan)
    points = np.zeros((0, 1)) if inputs is None else np.concatenate([inputs.task.x, inputs.task.x_test])
    squares = np.square(points).mean(axis=1)
    same = len(squares) > 0 and bool(np.ptp(squares) <= SAME_NORM * squares.max())
    variance = net.weight_scale**2 * float(squares.mean()) + net.beta**2 if same else None
    values = [_value_or_nan(formula, net) for formula in PREDICTED.values()]
    values += [_value_or_nan(partial(formula, variance=variance), net) for formula in OF_INPUTS.values()]
    return dict(zip(names, values, strict=True))


def _value_or_nan(formula: Callable[[T], float], argument: T) -> float:
    """Return the value of a formula, nan where its conditions do not hold."""
    try:
        return formula(argument)
    except UserError:
        return math.nan


# ---------------------------------------------------------------- tables


def of_runs(columns: dict[str, list[float]], ids: Sequence[str]) -> pd.DataFrame:
    """Return columns as a table with run ids instead of positions in the stack, sorted by run and then by step."""
    frame = pd.DataFrame(columns if columns else {"position": [], "step": []})
    frame = frame.sort_values("position", kind="stable", ignore_index=True)
    frame.insert(0, "run_id", np.array(ids, dtype=object)[frame["position"].to_numpy(dtype=int)])
    return frame.drop(columns="position")


def with_names(layers: pd.DataFrame, net: Network) -> pd.DataFrame:
    """Return the layers table with the names that the network has for its layers."""
    if layers.empty:
        return layers
    names = np.array([layer.name for layer in net.layers], dtype=object)
    return layers.assign(name=names[layers["layer"].to_numpy(dtype=int)])


def with_limits(
    outputs: pd.DataFrame, inputs: int, output_steps: Sequence[int], limits: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Return the outputs table of a stack with the predictions of infinite width.

    `limits` holds each predicted column as (T, A, O) at the `output_steps`, in their order. The column `point` numbers
    the `inputs` training inputs first and then the test inputs.
    """
    if outputs.empty:
        return outputs
    point, output = outputs["point"].to_numpy(dtype=int), outputs["output"].to_numpy(dtype=int)
    step_index = np.searchsorted(np.array(output_steps), outputs["step"].to_numpy(dtype=int))
    predictions = {name: values[step_index, point, output] for name, values in limits.items()}
    train = point < inputs
    positions = {"part": np.where(train, "train", "test"), "input": np.where(train, point, point - inputs)}
    return outputs.drop(columns=["point", "time"]).assign(**positions, **predictions)
