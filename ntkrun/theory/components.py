"""Kernel principal components: the functions in which training under a frozen kernel separates."""

import math

import torch
from torch import Tensor

from ntkrun.errors import UserError

# Of λ_max: a smaller eigenvalue loses its function away from the training inputs to rounding, a smaller gap to the next
# one its direction; 1e-15/1e-8 of both is then lost.
SMALLEST = 1e-8


def component(kernel: Tensor, number: int) -> Tensor:
    """f^(k) on A inputs, (A,), k = `number` from 1: with K̂ = K(X,X)/N = Σ_k λ_k u_k u_kᵀ, λ_1 ≥ λ_2 ≥ ..., ‖u_k‖ = 1,

        f^(k)(X) = √N u_k,      f^(k)(x) = K(x,X)/N · f^(k)(X)/λ_k       (Nyström's extension)

    so that (1/N) Σ_i f^(k)(x_i)² = 1, and gradient flow lets a residual along it decay as e^{-λ_k t} (Jacot, Gabriel
    and Hongler 2018, section 5). `kernel` is K from the A inputs to the N training ones, (A, N), float64, the first N
    rows those of the training inputs. The sign: positive at the first training input where it is at least half as large
    as anywhere. Raises UserError where λ_k is 0, or another one equals it: then there is no such function.
    """
    count = kernel.shape[1]
    square = kernel[:count] / count
    values, vectors = torch.linalg.eigh((square + square.mT) / 2)
    values, vectors = values.flip(0), vectors.flip(1)
    _check(values, number)
    u = vectors[:, number - 1]
    large = u[u.abs() >= u.abs().max() / 2]
    found = math.sqrt(count) * u * large[0].sign()
    return torch.cat([found, kernel[count:] / count @ found / values[number - 1]])


def _check(values: Tensor, number: int) -> None:
    least, of = SMALLEST * float(values[0]), float(values[number - 1])
    if not of > least:
        raise UserError(f"component {number} of the kernel has the eigenvalue 0 to rounding; choose an earlier one")
    for other in (number - 1, number + 1):
        if 1 <= other <= len(values) and abs(float(values[other - 1]) - of) <= least:
            pair = f"{min(number, other)} and {max(number, other)}"
            raise UserError(f"components {pair} of the kernel have one eigenvalue, so neither is a function of its own")
