"""Whole tables of a sweep made from known laws, for claims to be judged on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

WIDTHS = (64, 128, 256, 512)
DEPTH = 3
STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100)
EIGENVALUES = (1.0, 0.5, 0.1, 0.05)  # of K̂_0
KERNEL = 3.0  # K_inf(x, x)
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
    "training.dtype": "float64",
}


class Level(NamedTuple):
    """A number: value + correction/n + scatter·n^power·N(0, 1), n the width or the output scale."""

    value: float
    correction: float = 0.0
    scatter: float = 0.0
    power: float = -0.5


# What the theory says of each column: the exponent in the width of what grows from 0 during training, and of what is
# there from the start; in the step size η of what a step gives; and levels.
GROWING = {
    "steps": {
        "kernel_drift": -1.0,
        "weight_drift": -0.8,
        "weight_distance": 0.0,
        "linear_gap": -1.0,
        "test_linear_gap": -1.0,
        "growth": -0.5,
    },
    "layers": {
        "weight_drift.0": -0.5,
        "weight_drift.1": -1.0,
        "weight_drift.2": -0.5,
        "weight_distance": 0.0,
        "weight_drift_operator": -0.5,
        "activation_drift": -0.5,
        "subnetwork_kernel_drift": -0.6,
    },
}
PRESENT = {
    "steps": {"distance_to_limit": -0.5, "off_diagonal": -0.5},
    "layers": {
        "weight_operator": 0.0,
        "activation_norm": 0.0,
        "preactivation_norm": 0.0,
        "backprop_norm": 0.0,
        "subnetwork_kernel_norm": 0.0,
        "weight_speed": -0.5,
        "covariance_distance": -0.5,
        "subnetwork_off_diagonal": -0.5,
    },
}
IN_ETA = {
    "steps": {
        "descent_residual": 1.0,
        "test_descent_residual": 1.0,
        "loss_descent_residual": 1.0,
        "flow_gap": 0.5,
        "flow_weight_gap": 0.5,
    },
    "layers": {"descent_residual": 1.0},
}
LEVELS = {
    "steps": {
        "limit_projection": Level(1.0, 2.0, 3**0.5),
        "kernel_error": Level(1e-7),
        "last_layer_error": Level(1e-7),
        "clipped_share": Level(0.6),
        "drift_ratio": Level(1.0, 0.5, 0.1),
        "noise_ratio": Level(1.0, 0.0, 0.5, 0.0),  # of about ten modes that batches move
    },
    "layers": {
        "weight_operator_ratio": Level(1.0, 0.0, 0.4, -2 / 3),  # of the law of Tracy and Widom
        "covariance_projection": Level(1.0, 1.0, 3**0.5),
        "kernel_projection": Level(1.0, 1.0, 3**0.5),
        "carried_projection": Level(1.0, 1.0, 3**0.5),
        "neuron_mean": Level(0.0, 0.0, 0.8, 0.0),
        "neuron_second": Level(1.0, 0.0, 1.0),
        "neuron_fourth": Level(1.0, 0.0, 2.0),
        "neuron_coupling": Level(0.0, 0.0, 0.8, 0.0),
    },
}


@dataclass(frozen=True)
class Laws:
    """A world: exponents by column, factors of the levels, the scatter over seeds, and whatever else tables hold."""

    axis: str = "network.width"
    values: tuple[Any, ...] = WIDTHS
    depths: tuple[int, ...] = ()  # at each value, where they differ
    seeds: int = 6
    steps: tuple[int, ...] = STEPS
    scatter: float = 0.03
    exponents: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)  # in place of those above; of what has an exponent, times
    config: Mapping[str, Any] = field(default_factory=dict)
    smoothness: str = "smooth"
    lipschitz: bool = True
    step_size: float = 0.9
    last_loss: float = 1e-5  # over the first
    plateau: bool = False
    eigenvalues: tuple[float, ...] = EIGENVALUES
    limit_eigenvalue: float = EIGENVALUES[-1]  # λ_min of K_inf/N
    mode_speed: float = 1.0  # times the rate that the frozen kernel says
    mode_excess: float = 0.0  # √n times what comes on top of that
    one_rate: bool = False  # for all modes
    rate: float = 1.0  # of the residual, times that of its modes
    rising: int = 0  # of the slowest modes, which grow
    edge: float = 2.0
    flattened: float = 1.9  # ηλ_max at the end of runs beyond the edge
    fluctuation: float = 10.0  # n Var(v)/E[v]² of the conditional variance: relu of depth 3
    kurtosis: float = -1.0  # its exponent
    kernel_fluctuation: float = 10 - 32 / 9  # n Var(K)/K_inf²: likewise
    variance: float = -1.0  # its exponent
    bias: float = 0.0  # n/L times the relative error of the covariance
    outputs: int = 2
    mean: float = 0.0  # of F in its deviations
    factor: float = 1.0  # of the variance of F given the hidden layers
    shared: float = 0.0  # correlation of two outputs given the hidden layers
    limit: tuple[float, float] = (1.0, 0.5)  # Σ^(L)(x, x) and the correlation of two inputs, by the theory
    given: float = 0.5  # that correlation by the networks
    repeated: bool = False  # odd seeds are those before them
    same_widths: bool = False  # networks of all widths have the same numbers
    follows: str = "limit"  # the law of trained networks: limit or nngp
    learned: float = 1.0
    spread: float = 1.0
    aside: float = 0.0  # how far the mean is off at right angles to that of infinite width, in its deviations
    together: float = 0.5  # correlation of trained networks on two inputs
    missing: int = 0  # planned runs that are not there
    diverged: int = 0

    def but(self, **changes: Any) -> "Laws":
        """Return the world with changes; those of exponents, levels and config are added."""
        merged = {name: {**getattr(self, name), **changes[name]} for name in changes if name in MAPPINGS}
        return replace(self, **changes | merged)


MAPPINGS = ("exponents", "levels", "config")


@dataclass(frozen=True)
class Sweep:
    plan: pd.DataFrame
    runs: pd.DataFrame
    steps: pd.DataFrame
    layers: pd.DataFrame
    modes: pd.DataFrame
    outputs: pd.DataFrame


def sweep(laws: Laws, seed: int = 0) -> Sweep:
    """Return the tables of that world, drawn with a seed."""
    draw = np.random.default_rng(seed)
    plan = _plan(laws)
    runs = _runs(laws, plan)
    return Sweep(
        plan, runs, _steps(laws, runs, draw), _layers(laws, runs, draw), _modes(laws, runs), _outputs(laws, runs, draw)
    )


def ending_together(laws: Laws, seed: int = 0) -> Sweep:
    """Return the tables of a world whose runs end at the same time: a sweep over step sizes takes fewer steps of larger
    ones, and the tables only have to say so."""
    tables = sweep(laws, seed)
    if laws.axis != "training.step_size":
        return tables
    steps = (laws.steps[-1] / tables.runs["step_size"]).round()
    return replace(tables, runs=tables.runs.assign(**{"training.steps": steps}))


def _plan(laws: Laws) -> pd.DataFrame:
    rows = []
    for k, value in enumerate(laws.values):
        depth = {"network.depth": laws.depths[k]} if laws.depths else {}
        shared = {**CONFIG, "training.steps": laws.steps[-1], **laws.config, **depth, laws.axis: value}
        rows += [{**shared, "seed": seed, "run_id": f"{value}-{seed}"} for seed in range(laws.seeds)]
    return pd.DataFrame(rows)


def _runs(laws: Laws, plan: pd.DataFrame) -> pd.DataFrame:
    runs = plan.assign(status="done", reason="", seconds=1.0, smooth=laws.smoothness != "kinked")
    runs["smoothness"], runs["lipschitz"] = laws.smoothness, laws.lipschitz
    runs["step_size"] = plan[laws.axis] if laws.axis == "training.step_size" else laws.step_size
    runs["limit_lambda_min"] = laws.limit_eigenvalue
    n, depth = runs["network.width"].astype(float), runs["network.depth"].astype(float)
    runs["predicted_kurtosis"] = 3 * Laws.fluctuation / n
    r = 1 + laws.fluctuation / n
    runs["predicted_square_correlation"] = (r - 1) / (3 * r - 1)
    runs["predicted_kernel_variance"] = (5 * (depth - 1) - 4 * (depth**2 - 1) / (3 * depth)) / n
    runs["predicted_deep_kernel_variance"] = Laws.kernel_fluctuation / 64
    runs.loc[runs.index[: laws.diverged], "status"] = "diverged"
    return runs.iloc[: len(runs) - laws.missing]


def _steps(laws: Laws, runs: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    columns = _columns(laws, runs, "steps", "", draw)
    share, eta = np.array(laws.steps) / max(laws.steps[-1], 1), runs["step_size"].to_numpy(float)[:, None]
    sharp = np.where(eta * laws.eigenvalues[0] > laws.edge, laws.flattened / eta, laws.eigenvalues[0])
    columns["lambda_max"] = laws.eigenvalues[0] * (1 - share) + sharp * share
    columns["lambda_min"] = np.full_like(columns["lambda_max"], 1e-17 if laws.plateau else laws.eigenvalues[-1])
    columns["loss"] = _loss(laws, eta)
    columns["growth"] = 5 + columns["growth"]
    columns["linear_weight_drift"] = columns["weight_drift"] / columns["drift_ratio"]
    columns["predicted_flow_rms_gap"] = columns["flow_gap"] / 3
    columns["flow_rms_gap"] = columns["predicted_flow_rms_gap"] * np.sqrt(np.maximum(columns["noise_ratio"], 0.01))
    residuals = np.stack([np.exp(-eta * value * np.array(laws.steps)) for value in laws.eigenvalues]) ** 2
    columns["residual_rate"] = laws.rate * np.tensordot(laws.eigenvalues, residuals, 1) / residuals.sum(axis=0)
    columns["time"] = eta * np.array(laws.steps)
    return _frame(runs, laws.steps, columns)


def _loss(laws: Laws, eta: np.ndarray) -> np.ndarray:
    """Return the loss of each run at each step: it falls, or, beyond the edge, first rises."""
    step = np.array(laws.steps)
    share = step / max(step[-1], 1)
    falls = np.maximum(np.exp(-step), laws.last_loss) if laws.plateau else laws.last_loss**share
    rises = 1 + 5 * share - 5.5 * share**2
    return np.where(eta * laws.eigenvalues[0] > laws.edge, rises, falls)


def _layers(laws: Laws, runs: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    found = []
    for layer in range(int(runs["network.depth"].max())):
        columns = _columns(laws, runs, "layers", f".{layer}", draw)
        found.append(_frame(runs, laws.steps, columns).assign(layer=layer))
    return pd.concat(found)


def _columns(
    laws: Laws, runs: pd.DataFrame, table: str, layer: str, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the columns of a table, each (runs, steps)."""
    columns, share = {}, np.array(laws.steps) / max(laws.steps[-1], 1)
    eta, n = runs["step_size"].to_numpy(float), runs["network.width"].to_numpy(float)
    at = np.array([_number(value) for value in runs[laws.axis]]) if "step" not in laws.axis else n
    powers = [
        (GROWING, at, share, laws.scatter),
        (PRESENT, at, 1 + 0.1 * share, laws.scatter / 3),
        (IN_ETA, eta, np.ones_like(share), laws.scatter),
    ]
    for family, x, profile, scatter in powers:
        for name in dict.fromkeys(name.split(".")[0] for name in family[table]):
            exponent = _of(laws.exponents, name, layer, _of(family[table], name, layer, 0.0))
            size = _of(laws.levels, name, layer, 1.0) * x**exponent
            noise = np.exp(scatter * draw.standard_normal(len(runs)))
            columns[name] = (size * noise)[:, None] * profile
    for name, level in LEVELS[table].items():
        value = _of(laws.levels, name, layer, level.value) + level.correction / at
        value = value + level.scatter * at**level.power * draw.standard_normal(len(runs))
        columns[name] = np.repeat(value[:, None], len(share), axis=1)
    return columns


