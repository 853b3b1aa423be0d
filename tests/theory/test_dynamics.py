"""The closed forms of frozen-kernel training against direct integration and the recursion itself, edges included."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ntkrun.errors import UserError
from ntkrun.theory.dynamics import (
    as_matrix,
    fastest_step,
    frozen,
    kernel_regression,
    largest_stable_step,
    mode_slopes,
    null_residual,
)
from ntkrun.theory.integration import frozen_any_loss
from ntkrun.theory.losses import LOSSES
from ntkrun.theory.rules import Descent, Flow

N, M, O = 5, 3, 2


def _draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _problem(full: bool, seed: int = 0, features: int = 40) -> dict[str, torch.Tensor]:
    """A kernel with its test part from one set of features, so that the two belong together."""
    phi = _draw(N + M, O if full else 1, features, seed=seed) / math.sqrt(features / 10)
    joint = torch.einsum("nif,mjf->nmij", phi, phi)
    joint = joint if full else joint[..., 0, 0]
    return {
        "kernel": joint[:N, :N],
        "cross": joint[N:, :N],
        "y": _draw(N, O, seed=seed + 1),
        "start": _draw(N, O, seed=seed + 2),
        "test_start": _draw(M, O, seed=seed + 3),
    }


def _whole(part: torch.Tensor) -> np.ndarray:
    """(N, M) or (N, M, O, O) as a matrix over all pairs of input and output."""
    return (as_matrix(part) if part.ndim == 4 else torch.kron(part, torch.eye(O, dtype=part.dtype))).numpy()


def _integrated(p: dict[str, torch.Tensor], times: list[float], loss: str) -> tuple[np.ndarray, np.ndarray]:
    """dF/dt for training and test outputs together, by an explicit solver at tight tolerances: the obvious way."""
    rows = np.concatenate([_whole(p["kernel"]), _whole(p["cross"])]) / N

    def rate(t: float, f: np.ndarray) -> np.ndarray:
        outputs = torch.from_numpy(f[: N * O].reshape(N, O))
        return -rows @ LOSSES[loss].gradient(outputs, p["y"]).numpy().flatten()

    start = np.concatenate([p["start"].flatten(), p["test_start"].flatten()])
    found = solve_ivp(rate, (0, max(times)), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13)
    return found.y[: N * O].T.reshape(-1, N, O), found.y[N * O :].T.reshape(-1, M, O)


@pytest.mark.parametrize("full", [False, True])
def test_flow_equals_direct_integration(full: bool) -> None:
    """1e-8 is the contract; the reference is integrated to 1e-12."""
    p, times = _problem(full), [0.0, 0.1, 1.0, 7.0]
    found = frozen(**p, times=times)
    train, test = _integrated(p, times, "squared")
    assert np.abs(found.train.numpy() - train).max() < 1e-8
    assert np.abs(found.test.numpy() - test).max() < 1e-8
    assert np.allclose(found.loss, ((train - p["y"].numpy()) ** 2).sum(axis=(1, 2)) / (2 * N), rtol=0, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("relative", [1e-4, 0.3, 1.9])
def test_descent_equals_its_recursion(full: bool, momentum: float, relative: float) -> None:
    p = _problem(full)
    eta = relative / np.linalg.eigvalsh(_whole(p["kernel"]) / N)[-1]
    steps = [0, 1, 2, 17, 100]
    found = frozen(**p, times=[k * eta for k in steps], rule=Descent(eta, momentum))
    f, g = p["start"].numpy().flatten(), p["test_start"].numpy().flatten()
    v, w = np.zeros_like(f), np.zeros_like(g)
    rows, cross = _whole(p["kernel"]) / N, _whole(p["cross"]) / N
    for k in range(101):
        if k in steps:
            at = steps.index(k)
            # rounding of 100 steps, each of the size of the outputs
            assert np.allclose(found.train[at].numpy().flatten(), f, rtol=1e-11, atol=1e-11)
            assert np.allclose(found.test[at].numpy().flatten(), g, rtol=1e-11, atol=1e-11)
        residual = f - p["y"].numpy().flatten()
        v, w = momentum * v - eta * rows @ residual, momentum * w - eta * cross @ residual
        f, g = f + v, g + w


def test_descent_approaches_the_flow_as_eta() -> None:
    p = _problem(False)
    gaps = []
    for steps in (100, 200, 400):
        descent = frozen(**p, times=[2.0], rule=Descent(2.0 / steps))
        gaps.append(float((descent.train - frozen(**p, times=[2.0]).train).abs().max()))
    # Halving η halves the gap, up to terms of order η: 1 % of 2 at these steps.
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("full", [False, True])
def test_any_loss_equals_direct_integration(loss: str, full: bool) -> None:
    p, times = _problem(full), [3.0, 0.0, 0.5]
    if loss == "logistic":
        p["y"] = p["y"].sign()
    if loss == "cross_entropy":
        p["y"] = torch.softmax(p["y"], dim=1)
    found = frozen_any_loss(loss, **p, times=times)
    train, test = _integrated(p, [0.0, 0.5, 3.0], loss)
    for at, reference in enumerate((2, 0, 1)):
        assert np.abs(found.train[at].numpy() - train[reference]).max() < 1e-8
        assert np.abs(found.test[at].numpy() - test[reference]).max() < 1e-8
    assert torch.allclose(found.loss, LOSSES[loss](found.train, p["y"]))


def test_any_loss_is_the_closed_form_for_squared_error() -> None:
    p, times = _problem(True), [0.0, 0.4, 20.0]
    for rule in (Flow(), Descent(0.2), Descent(0.2, 0.5)):
        one, other = frozen(**p, times=times, rule=rule), frozen_any_loss("squared", **p, times=times, rule=rule)
        assert (one.train - other.train).abs().max() < 1e-8
        assert (one.test - other.test).abs().max() < 1e-8


def test_stiff_kernels_are_no_trouble() -> None:
    """Eigenvalues over twelve decades: an explicit solver would take 1e12 steps."""
    basis = torch.linalg.qr(_draw(N, N, seed=5))[0]
    kernel = basis @ torch.diag(torch.logspace(-8, 4, N, dtype=torch.float64)) @ basis.T
    y, start = _draw(N, 1, seed=6), _draw(N, 1, seed=7)
    found = frozen_any_loss("squared", kernel, y, start, [1e6])
    assert (found.train - frozen(kernel, y, start, [1e6]).train).abs().max() < 1e-8


# --------------------------------------------------------------------------- limits and singular kernels


def test_infinite_time_is_kernel_regression() -> None:
    p = _problem(False)
    inverse = torch.linalg.inv(p["kernel"])
    found = frozen(**p, times=[math.inf])
    assert torch.allclose(found.train[0], p["y"], rtol=0, atol=1e-10)  # a condition number of some 1e2
    expected = p["test_start"] - p["cross"] @ inverse @ (p["start"] - p["y"])
    assert torch.allclose(found.test[0], expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(
        kernel_regression(p["kernel"], p["cross"], p["y"]), p["cross"] @ inverse @ p["y"], rtol=1e-10, atol=1e-10
    )
    descent = frozen(**p, times=[math.inf], rule=Descent(0.9 * largest_stable_step(p["kernel"])))
    assert torch.allclose(descent.test, found.test, rtol=1e-10, atol=1e-10)


def test_repeated_inputs_with_conflicting_labels_keep_a_loss() -> None:
    """Two equal inputs with targets 1 and -1: the mean is learnt, ±1 remains, and the limit loss is 2·½/N."""
    phi = _draw(N, 30, seed=1)
    phi[1] = phi[0]
    kernel, cross = phi @ phi.T, _draw(M, 30, seed=2) @ phi.T
    y, zero = torch.tensor([[1.0], [-1.0], [0.5], [0.2], [3.0]]).double(), torch.zeros(N, 1).double()
    for time in (1e3, 1e15, math.inf):
        found = frozen(kernel, y, zero, [time], cross=cross, test_start=torch.zeros(M, 1).double())
        assert torch.allclose(found.train[0, :, 0], torch.tensor([0.0, 0.0, 0.5, 0.2, 3.0]).double(), atol=1e-9)
        assert float(found.loss[0]) == pytest.approx(1 / N, rel=1e-9)
        assert found.test.isfinite().all()
    rest = null_residual(kernel, y, zero)[:, 0]
    assert torch.allclose(rest, torch.tensor([-1.0, 1.0, 0, 0, 0]).double(), atol=1e-12)


@pytest.mark.parametrize("rule", [Flow(), Descent(0.1), Descent(0.1, 0.5)])
def test_a_kernel_of_zero_moves_nothing(rule: Flow | Descent) -> None:
    y, start = torch.ones(2, 1).double(), torch.zeros(2, 1).double()
    found = frozen(torch.zeros(2, 2).double(), y, start, [0.0, 5.0, math.inf], rule)
    assert (found.train == 0).all()
    assert found.loss.tolist() == [0.5, 0.5, 0.5]


def test_null_modes_drive_for_the_whole_time() -> None:
    """(1 - e^{-λt})/λ -> t: a training kernel that is 0 on one mode, a test kernel that is not (a given matrix)."""
    kernel, cross = torch.diag(torch.tensor([2.0, 0.0])).double(), torch.ones(1, 2).double()
    y, start = torch.zeros(2, 1).double(), torch.ones(2, 1).double()
    t = 3.0
    found = frozen(kernel, y, start, [t], cross=cross, test_start=torch.zeros(1, 1).double())
    assert float(found.test) == pytest.approx(-((1 - math.exp(-t)) / 1 / 2 + t / 2), rel=1e-14)
    with pytest.raises(UserError, match="does not vanish"):
        frozen(kernel, y, start, [math.inf], cross=cross, test_start=torch.zeros(1, 1).double())


def test_one_input() -> None:
    y, start = torch.tensor([[2.0]]).double(), torch.tensor([[0.5]]).double()
    found = frozen(torch.tensor([[3.0]]).double(), y, start, [0.0, 0.2, math.inf])
    assert found.train.flatten().tolist() == pytest.approx([0.5, 2 - 1.5 * math.exp(-0.6), 2.0], rel=1e-14)


# --------------------------------------------------------------------------- steps and rates


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_largest_stable_step_is_the_edge(momentum: float) -> None:
    p = _problem(False)
    edge = largest_stable_step(p["kernel"], momentum)
    below, above = (
        frozen(p["kernel"], p["y"], p["start"], [3000 * r * edge], Descent(r * edge, momentum)).loss
        for r in (0.99, 1.01)
    )
    assert float(below) < 1e-6 < 1e6 < float(above)


@pytest.mark.parametrize("momentum", [0.0, 0.05])
def test_the_fastest_step_is_faster_than_its_neighbours(momentum: float) -> None:
    p = _problem(False)
    best = fastest_step(p["kernel"], momentum)
    worst = [
        float((mode_slopes(p["kernel"], Descent(r * best, momentum))[1] * r * best).max()) for r in (0.97, 1.0, 1.03)
    ]
    assert worst[1] < min(worst[0], worst[2])
    if momentum == 0:
        assert best < largest_stable_step(p["kernel"])


def test_slopes_are_those_of_the_modes() -> None:
    lam = torch.tensor([0.1, 0.7, 1.5]).double()
    kernel = torch.diag(3 * lam)
    for rule in (Flow(), Descent(0.3), Descent(0.3, 0.05)):
        start, zero = torch.ones(3, 1).double(), torch.zeros(3, 1).double()
        late = frozen(kernel, zero, start, [30.0, 60.0], rule).train[:, :, 0].abs().log()
        values, slopes = mode_slopes(kernel, rule)
        assert torch.allclose(values, lam)
        # At this μ all modes are overdamped; the faster root has died out by t = 30.
        assert torch.allclose((late[1] - late[0]) / 30, slopes, rtol=1e-6)


def test_underdamped_modes_decay_as_the_root_of_momentum() -> None:
    _, slopes = mode_slopes(torch.eye(1).double(), Descent(1.0, 0.81))
    assert float(slopes[0]) == pytest.approx(math.log(0.9), rel=1e-14)


# --------------------------------------------------------------------------- bad input

GOOD = _problem(False)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y": torch.ones(N)}, r"\(N, O\)"),
        ({"y": torch.ones(N + 1, O)}, "a kernel of shape"),
        ({"start": torch.ones(N, O + 1)}, "initial outputs of shape"),
        ({"cross": torch.ones(M, N + 1)}, "a test kernel of shape"),
        ({"cross": None}, "need both"),
        ({"kernel": GOOD["kernel"] * math.nan}, "finite"),
        ({"y": GOOD["y"] * math.inf}, "finite"),
        ({"kernel": GOOD["kernel"].triu()}, "symmetric"),
        ({"kernel": GOOD["kernel"] - 50 * torch.eye(N)}, "positive semi-definite"),
        ({"times": [-1.0]}, "at least 0"),
        ({"times": []}, "at least 0"),
        ({"times": [math.nan]}, "at least 0"),
        ({"times": [0.15], "rule": Descent(0.1)}, "between two steps"),
        ({"times": [math.inf], "rule": Descent(10.0)}, "does not converge"),
        ({"times": [1e5], "rule": Descent(10.0)}, "overflows"),
    ],
)
def test_bad_input_is_a_sentence(change: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        frozen(**({**GOOD, "times": [1.0]} | change))


def test_more_sentences() -> None:
    with pytest.raises(UserError, match="momentum"):
        Descent(0.1, 1.0)
    with pytest.raises(UserError, match="finite for the loss"):
        frozen_any_loss("logistic", **{**GOOD, "y": GOOD["y"].sign()}, times=[math.inf])
    with pytest.raises(UserError, match=r"\+1 and -1"):
        frozen_any_loss("logistic", **GOOD, times=[1.0])
    with pytest.raises(UserError, match="choose squared"):
        frozen_any_loss("hinge", **GOOD, times=[1.0])
    with pytest.raises(UserError, match="vanishes"):
        largest_stable_step(torch.zeros(2, 2))
