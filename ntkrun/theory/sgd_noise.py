"""The scatter that batches add to gradient flow, to first order in the step size.

A step on a batch of B inputs, drawn independently, moves the residual r by -ηK̂ times the mean gradient of the batch,
N/B times a sum over its inputs. Its covariance over batches is η² K̂ C K̂ᵀ with C = (N diag(r²) - r rᵀ)/B. The deviations
of all steps decay with the kernel and add up (Li, Tai and E 2017), so that at the time T

    Cov(F_SGD - F_flow) = η ∫_0^T e^{-K̂(T-s)} K̂ C(s) K̂ᵀ e^{-K̂(T-s)} ds,     r(s) = e^{-K̂s} r_0,  K̂ = K(X,X)/N

Since e^{-K̂(T-s)} K̂ r(s) = K̂ r(T) for every s, the part of r rᵀ is -(ηT/B) v vᵀ with v = K̂ r(T).
"""

import math

import torch
from torch import Tensor

from ntkrun.theory.quadrature import nodes

NODES = 16  # a panel: exact to rounding for exp(32 t/T) on a half of [0, T], beyond which one of its ends is negligible


def sgd_covariance(kernel: Tensor, residual: Tensor, step_size: float, time: float, batch: int) -> Tensor:
    """Return the covariance over batches of the outputs on the training inputs at a time T, (N, N), float64, for
    squared error, one output, and `batch` inputs per step, drawn independently with replacement; `kernel` is K(X,X),
    (N, N), and `residual` r_0 = F_0 - y, (N,). The mean deviation is of higher order in η."""
    count = len(residual)
    values, vectors = torch.linalg.eigh((kernel + kernel.mT) / (2 * count))
    along = vectors.mT @ residual
    total = torch.zeros_like(kernel)  # in the eigenvectors' basis
    for node, weight in zip(*nodes(_edges(time, float(values[-1])), NODES), strict=True):
        r = vectors @ (torch.exp(-values * node) * along)
        carried = vectors * r[:, None] * (values * torch.exp(-values * (time - node)))
        total += weight * carried.mT @ carried
    last = values * torch.exp(-values * time) * along
    return step_size / batch * vectors @ (count * total - time * torch.outer(last, last)) @ vectors.mT


def _edges(time: float, rate: float) -> Tensor:
    """Return panel edges on [0, T], halved towards both ends until the last panels are shorter than 1/λ_max."""
    halvings = max(1, math.ceil(math.log2(max(rate * time, 1))))
    half = time * 2.0 ** torch.arange(-halvings, 0, dtype=torch.float64)
    ends = torch.tensor([0.0], dtype=torch.float64)
    return torch.cat([ends, half, time - half.flip(0)[1:], ends + time])
