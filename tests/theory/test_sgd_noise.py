"""The scatter of stochastic gradient descent against closed forms and against descent itself."""

import itertools
import math

import numpy as np
import pytest
import torch

from ntkrun.theory.sgd_noise import sgd_covariance


def _closed_form(kernel: torch.Tensor, residual: torch.Tensor, step: float, time: float, batch: int) -> np.ndarray:
    """The same integral, term by term: ∫_0^T e^{-a(T-s)} e^{-bs} ds = (e^{-aT} - e^{-bT})/(b - a)."""
    count = len(residual)
    values, vectors = np.linalg.eigh(kernel.numpy() / count)
    along = vectors.T @ residual.numpy()
    total = np.zeros((count, count))
    for j, k, l, m in itertools.product(range(count), repeat=4):
        a, b = values[j] + values[k], values[l] + values[m]
        smaller, gap = min(a, b) * time, abs(b - a) * time
        integral = time * math.exp(-smaller) * (-math.expm1(-gap) / gap if gap else 1.0)
        noise = count * (vectors[:, j] * vectors[:, k] * vectors[:, l] * vectors[:, m]).sum()
        noise -= (j == l) * (k == m)
        total[j, k] += values[j] * values[k] * noise * along[l] * along[m] * integral
    return step / batch * vectors @ total @ vectors.T


def test_one_input_has_no_noise_and_two_apart_have_it_in_closed_form() -> None:
    """A batch from one input is that input. Two inputs with K = diag(k): κ = k/2 and C = [[r_1², -r_1r_2], [-r_1r_2,
    r_2²]]/B, so that Cov_ij = ±(ηT/B) κ_iκ_j r_ir_j at the time T."""
    one = sgd_covariance(torch.tensor([[2.0]]).double(), torch.tensor([3.0]).double(), 0.1, 0.5, 4)
    assert abs(float(one)) <= 1e-15  # 0.1/4·9·4·0.5·e^-2 is cancelled: 0.06
    kernel, residual, time = torch.diag(torch.tensor([2.0, 6.0]).double()), torch.tensor([1.0, -2.0]).double(), 0.7
    v = torch.tensor([1.0, 3.0]).double()
    v = v * residual * torch.exp(-v * time)
    expected = 0.01 * time / 5 * torch.outer(v, v) * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert torch.allclose(sgd_covariance(kernel, residual, 0.01, time, 5), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("time", [0.0, 1e-3, 0.3, 2.0, 10.0, 300.0, 1e4, 1e6])
@pytest.mark.parametrize("spectrum", [(1.0, 0.3, 0.05, 0.0), (1.0, 1e-2, 1e-4, 1e-6), (1.0, 1.0, 0.9, 0.8)])
def test_any_kernel_at_any_time_equals_the_closed_form(spectrum: tuple[float, ...], time: float) -> None:
    """λ_max T up to 1e6. 16 nodes a panel are exact to 1e-15 of the terms, which cancel in part, and the eigenvalues to
    1e-16 λ_max, so that exponents are off by 1e-16 λ_max T."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
    kernel = 4 * basis @ torch.diag(torch.tensor(spectrum).double()) @ basis.T
    residual = torch.randn(4, dtype=torch.float64, generator=generator)
    found = sgd_covariance(kernel, residual, 0.01, time, 2).numpy()
    wanted = _closed_form(kernel, residual, 0.01, time, 2)
    assert np.abs(found - wanted).max() <= (1e-13 + 1e-15 * time) * np.trace(wanted)


def test_descent_on_a_linear_model_tends_to_it_as_the_step_size_falls() -> None:
    """f = Jθ trained on batches: the ratio of the traces is 1 + aη + O(η²), so 2 ratio(η/2) - ratio(η) is 1 + O(η²).
    20000 runs know each ratio to 1 % (4 standard errors of the difference: 0.09)."""
    rng = np.random.default_rng(0)
    inputs, runs, time, batch = 6, 20000, 1.5, 2
    jacobian = rng.standard_normal((inputs, 8))
    kernel, residual = jacobian @ jacobian.T, rng.standard_normal(inputs)
    rate = np.linalg.eigvalsh(kernel / inputs)[-1]
    ratios = []
    for relative in (0.2, 0.1, 0.05):
        steps = round(time * rate / relative)
        step = time / steps
        r = np.tile(residual, (runs, 1))
        for _ in range(steps):
            chosen = rng.integers(inputs, size=(runs, batch))
            gradient = np.zeros_like(r)
            for one in chosen.T:
                gradient[np.arange(runs), one] += r[np.arange(runs), one] / batch
            r -= step * gradient @ kernel
        wanted = sgd_covariance(torch.tensor(kernel), torch.tensor(residual), step, time, batch)
        ratios.append(float(np.trace(np.cov(r.T)) / wanted.trace()))
    assert ratios[0] > ratios[1] > ratios[2] > 1
    assert abs(2 * ratios[2] - ratios[1] - 1) <= 0.09
