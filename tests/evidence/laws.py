"""Whole tables of a sweep made from known laws, for claims to be judged on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

WIDTHS = (64, 128, 256, 512)
DEPTH = 3
STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100)
EIGENVALUES = (1.0, 0.5, 0.1, 0.05)  # of K̂_0
CONFIG: dict[str, Any] = {
    "network.depth": DEPTH,
    "network.width": 64,
    "network.activation": "erf",
    "data.samples": 4,
    "training.loss": "squared",
    "training.batch": "full",
    "training.momentum": 0.0,
    "training.output_scale": "1.0",
    "training.step_size": "0.9",
    "training.steps": STEPS[-1],
    "training.dtype": "float64",
}
# What the theory says of each column: the exponent in the width.
EXPONENTS = {
    "kernel_drift": -1.0,
    "linear_gap": -1.0,
    "test_linear_gap": -1.0,
    "growth": -0.5,
    "distance_to_limit": -0.5,
    "off_diagonal": -0.5,
    "weight_drift": -0.8,
    "weight_drift.0": -0.5,
    "weight_drift.1": -1.0,
    "weight_drift.2": -0.5,
    "weight_drift_operator": -0.5,
    "activation_drift": -0.5,
    "subnetwork_kernel_drift": -0.6,
    "weight_operator": 0.0,
    "activation_norm": 0.0,
    "backprop_norm": 0.0,
}


@dataclass(frozen=True)
class Laws:
    """A world: exponents in the axis by column, the scatter over seeds, and whatever else tables hold."""

    axis: str = "network.width"
    values: tuple[float, ...] = WIDTHS
    seeds: int = 6
    scatter: float = 0.03
    exponents: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    smooth: bool = True
    step_size: float = 0.9
    last_loss: float = 1e-5  # over the first
    plateau: bool = False
    mode_speed: float = 1.0  # times the rate that the frozen kernel says
    mode_excess: float = 0.0  # √n times what comes on top of that
    kurtosis: float = -1.0  # exponents of the statistics of all seeds
    variance: float = -1.0
    outputs: int = 2
    coupling: float = 16.0  # of two outputs: n times the correlation of their squares
    coupling_exponent: float = -1.0
    bias: float = 1.0  # n/L times the relative error of the covariance
    learned: float = 1.0
    spread: float = 1.0
    aside: float = 0.0  # how far the mean is off at right angles to that of infinite width, in its deviations
    shared: float = 0.5  # of the ensemble's deviations on two inputs, over the predicted variance
    rising: int = 0  # of the slowest modes, which grow
    edge: float = 2.0
    missing: int = 0  # planned runs that are not there
    diverged: int = 0

    def but(self, **changes: Any) -> "Laws":
        return replace(self, **changes)


@dataclass(frozen=True)
class Sweep:
    plan: pd.DataFrame
    runs: pd.DataFrame
    steps: pd.DataFrame
    layers: pd.DataFrame
    modes: pd.DataFrame
    outputs: pd.DataFrame


def sweep(laws: Laws) -> Sweep:
    """The tables of that world."""
    draw = np.random.default_rng(0)
    plan = _plan(laws)
    runs = plan.assign(status="done", reason="", smooth=laws.smooth, seconds=1.0)
    runs["step_size"] = plan[laws.axis] if laws.axis == "training.step_size" else laws.step_size
    runs.loc[runs.index[: laws.diverged], "status"] = "diverged"
    runs = runs.iloc[: len(runs) - laws.missing]
    steps, layers, modes = [], [], []
    for run in runs[runs["seed"] < 30].to_dict("records"):  # more would take long, and tell no more
        noise = {name: np.exp(laws.scatter * draw.standard_normal()) for name in EXPONENTS}
        steps.append(_steps(laws, run, noise))
        layers.append(_layers(laws, run, draw))
        modes.append(_modes(laws, run))
    return Sweep(plan, runs, pd.concat(steps), pd.concat(layers), pd.concat(modes), _outputs(laws, runs, draw))


def _plan(laws: Laws) -> pd.DataFrame:
    rows = []
    for value in laws.values:
        for seed in range(laws.seeds):
            rows.append({**CONFIG, **laws.config, laws.axis: value, "seed": seed, "run_id": f"{value}-{seed}"})
    return pd.DataFrame(rows)


def _size(laws: Laws, name: str, at: Any) -> float:
    """What the law of a column says at a value of the axis; the output scale stands in a mapping as text."""
    number = float(at) if not isinstance(at, str) else float(at.split()[1].rstrip("}"))
    return float(number ** laws.exponents.get(name, EXPONENTS[name]))


def _steps(laws: Laws, run: dict[str, Any], noise: Mapping[str, float]) -> pd.DataFrame:
    step = np.array(STEPS)
    share, at, ratio = step / step[-1], run[laws.axis], laws.last_loss
    sharpness = run["step_size"] * EIGENVALUES[0]
    loss = np.maximum(np.exp(-step), ratio) if laws.plateau else ratio**share
    loss = 1.01**step if sharpness > laws.edge else loss
    columns: dict[str, Any] = {"loss": loss, "test_loss": loss, "lambda_max": EIGENVALUES[0]}
    columns["lambda_min"] = 0.0 if laws.plateau else EIGENVALUES[-1]
    for name in ("kernel_drift", "weight_drift", "linear_gap", "test_linear_gap", "growth"):
        columns[name] = _size(laws, name, at) * noise[name] * share
    columns["growth"] = 5 + columns["growth"]
    for name in ("distance_to_limit", "off_diagonal"):
        columns[name] = _size(laws, name, at) * noise[name] * (1 + share)
    eta = run["step_size"]
    columns["descent_residual"] = columns["test_descent_residual"] = eta ** laws.exponents.get("descent_residual", 1.0)
    columns["flow_gap"] = eta ** laws.exponents.get("flow_gap", 0.5) * noise["kernel_drift"]
    return pd.DataFrame({"run_id": run["run_id"], "step": step, "time": eta * step, **columns})


def _layers(laws: Laws, run: dict[str, Any], draw: np.random.Generator) -> pd.DataFrame:
    share, at, found = np.array(STEPS) / STEPS[-1], run[laws.axis], []
    for layer in range(DEPTH):
        columns: dict[str, Any] = {}
        for name in ("weight_drift", "weight_drift_operator", "activation_drift", "subnetwork_kernel_drift"):
            key = f"weight_drift.{layer}" if name == "weight_drift" else name
            columns[name] = _size(laws, key, at) * np.exp(laws.scatter * draw.standard_normal()) * share
        for name in ("weight_operator", "activation_norm", "backprop_norm"):
            columns[name] = 2 * _size(laws, name, at) * np.exp(0.01 * draw.standard_normal()) * (1 + share)
        found.append(pd.DataFrame({"run_id": run["run_id"], "step": STEPS, "layer": layer, **columns}))
    return pd.concat(found)


def _modes(laws: Laws, run: dict[str, Any]) -> pd.DataFrame:
    found, speed = [], laws.mode_speed
    if laws.mode_excess:
        speed += laws.mode_excess / run[laws.axis] ** 0.5
    for mode, eigenvalue in enumerate(EIGENVALUES):
        factor = abs(1 - run["step_size"] * eigenvalue) ** (-0.2 if mode >= len(EIGENVALUES) - laws.rising else speed)
        residual = factor ** np.array(STEPS)
        found.append(
            pd.DataFrame(
                {"run_id": run["run_id"], "step": STEPS, "mode": mode, "eigenvalue": eigenvalue, "residual": residual}
            )
        )
    return pd.concat(found)


def _outputs(laws: Laws, runs: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """Two inputs of each part, at steps 0 and the last. The outputs share a log-normal variance e^c: then corr(F_i²,
    F_j²) = (r-1)/(3r-1), r = e^{Var c}."""
    ids, found = runs["run_id"].to_numpy(), []
    at = runs["network.width"].to_numpy(float)
    for part in ("train", "test"):
        together = np.sqrt(laws.shared) * draw.standard_normal((laws.outputs, len(ids)))
        for point in range(2):
            v = 1 + laws.bias * DEPTH / at + np.sqrt(at**laws.kurtosis) * draw.standard_normal(len(ids))
            kernel = 3 + np.sqrt(at**laws.variance) * draw.standard_normal(len(ids))
            correlation = laws.coupling * 64 ** (-1 - laws.coupling_exponent) * at**laws.coupling_exponent
            correlation = np.minimum(correlation, 0.3)
            ratio = (1 - correlation) / (1 - 3 * correlation)
            common = np.sqrt(np.log(ratio)) * draw.standard_normal(len(ids))
            for output in range(laws.outputs):
                start = draw.standard_normal(len(ids)) * np.sqrt(np.exp(common))
                off = together[output] + np.sqrt(1 - laws.shared) * draw.standard_normal(len(ids))
                aside = laws.aside * (1 - 2 * point)
                end = laws.learned + np.sqrt(laws.spread * 0.1) * (off + aside)
                same = {"part": part, "input": point, "output": output, "variance": v, "kernel": kernel}
                limit = {"limit_kernel": 3.0, "limit_variance": 1.0, "limit_covariance": 1.0, "limit_mean": 0.0}
                first = {"run_id": ids, "step": 0, "value": start, "covariance": v, **same, **limit}
                after = {
                    **limit,
                    "limit_variance": 0.1,
                    "limit_mean": 1.0,
                    "limit_covariance": 0.05 + 0.05 * (not point),
                }
                last = {"run_id": ids, "step": STEPS[-1], "value": end, "covariance": np.nan, **same, **after}
                found += [pd.DataFrame(first), pd.DataFrame(last)]
    return pd.concat(found)
