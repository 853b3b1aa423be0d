"""The statistics of trained networks support the theory and refute its nearest alternatives, at the size of a sweep.

The networks are exact draws from the Gaussian process of infinite width, so nothing here depends on how well networks
of finite width follow it: 2000 networks, five training inputs, sixteen test inputs on the unit circle, six of which lie
in a gap of 152° without a training input, and two times, one while the slow modes are still being learned.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from ntkrun.config.reader import parse_config
from ntkrun.config.schema import Point
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.estimates.intervals import level
from ntkrun.evidence.estimates.levels import Ensemble
from ntkrun.plan.limits import layered_network
from ntkrun.plan.problem import data_of, step_size
from ntkrun.theory.dynamics import EPSILON
from ntkrun.theory.ensemble import Ensemble as Law
from ntkrun.theory.ensemble import ensemble, posterior
from ntkrun.theory.limit import limit_kernels
from ntkrun.theory.rules import Descent
from tests.evidence.cases import case_of

TEXT = """\
name: power
network: {depth: 3, width: 256, activation: erf, beta: 0.1}
data:
  {name: gaussian, dimension: 2, samples: 5, test_samples: 16, test_circle: 1.0, seed: 1, targets: random_signs,
   target_scale: 0.25}
training: {step_size: {relative: 1.0}, steps: 200}
"""
STEPS = (16, 200)
SEEDS = 2000
# The statistics have standard errors 0.010, 0.0005, 0.02 and 0.02, and a t interval of one of eight parts reaches 2.7
# of them to each side. The rest of the claim's margins is room for the deviation of networks of width 256.
MARGINS = {part.statistic: part.expected for part in CLAIMS["limit-ensemble"].parts if isinstance(part, Ensemble)}
Moments = tuple[np.ndarray, np.ndarray]  # mean (M,) and covariance (M, M) on the test inputs


def _point(*overrides: str) -> Point:
    return parse_config(TEXT, overrides=overrides).points[0][0]


def _kernels(point: Point) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    data = data_of(point)
    nngp, ntk = limit_kernels(layered_network(point), np.concatenate([data.x, data.x_test]))
    return nngp, ntk, torch.tensor(data.y)


def _trained(step: float, *overrides: str) -> Moments:
    """The law after a step of the right step size, with another network if told so."""
    nngp, ntk, y = _kernels(_point(*overrides))
    eta = step_size(_point())
    if math.isinf(step):
        law: Law = ensemble(nngp, ntk, y, [math.inf])
    else:
        law = ensemble(nngp, ntk, y, [step * eta], Descent(eta), 1e-9 if "tanh" in str(overrides) else EPSILON)
    return law.mean[0, len(y) :, 0].numpy(), law.covariance[0, len(y) :, len(y) :].numpy()


def _posterior(step: float) -> Moments:
    nngp, _, y = _kernels(_point())
    mean, covariance = posterior(nngp, y)
    return mean[len(y) :, 0].numpy(), covariance[len(y) :, len(y) :].numpy()


def _scaled(factor: float) -> Callable[[float], Moments]:
    def law(step: float) -> Moments:
        mean, covariance = _trained(step)
        return mean, factor * covariance

    return law


def _less_correlated(step: float) -> Moments:
    """The same variances, and three quarters of each covariance."""
    mean, covariance = _trained(step)
    return mean, 0.75 * covariance + 0.25 * np.diag(covariance.diagonal())


ALTERNATIVES: dict[str, Callable[[float], Moments]] = {
    "half the time": lambda step: _trained(step // 2),
    "twice the time": lambda step: _trained(2 * step),
    "infinite time": lambda step: _trained(math.inf),
    "depth 2": lambda step: _trained(step, "network.depth=2"),
    "depth 4": lambda step: _trained(step, "network.depth=4"),
    "half the beta": lambda step: _trained(step, "network.beta=0.05"),
    "twice the beta": lambda step: _trained(step, "network.beta=0.2"),
    "tanh": lambda step: _trained(step, "network.activation=tanh"),
    "covariance x 1.2": _scaled(1.2),
    "covariance / 1.2": _scaled(1 / 1.2),
    "less correlated": _less_correlated,
}


def _drawn(seed: int) -> dict[int, np.ndarray]:
    """What the networks compute on the test inputs at each step, (SEEDS, M), from the right law."""
    draw = np.random.default_rng(seed)
    return {step: draw.multivariate_normal(*_trained(step), size=SEEDS, method="eigh") for step in STEPS}


def _outputs(values: dict[int, np.ndarray], theory: Callable[[float], Moments]) -> pd.DataFrame:
    """An outputs table of those networks, beside what a theory says of them and what the posterior does."""
    found, (nngp_mean, nngp_covariance) = [], _posterior(0)
    for step, drawn in values.items():
        mean, covariance = theory(step)
        count = drawn.shape[1]
        table = pd.DataFrame(
            {
                "seed": np.repeat(np.arange(SEEDS), count),
                "input": np.tile(np.arange(count), SEEDS),
                "value": drawn.ravel(),
            }
        )
        laws = {"limit": (mean, covariance), "nngp": (nngp_mean, nngp_covariance)}
        for law, (m, c) in laws.items():
            for name, moment in (("mean", m), ("variance", c.diagonal()), ("covariance", c[0])):
                table[f"{law}_{name}"] = np.tile(moment, SEEDS)
        found.append(table.assign(step=step, part="test", output=0, width=256))
    return pd.concat(found)


def _verdict(outputs: pd.DataFrame, steps: tuple[int, ...] = STEPS, law: str = "limit") -> str:
    """Judge all statistics at these steps together, as a claim is judged."""
    case = case_of(outputs)
    confidence = 1 - 0.05 / (len(steps) * len(MARGINS))
    outside = inside = 0
    for step in steps:
        for statistic, (low, high) in MARGINS.items():
            start, end = level(statistic(case, 256.0, str(step), law), confidence).interval
            outside += start > high or end < low
            inside += low <= start and end <= high
    return "refuted" if outside else "supported" if inside == len(steps) * len(MARGINS) else "inconclusive"


def test_the_theory_is_supported() -> None:
    """In each of five sweeps."""
    assert [_verdict(_outputs(_drawn(seed), _trained)) for seed in range(5)] == ["supported"] * 5


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_an_alternative_is_refuted(name: str) -> None:
    assert _verdict(_outputs(_drawn(0), ALTERNATIVES[name])) == "refuted"


@pytest.mark.parametrize("step", STEPS)
def test_the_posterior_is_refuted_while_the_networks_learn_and_in_the_end(step: int) -> None:
    outputs = _outputs(_drawn(0), _trained)
    assert _verdict(outputs, (step,), "nngp") == "refuted"
    assert _verdict(outputs, (step,)) == "supported"