def _of(numbers: Mapping[str, float], name: str, layer: str, default: float) -> float:
    """Return the number of a layer's column, or of the column in all layers."""
    return numbers.get(name + layer, numbers.get(name, default))


def _number(value: Any) -> float:
    """Return a value of the axis; the output scale stands in a mapping as text."""
    return float(value.split()[1].rstrip("}")) if isinstance(value, str) else float(value)


def _frame(runs: pd.DataFrame, steps: tuple[int, ...], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    shape = len(runs), len(steps)
    ids, step = np.repeat(runs["run_id"].to_numpy(), len(steps)), np.tile(steps, len(runs))
    return pd.DataFrame(
        {"run_id": ids, "step": step} | {name: np.broadcast_to(c, shape).ravel() for name, c in columns.items()}
    )


def _modes(laws: Laws, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the modes of the first 30 seeds: more would take long, and tell no more."""
    runs, found = runs[runs["seed"] < 30], []
    eta, n = runs["step_size"].to_numpy(float)[:, None], runs["network.width"].to_numpy(float)[:, None]
    for mode, eigenvalue in enumerate(laws.eigenvalues):
        speed = np.broadcast_to(laws.mode_speed + laws.mode_excess / np.sqrt(n), n.shape)
        speed = np.full_like(n, -0.2) if mode >= len(laws.eigenvalues) - laws.rising else speed
        factor = np.abs(1 - eta * (laws.eigenvalues[-1] if laws.one_rate else eigenvalue)) ** speed
        columns = {"residual": factor ** np.array(laws.steps)}
        found.append(_frame(runs, laws.steps, columns).assign(mode=mode, eigenvalue=eigenvalue))
    return pd.concat(found)


def _outputs(laws: Laws, runs: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """Return the outputs of two inputs of each part, at the start and at the last step.

    At the start they are normal with the covariance V (1, ρ; ρ, 1), V log-normal and the same for all outputs. At the
    end they have the mean and the covariance that `follows` says.
    """
    n, shape = runs["network.width"].to_numpy(float), (len(runs), 2, 2, laws.outputs)  # runs, parts, inputs, outputs
    relative = laws.fluctuation * 64.0 ** (-1 - laws.kurtosis) * n**laws.kurtosis
    width = np.sqrt(np.log1p(relative))
    v = (1 + laws.bias * DEPTH / n) * np.exp(width * _shared(laws, runs, draw) - width**2 / 2)
    deviation = np.sqrt(laws.kernel_fluctuation * 64.0 ** (-1 - laws.variance) * n**laws.variance)
    kernel = KERNEL * (1 + deviation[:, None, None] * draw.standard_normal((len(runs), 2, 2)))
    own = _shared(laws, runs, draw, shape[1:])
    own = np.sqrt(1 - laws.shared) * own + np.sqrt(laws.shared) * draw.standard_normal((*shape[:3], 1))
    z = laws.mean + np.sqrt(laws.factor) * _pair(own, laws.given)
    variance, correlation = laws.limit
    both = np.array([1.0, laws.given])
    start = {
        "step": 0,
        "value": np.sqrt(v)[:, None, None, None] * z,
        "variance": v[:, None, None, None],
        "covariance": v[:, None, None, None] * both[:, None],
        "kernel": kernel[..., None],
        "limit_kernel": KERNEL,
        "limit_mean": 0.0,
        "limit_variance": variance,
        "limit_covariance": variance * np.array([1.0, correlation])[:, None],
    }
    tables = [_output_frame(runs, shape, start)]
    if laws.steps[-1]:
        tables.append(_output_frame(runs, shape, _end(laws, draw, shape)))
    return pd.concat(tables)


ENDS = {"limit": (1.0, 0.1, 0.5), "nngp": (0.7, 0.2, 0.8)}  # mean, variance, correlation of trained networks


def _end(laws: Laws, draw: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    mean, variance, correlation = ENDS[laws.follows]
    correlation = laws.together if laws.follows == "limit" else correlation
    off = np.sqrt(laws.spread * variance) * _pair(draw.standard_normal(shape), correlation)
    aside = laws.aside * np.sqrt(variance) * np.array([1.0, -1.0])[:, None]
    columns = {"step": laws.steps[-1], "value": laws.learned * mean + off + aside, "kernel": KERNEL}
    for law, (m, s, c) in ENDS.items():
        columns |= {f"{law}_mean": m, f"{law}_variance": s, f"{law}_covariance": s * np.array([1.0, c])[:, None]}
    return columns


def _pair(z: np.ndarray, correlation: float) -> np.ndarray:
    """Return normal numbers of two inputs with that correlation, from independent ones."""
    return np.stack([z[:, :, 0], correlation * z[:, :, 0] + np.sqrt(1 - correlation**2) * z[:, :, 1]], axis=2)


def _shared(laws: Laws, runs: pd.DataFrame, draw: np.random.Generator, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Return a normal number (or an array of them) of each run, those of others where seeds or widths share them."""
    numbers = draw.standard_normal((len(laws.values), laws.seeds, *shape))
    numbers = np.repeat(numbers[:, ::2], 2, axis=1)[:, : laws.seeds] if laws.repeated else numbers
    numbers = np.repeat(numbers[:1], len(laws.values), axis=0) if laws.same_widths else numbers
    return numbers.reshape(-1, *shape)[: len(runs)]


def _output_frame(runs: pd.DataFrame, shape: tuple[int, ...], columns: Mapping[str, Any]) -> pd.DataFrame:
    part, point, output = (np.broadcast_to(k, shape[1:]) for k in np.indices(shape[1:], sparse=True))
    keys = {
        "run_id": np.repeat(runs["run_id"].to_numpy(), np.prod(shape[1:])),
        "part": np.tile(np.where(part.ravel(), "test", "train"), len(runs)),
        "input": np.tile(point.ravel(), len(runs)),
        "output": np.tile(output.ravel(), len(runs)),
    }
    return pd.DataFrame(keys | {name: np.broadcast_to(c, shape).ravel() for name, c in columns.items()})
