"""What infinite width says of the outputs, against the recursion that training is in the limit."""

import numpy as np
import pytest
import torch

import ntkrun
from ntkrun.config.reader import parse_config
from ntkrun.config.schema import Point
from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.plan import limits
from ntkrun.plan.problem import COLUMNS, inputs_of, limit_outputs, step_size
from ntkrun.theory.limit import limit_kernels, limit_layers

TEXT = """\
name: tiny
network: {depth: 3, width: 8, activation: erf, beta: 0.3}
data: {name: gaussian, dimension: 3, samples: 5, test_samples: 2}
training: {step_size: {relative: 0.8}, steps: 6}
sweep: {seeds: 1}
"""


def _point(*overrides: str) -> Point:
    return parse_config(TEXT, overrides=overrides).points[0][0]


def _kernels(point: Point) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = point.data.load()
    net = DenseNetwork(3, data.outputs, 3, 8, point.network.activation, 0.3)
    nngp, ntk = limit_kernels(net, np.concatenate([data.x, data.x_test]))
    return nngp.numpy(), ntk.numpy(), data.y


# erf's kernel is closed; that of tanh is a series, good to 1e-10 where the two are compared to 1e-9.
@pytest.mark.parametrize("activation", ["erf", "tanh"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_ensemble_follows_the_recursion_of_its_training(momentum: float, activation: str) -> None:
    """(F, v) of all points is an affine function of (F_0, 0), a step at a time: its mean and covariance follow."""
    point = _point(f"training.momentum={momentum}", f"network.activation={activation}")
    nngp, ntk, y = _kernels(point)
    count, a = len(y), len(ntk)
    pull = np.zeros((a, a))
    pull[:, :count] = step_size(point) * ntk[:, :count] / count
    eye = np.eye(a)
    step = np.block([[eye - pull, momentum * eye], [-pull, momentum * eye]])
    target = np.concatenate([y, np.zeros((a - count, y.shape[1]))])
    push = np.concatenate([pull @ target, pull @ target])
    mean, spread = np.zeros((2 * a, y.shape[1])), np.concatenate([eye, np.zeros((a, a))])
    steps = [0, 1, 4, 6]
    found = limit_outputs(inputs_of(point), steps)
    assert tuple(found) == COLUMNS
    for k in range(7):
        if k in steps:
            at = steps.index(k)
            covariance = spread[:a] @ nngp @ spread[:a].T
            expected = (
                np.broadcast_to(ntk.diagonal()[:, None], (a, y.shape[1])),
                np.broadcast_to(ntk[:, count, None], (a, y.shape[1])),  # with the first test input
                mean[:a],
                np.broadcast_to(covariance.diagonal()[:, None], (a, y.shape[1])),
                np.broadcast_to(_with_the_first(covariance, count)[:, None], (a, y.shape[1])),
                *_posterior(nngp, y),
            )
            for name, values in zip(COLUMNS, expected, strict=True):
                np.testing.assert_allclose(found[name][at], values, rtol=1e-9, atol=1e-9, err_msg=f"{name} {k}")
        mean, spread = step @ mean + push, step @ spread


def _with_the_first(covariance: np.ndarray, count: int) -> np.ndarray:
    """Of each point with the first of its part; `count` training points come first."""
    return np.concatenate([covariance[:count, 0], covariance[count:, count]])


def _posterior(nngp: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, variance and covariance with the first of its part of the Gaussian process given y, by its formula."""
    count = len(y)
    gain = np.linalg.solve(nngp[:count, :count], nngp[:count]).T
    covariance = nngp - gain @ nngp[:count]
    moments = (covariance.diagonal(), _with_the_first(covariance, count))
    return gain @ y, *(np.broadcast_to(moment[:, None], (len(nngp), y.shape[1])) for moment in moments)


@pytest.mark.parametrize("override", ["training.loss=huber", "training.batch=2"])
def test_without_a_formula_only_the_start_is_known(override: str) -> None:
    point = _point(override)
    nngp, ntk, y = _kernels(point)
    count = len(y)
    found = limit_outputs(inputs_of(point), [0, 6])
    np.testing.assert_allclose(found["limit_variance"][0, :, 0], nngp.diagonal(), rtol=1e-12)
    np.testing.assert_allclose(found["limit_covariance"][0, :, 0], _with_the_first(nngp, count), rtol=1e-12)
    np.testing.assert_allclose(found["limit_kernel"][1, :, 0], ntk.diagonal(), rtol=1e-12)
    assert (found["limit_mean"][0] == 0).all()
    for name in ("limit_mean", "limit_variance", "limit_covariance"):
        assert np.isnan(found[name][1]).all()
    for name in ("nngp_mean", "nngp_variance", "nngp_covariance"):  # a law of the data, whatever the batches
        assert (np.isnan(found[name]) == (point.training.loss == "huber")).all()


def test_the_posterior_is_that_of_the_trained_function() -> None:
    """α F has the covariance α² Σ, whose posterior has the same mean; α(F - F_0) starts at 0 and has none."""
    plain, scaled, centred = (
        limit_outputs(inputs_of(_point(f"training.output_scale={scale}")), [0, 6])
        for scale in ("1", "3", "{centred: 3}")
    )
    np.testing.assert_allclose(scaled["nngp_mean"], plain["nngp_mean"], rtol=1e-10)
    np.testing.assert_allclose(scaled["nngp_variance"], 9 * plain["nngp_variance"], rtol=1e-10, atol=1e-12)
    assert np.isnan(centred["nngp_mean"]).all()
    assert np.isfinite(centred["limit_mean"]).all()


def test_without_a_limit_all_is_nan() -> None:
    ntkrun.register_activation("more_kinks_untold", torch.nn.functional.hardtanh)
    point = _point("network.activation=more_kinks_untold", "training.step_size=0.1")
    assert all(np.isnan(values).all() for values in limit_outputs(inputs_of(point), [0, 6]).values())


def test_without_test_inputs() -> None:
    found = limit_outputs(inputs_of(_point("data={name: sphere, dimension: 3, samples: 5, test_samples: 0}")), [0, 6])
    assert found["limit_covariance"].shape == (2, 5, 1)
    assert np.isfinite(found["limit_covariance"]).all()
    assert np.isnan(found["limit_kernel_row"]).all()


def test_several_outputs_share_a_law_but_for_their_means() -> None:
    point = _point("data={name: digits, samples: 6, test_samples: 3, targets: one_hot}", "network.activation=relu")
    found = limit_outputs(inputs_of(point), [0, 6])
    assert found["limit_mean"].shape == (2, 9, 10)
    assert np.ptp(found["limit_variance"], axis=2).max() == 0
    assert np.ptp(found["limit_mean"][1], axis=1).max() > 0
    assert limit_outputs(inputs_of(point), [])["limit_mean"].shape == (0, 9, 10)


def test_an_architecture_without_a_limit_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that lacks what the recursion needs gets a sentence, not the limit of another one."""
    point = _point("network.beta=0.123")  # one that nothing has computed yet
    monkeypatch.setattr(limits, "network", lambda point: object())
    with pytest.raises(UserError, match="limit of dense networks is not known"):
        limits.limit_kernel(point)
    limits._KERNELS.clear()


def test_layers_have_limits_where_they_are_compared_with_them() -> None:
    """At step 0, if its outputs are stored, and if layers start from independent outputs of known scale."""
    point = _point()
    found = inputs_of(point).task.limit_layers
    expected = limit_layers(DenseNetwork(3, 1, 3, 8, "erf", 0.3), point.data.load().x)
    assert found is not None
    assert torch.equal(found.ntk, expected.ntk)
    for override in (
        "probes.outputs=[last]",
        "network.parametrization=standard",
        "network={architecture: residual, depth: 3, width: 8, activation: erf}",
    ):
        assert inputs_of(_point(override)).task.limit_layers is None, override


def test_the_smallest_eigenvalue_of_the_limit() -> None:
    point = _point()
    _, ntk, y = _kernels(point)
    expected = np.linalg.eigvalsh(ntk[: len(y), : len(y)] / len(y))[0]
    assert inputs_of(point).limit_lambda_min == pytest.approx(expected, rel=1e-9)
    ntkrun.register_activation("unlimited_for_smallest", lambda z: torch.where(z > 0.3, z + 1, z / 2))  # kink not told
    unknown = _point("network.activation=unlimited_for_smallest", "training.step_size=0.5")
    assert np.isnan(inputs_of(unknown).limit_lambda_min)
