"""Kernel principal components against their definition."""

import math

import pytest
import torch

from ntkrun.errors import UserError
from ntkrun.theory.dynamics import component


def _kernel(rows: int = 9, count: int = 6, seed: int = 0) -> torch.Tensor:
    """Between `rows` inputs and the first `count` of them; of full rank."""
    features = torch.randn(rows, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return features @ features[:count].T


@pytest.mark.parametrize("number", [1, 2, 6])
def test_a_component_is_an_eigenfunction_of_unit_norm(number: int) -> None:
    """K(x,X)/N f(X) = λ f(x) on all inputs, with λ the number-th largest; 1e-12 in float64."""
    kernel = _kernel()
    found = component(kernel, number)
    value = torch.linalg.eigvalsh(kernel[:6] / 6).flip(0)[number - 1]
    assert found.shape == (9,)
    assert torch.allclose(kernel / 6 @ found[:6], value * found, rtol=1e-12, atol=1e-12)
    assert float(found[:6].square().mean()) == pytest.approx(1, rel=1e-12)


def test_the_sign_is_fixed() -> None:
    """Positive at the first entry of at least half the largest size, whatever an eigensolver gives."""
    for seed in range(8):
        found = component(_kernel(seed=seed), 2)[:6]
        assert float(found[found.abs() >= found.abs().max() / 2][0]) > 0


def test_what_is_no_function_is_a_sentence() -> None:
    circulant = torch.eye(4, dtype=torch.float64) + 0.3  # one large eigenvalue, three equal ones
    assert component(circulant, 1).tolist() == pytest.approx([1.0] * 4)
    for number in (2, 3, 4):
        with pytest.raises(UserError, match="have the same eigenvalue"):
            component(circulant, number)
    flat = torch.ones(4, 4, dtype=torch.float64) + torch.diag(torch.tensor([1e-3, 0, 0, 0], dtype=torch.float64))
    with pytest.raises(UserError, match="component 3 of the kernel has the eigenvalue 0"):
        component(flat, 3)
    assert math.isfinite(float(component(flat, 2)[0]))
