"""The Gaussian over initialisations, against its definition and against trained networks."""

import math

import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.theory.dynamics import frozen
from ntkrun.theory.ensemble import ensemble, posterior
from ntkrun.theory.limit import limit_kernels
from ntkrun.theory.rules import Descent
from tests.engine.small import problem, states

N, M = 4, 2
NET = DenseNetwork(3, 1, 2, 128, "erf", 0.3, 1.5)


def _draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _points() -> tuple[torch.Tensor, torch.Tensor]:
    return _draw(N + M, 3, seed=0), _draw(N, 1, seed=1)


@pytest.mark.parametrize("rule", [None, Descent(0.05), Descent(0.05, 0.5)])
def test_it_is_the_law_of_frozen_training_from_a_gaussian_start(rule: Descent | None) -> None:
    """F_t is linear in F_0: its mean comes from F_0 = 0, its covariance from pushing each unit vector through."""
    x, y = _points()
    nngp, ntk = limit_kernels(NET, x)
    times = [0.0, 0.5, 4.0]
    found = ensemble(nngp, ntk, y, times, rule)

    def trained(start: torch.Tensor) -> torch.Tensor:
        p = frozen(ntk[:N, :N], y, start[:N], times, rule, ntk[N:, :N], start[N:])
        assert p.test is not None
        return torch.cat([p.train, p.test], dim=1)

    zero = torch.zeros(N + M, 1, dtype=torch.float64)
    columns = [trained(e[:, None]) - trained(zero) for e in torch.eye(N + M, dtype=torch.float64)]
    push = torch.cat(columns, dim=2)  # (T, A, A)
    assert torch.allclose(found.mean, trained(zero), rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.covariance, push @ nngp @ push.mT, rtol=1e-11, atol=1e-13)
    assert torch.equal(found.times, torch.tensor(times, dtype=torch.float64))


def test_at_infinity_it_interpolates_without_spread() -> None:
    x, y = _points()
    nngp, ntk = limit_kernels(NET, x)
    found = ensemble(nngp, ntk, y, [math.inf])
    assert torch.allclose(found.mean[0, :N], y, atol=1e-10)
    assert found.covariance[0, :N].abs().max() < 1e-10
    assert (torch.linalg.eigvalsh(found.covariance[0]) > -1e-12).all()
    assert found.covariance[0, N, N] > 1e-3


def test_the_posterior_is_what_training_with_its_kernel_tends_to() -> None:
    """Training the last layer alone has the kernel Σ. Against the formula too, with an inverse: 1e-9, the rounding
    times the condition of Σ(X,X), which is below 1e5 here."""
    x, y = _points()
    nngp, _ = limit_kernels(NET, x)
    mean, covariance = posterior(nngp, y)
    trained = ensemble(nngp, nngp, y, [math.inf])
    assert torch.allclose(mean, trained.mean[0], rtol=1e-9, atol=1e-9)
    assert torch.allclose(covariance, trained.covariance[0], rtol=1e-9, atol=1e-9)
    gain = torch.linalg.solve(nngp[:N, :N], nngp[:N]).T
    assert torch.allclose(mean, gain @ y, rtol=1e-9, atol=1e-9)
    assert torch.allclose(covariance, nngp - gain @ nngp[:N], rtol=1e-9, atol=1e-9)
    assert (mean[N:] - ensemble(*limit_kernels(NET, x), y, [math.inf]).mean[0, N:]).abs().max() > 0.01  # not the NTK's


def test_the_posterior_given_a_repeated_input_is_that_given_its_mean_target() -> None:
    x, y = _points()
    nngp, _ = limit_kernels(NET, x)
    mean, covariance = posterior(nngp, y)
    twice = [0, *range(len(x))]
    split = torch.cat([y[:1] + 0.5, y[:1] - 0.5, y[1:]])
    repeated = posterior(nngp[twice][:, twice], split)
    assert torch.allclose(repeated[0][1:], mean, rtol=1e-9, atol=1e-9)
    assert torch.allclose(repeated[1][1:, 1:], covariance, rtol=1e-9, atol=1e-9)


def test_two_thousand_trained_networks_follow_it() -> None:
    """Mean and covariance at three times within sampling error: 4 standard errors of 2000 networks, 9 % of the spread.
    At L=2 and width 128 the bias of order 1/n is some 2 % of it; the step is 1/30 of the fastest mode's."""
    x, y = _points()
    nngp, ntk = limit_kernels(NET, x)
    count, top = 2000, float(torch.linalg.eigvalsh(ntk[:N, :N] / N)[-1])
    eta, probed = 1 / (30 * top), [0, 40, 300]
    outputs = []
    for state in states(problem(NET, range(count), x[:N].float(), y.float(), eta, probed[-1])):
        if state.step in probed:
            outputs.append(NET.apply(state.params, x.float())[:, :, 0].double())
    predicted = ensemble(nngp, ntk, y, [k * eta for k in probed])
    for k, found in enumerate(outputs):
        mean, covariance = predicted.mean[k, :, 0], predicted.covariance[k]
        variance = covariance.diagonal()
        # The flow itself, against steps of this size, is off by up to η·λ of what moves: 1e-2 of the outputs' scale.
        assert ((found.mean(dim=0) - mean).abs() <= 4 * (variance / count).sqrt() + 0.01).all()
        error = ((variance[:, None] * variance + covariance.square()) / count).sqrt()
        assert ((found.T.cov() - covariance).abs() <= 4 * error + 0.01).all()
    assert (predicted.covariance[2, :N, :N].diagonal() < 0.5 * predicted.covariance[0, :N, :N].diagonal()).all()


def test_kernels_that_do_not_fit_are_a_sentence() -> None:
    x, y = _points()
    nngp, ntk = limit_kernels(NET, x)
    for pair in ((nngp, ntk[:N, :N]), (nngp[:2, :2], ntk[:2, :2]), (nngp[:, :N], ntk[:, :N])):
        with pytest.raises(UserError, match="square"):
            ensemble(*pair, y, [1.0])
    with pytest.raises(UserError, match="square"):
        posterior(nngp[:, :N], y)
    with pytest.raises(UserError, match="finite"):
        ensemble(nngp * math.nan, ntk, y, [1.0])
