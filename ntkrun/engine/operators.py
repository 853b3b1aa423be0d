"""Operator norms ‖w‖_op, the largest singular values, of stacks of matrices: by products with blocks of vectors alone.

Block Krylov iteration (Golub and Underwood 1977; Musco and Musco 2015). With Q an orthonormal basis of the span of V,
(wᵀw)V, (wᵀw)²V, ..., σ_max(w Q) is at most ‖w‖_op and grows to it. A block of BLOCK vectors reads w as fast as one
would, and separates the crowded top of a random matrix, which single vectors take hundreds of products to tell apart.

The stopping rule: a run's norm is done at the first block that raises it by less than STOP of itself. What is then
missing is about as much, at most TOLERANCE: once blocks raise it so little, each adds less than the one before (tests
compare with a full decomposition, square Gaussian matrices included, whose gap closes with their size). Where the
basis has filled the space there is nothing left to miss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.torch_settings import on_cores

BLOCK = 16  # vectors at a time: fewer are slower on a CPU, more cost more
DIRECT = 64  # a matrix with a side no longer than this has a Gram matrix small enough to diagonalise
TOLERANCE = 1e-4  # relative, of the norms
STOP = TOLERANCE / 4


@dataclass(frozen=True)
class Largest:
    """The `norms` ‖w‖_op (S,) of the matrices of a stack, float64, at most TOLERANCE too small; and up to BLOCK leading
    singular `vectors` (S, n, BLOCK) on the shorter side, of length n (none if a Gram matrix was used)."""

    norms: Tensor
    vectors: Tensor


def operator_norms(w: Tensor, start: Tensor | None = None) -> Largest:
    """Return ‖w‖_op of each w (S, m, n). The first block is `start` (S, min(m, n), BLOCK) where given, else the same
    random vectors for every matrix. nan for a matrix that is not finite, and for weights that are no matrices. What a
    matrix gets does not depend on those it is stacked with, beyond rounding."""
    if w.ndim != 3:
        return Largest(w.new_full((len(w),), torch.nan, dtype=torch.float64), w.new_empty(len(w), 0, 0))
    tall = w if w.shape[1] >= w.shape[2] else w.mT
    if tall.shape[2] <= DIRECT:
        return Largest(_by_gram(tall.double()), w.new_empty(len(w), tall.shape[2], 0))
    return _krylov(tall, _orthonormal(_random_block(tall) if start is None else start))


def leading_vectors(w: Tensor) -> Tensor:
    """`operator_norms(w).vectors`, without the norms where there are none."""
    shorter = min(w.shape[1:])
    return operator_norms(w).vectors if shorter > DIRECT else w.new_empty(len(w), shorter, 0)


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (..., n) and eigenvectors (..., n, n) of symmetric matrices; nan for matrices that are not
    finite, for which torch would raise, whatever the others are."""
    finite = matrices.isfinite().flatten(-2).all(dim=-1)
    values, vectors = torch.linalg.eigh(matrices.where(finite[..., None, None], 0.0))
    return values.where(finite[..., None], torch.nan), vectors


def _by_gram(w: Tensor) -> Tensor:
    gram = w.mT @ w
    finite = _finite(gram)
    (values,) = on_cores(lambda m: (torch.linalg.eigvalsh(m),), gram.where(finite, 0.0))
    return values[:, -1].clamp(min=0).sqrt().where(finite[:, 0, 0], torch.nan)


def _krylov(w: Tensor, block: Tensor) -> Largest:
    """The iteration, for w (S, m, n), n ≤ m, from an orthonormal block (S, n, b)."""
    stack, _, n = w.shape
    basis, images = block, w @ block
    gram = images.mT @ images  # (wQ)ᵀ(wQ)
    norms, leading = _largest(gram)
    going = torch.ones_like(norms, dtype=torch.bool)
    # Whether to go on is asked of the device, once a block: eigh has made the host wait already.
    while going.any() and basis.shape[2] < n:
        last = images[:, :, -block.shape[2] :]
        block = _next_block(basis, (last.mT @ w).mT)
        image = w @ block
        across = images.mT @ image
        gram = torch.cat([torch.cat([gram, across], 2), torch.cat([across.mT, image.mT @ image], 2)], 1)
        basis, images = torch.cat([basis, block], 2), torch.cat([images, image], 2)
        latest, vectors = _largest(gram)
        leading = torch.cat([leading, leading.new_zeros(stack, block.shape[2], leading.shape[2])], 1)
        leading = torch.where(going[:, None, None], vectors, leading)
        rise, norms = latest - norms, torch.where(going, latest, norms)
        going = going & (rise > STOP * norms)  # never true of nan
    return Largest(norms, basis @ leading.to(basis.dtype))


def _largest(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The root of the largest eigenvalue (S,), and the BLOCK leading eigenvectors (S, k, BLOCK), the largest first."""
    finite = _finite(gram)
    values, vectors = on_cores(torch.linalg.eigh, gram.double().where(finite, 0.0))
    return values[:, -1].clamp(min=0).sqrt().where(finite[:, 0, 0], torch.nan), vectors[:, :, -BLOCK:].flip(2)


def _finite(gram: Tensor) -> Tensor:
    """(S, 1, 1): eigh raises for what is not finite."""
    return gram.isfinite().flatten(1).all(dim=1)[:, None, None]


def _next_block(basis: Tensor, block: Tensor) -> Tensor:
    """An orthonormal block that is orthogonal to the basis, spanning what is new in `block`; no more vectors than there
    is room for."""
    block = block[:, :, : basis.shape[1] - basis.shape[2]]
    for _ in range(2):  # once leaves rounding of the size of what was taken away
        block = _orthonormal(block - basis @ (basis.mT @ block))
    return block


def _orthonormal(block: Tensor) -> Tensor:
    return torch.linalg.qr(block).Q


def _random_block(w: Tensor) -> Tensor:
    """Return the same random block for every matrix, run and device."""
    draw = torch.Generator().manual_seed(0)
    block = torch.randn(w.shape[2], BLOCK, generator=draw, dtype=torch.float64)
    return block.to(w.device, w.dtype).expand(len(w), -1, -1)
