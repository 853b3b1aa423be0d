"""Operator norms against full singular value decompositions."""

import pytest
import torch
from torch import Tensor

from ntkrun.engine.operators import BLOCK, DIRECT, TOLERANCE, Largest, operator_norms


def _draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _check(w: Tensor, start: Tensor | None = None, rounding: float = 1e-12) -> Largest:
    """Never above the norm by more than rounding, never below by more than the tolerance."""
    found = operator_norms(w, start)
    exact = torch.linalg.svdvals(w.double())[:, 0]
    assert found.norms.dtype == torch.float64
    missing = (exact - found.norms) / exact
    assert missing.max() <= TOLERANCE
    assert missing.min() >= -rounding
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (64, 300), (66, 66), (300, 70), (70, 300), (256, 256), (700, 700)])
def test_random_gaussian_matrices(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Square ones have no gap at the top: their largest singular values crowd, the closer the larger they are."""
    # Products of float32 vectors of 700 entries; basis vectors orthogonal to 1e-6.
    found = _check(_draw(6, *shape, dtype=dtype), rounding=1e-12 if dtype == torch.float64 else 3e-6)
    assert found.vectors.shape == (6, min(shape), 0 if min(shape) <= DIRECT else BLOCK)


def test_a_crowded_top_is_not_taken_for_convergence() -> None:
    """Singular values 1 - (k/n)², evenly crowding at 1 with nothing to tell them apart: an iteration that stopped at
    its first slow rise would be off by far more."""
    n = 400
    values = 1 - (torch.arange(n, dtype=torch.float64) / n) ** 2
    left, right = (torch.linalg.qr(_draw(3, n, n, seed=k)).Q for k in (1, 2))
    _check(left * values @ right.mT)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-3])
def test_changes_of_nearly_rank_one(noise: float) -> None:
    _check(1e-4 * (_draw(4, 200, 1, seed=1) @ _draw(4, 1, 150, seed=2) + noise * _draw(4, 200, 150)))


def test_no_change_has_norm_zero_and_others_beside_it_theirs() -> None:
    w = _draw(3, 120, 90)
    w[1] = 0
    norms = operator_norms(w).norms
    assert norms[1] == 0
    alone = operator_norms(w[[0, 2]]).norms
    assert norms[[0, 2]].tolist() == pytest.approx(alone.tolist(), rel=1e-12)
    assert operator_norms(torch.zeros(2, 3, 4)).norms.tolist() == [0, 0]


def test_equal_singular_values() -> None:
    eye = torch.eye(100, dtype=torch.float64).expand(2, 100, 100)
    assert operator_norms(eye).norms.tolist() == pytest.approx([1, 1], rel=1e-12)


@pytest.mark.parametrize("size", [5, 100])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_nan_and_spoils_no_other(bad: float, size: int) -> None:
    w = _draw(3, size, size)
    w[1, 2, 3] = bad
    norms = operator_norms(w).norms
    assert norms.isnan().tolist() == [False, True, False]
    assert norms[2] == pytest.approx(float(operator_norms(w[2:]).norms[0]), rel=1e-12)


def test_what_a_matrix_gets_does_not_depend_on_its_company() -> None:
    """One that takes many blocks beside one that takes few: each stops for itself, its vectors too."""
    slow, left, right = (_draw(1, 300, 300, seed=k) for k in range(3))
    fast = torch.linalg.qr(left).Q * 0.9 ** torch.arange(300) @ torch.linalg.qr(right).Q
    together = operator_norms(torch.cat([slow, fast]))
    for k, w in enumerate((slow, fast)):
        alone = operator_norms(w)
        assert float(together.norms[k]) == pytest.approx(float(alone.norms[0]), rel=1e-12)
        outside = alone.vectors[0] - together.vectors[k] @ (together.vectors[k].mT @ alone.vectors[0])
        assert outside.norm() < 1e-9


def test_a_start_from_where_the_matrix_was_large() -> None:
    """Also after a change in a direction of its own that outgrows all that was there, and one that barely does."""
    w = _draw(4, 300, 300)
    vectors = operator_norms(w).vectors
    for size in (0.02, 1.1, 4.0):
        u, v = (torch.nn.functional.normalize(_draw(4, 300, seed=k), dim=1) for k in (5, 6))
        change = size * 2 * 300**0.5 * u.unsqueeze(2) * v.unsqueeze(1) + 0.05 * _draw(4, 300, 300, seed=7)
        start = torch.cat([vectors[:, :, :12], operator_norms(change).vectors[:, :, :4]], 2)
        _check(w + change, start)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("shape", [(9, 64), (300, 70), (256, 256)])
def test_a_device_finds_the_norms_of_the_cpu(shape: tuple[int, int]) -> None:
    w = _draw(5, *shape)
    here, there = operator_norms(w), operator_norms(w.cuda())
    # The same iteration, in another order of summation: its rounding, grown over a few blocks.
    assert torch.allclose(there.norms.cpu(), here.norms, rtol=1e-9, atol=0)
    assert there.norms.is_cuda
    assert there.vectors.is_cuda
