"""A verdict that cannot come out the other way is worth nothing: four ways to break the engine, each of which must turn
a verdict red, and the regression check as well. On the sound engine every verdict is green."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from torch import Tensor

import ntkrun
from ntkrun.config.reader import parse_config
from ntkrun.engine import parametrization, training
from ntkrun.engine.parametrization import Layer, Scales
from ntkrun.engine.uses import Affine
from ntkrun.evidence.regression.baseline import records
from ntkrun.evidence.regression.comparison import compare
from ntkrun.evidence.report.conclusion import judge_claims
from ntkrun.plan import limits
from ntkrun.plan import problem as points
from ntkrun.store.results_directory import Results
from ntkrun.theory.activations import Activation

# float64, so that rounding is far below what is broken; small steps, so that an error of 1 % in the kernel stands out.
DESCENT = """\
name: descent
network: {depth: 3, width: 64, activation: erf, beta: 0.5}
data: {name: sphere, dimension: 6, samples: 6, test_samples: 4}
training: {steps: 1, dtype: float64}
probes: {kernels: []}
sweep:
  grid: {training.step_size: [{relative: 0.0005}, {relative: 0.002}, {relative: 0.008}]}
  seeds: 5
claims: [kernel-gradient-descent]
"""
START = """\
name: start
network: {depth: 3, activation: erf, beta: 0.5}
data: {name: sphere, dimension: 6, samples: 3, test_samples: 0}
training: {steps: 0, dtype: float64}
probes: {kernels: [], detail: none}
sweep:
  grid: {network.width: [48, 96, 192, 384]}
  seeds: 60
claims: [{name: deterministic-kernel, level: [0.95, 1.05]}]
"""


@pytest.fixture(autouse=True)
def _nothing_cached() -> Iterator[None]:
    """What is computed of a grid point is kept for the next sweep, broken or sound."""

    def clear() -> None:
        points.problem_of.cache_clear()
        points._relative.cache_clear()
        limits._KERNELS.clear()

    clear()
    yield
    clear()


def _run(where: Path) -> list[Results]:
    return [ntkrun.run_sweep(parse_config(config), results=where) for config in (DESCENT, START)]


def _verdicts(sweeps: list[Results]) -> dict[str, str]:
    return {each.name: each.verdict for results in sweeps for each in judge_claims(results).claims}


def _steeper_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """σ' off by 1 %."""
    sound = Activation.slope
    monkeypatch.setattr(Activation, "slope", lambda self, z, a: 1.01 * sound(self, z, a))


def _no_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor 1/√n dropped."""

    def broken(layer: Layer) -> Scales:
        return Scales(layer.weight_scale, layer.beta)

    monkeypatch.setattr(parametrization, "PARAMETRIZATIONS", MappingProxyType({"ntk": broken}))


def _no_beta_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Affine.gram

    def broken(use: Affine, other: Affine | None = None) -> Tensor:
        return sound(use, other) - use.bias_scale**2

    monkeypatch.setattr(Affine, "gram", broken)


def _one_layer_ascends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong sign in the step of one layer."""
    sound = training.update

    def broken(params: Any, velocity: Any, uses: Any, d: list[Tensor], *numbers: float) -> None:
        sound(params, velocity, uses, [-each if layer == 1 else each for layer, each in enumerate(d)], *numbers)

    monkeypatch.setattr(training, "update", broken)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    return _run(tmp_path_factory.mktemp("sound"))


def test_the_sound_engine_is_green(sound: list[Results]) -> None:
    assert _verdicts(sound) == {"kernel-gradient-descent": "supported", "deterministic-kernel": "supported"}


@pytest.mark.parametrize("breakage", [_steeper_slope, _no_scale, _no_beta_in_the_kernel, _one_layer_ascends])
def test_a_broken_engine_turns_a_verdict_red(
    breakage: Any, sound: list[Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breakage(monkeypatch)
    broken = _run(tmp_path)
    verdicts = _verdicts(broken)
    checks = [compare(_records(now), _records(then)) for now, then in zip(broken, sound, strict=True)]
    print(f"{breakage.__name__[1:]}: {verdicts}, {sum(len(check.regressions) for check in checks)} regressions")
    assert "refuted" in verdicts.values()
    assert "regression" in [check.verdict for check in checks]


def _records(each: Results) -> Any:
    return records(each.plan, each.runs, each.steps, each.layers)
