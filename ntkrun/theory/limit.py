"""Infinite width: the covariance of the outputs at the start, and the Neural Tangent Kernel, which then stays what it
is.

    Σ^(1)(x,x') = σ_w² x·x'/n_0 + β²              K^(1) = Σ^(1)
    Σ^(l+1)     = σ_w² E[σ(u)σ(v)] + β²           K^(l+1) = Σ^(l+1) + K^(l) · σ_w² E[σ'(u)σ'(v)]

with (u, v) centred Gaussian of covariance Σ^(l) on x, x' (Jacot, Gabriel and Hongler 2018, proposition 1 and theorem
1).
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.duals import dual

ROUNDING = 1e-15  # a correlation this close to ±1 is ±1: near there arccos would turn rounding of 1e-16 into 1e-8


class Architecture(Protocol):
    """What the limit depends on: everything of a network but its widths."""

    @property
    def inputs(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def beta(self) -> float: ...
    @property
    def weight_scale(self) -> float: ...


class LimitKernels(NamedTuple):
    """Σ^(L) (`nngp`) and K^(L) (`ntk`), float64, (N, M): of one output; different outputs are independent."""

    nngp: Tensor
    ntk: Tensor


def limit_kernels(net: Architecture, x: Tensor | np.ndarray, x2: Tensor | np.ndarray | None = None) -> LimitKernels:
    """The limit kernels of a dense network in the NTK parametrisation on inputs x (N, n_0) and x2 (M, n_0); None means
    x.

    In float64 wherever x lies. The diagonal follows a recursion of its own, so that ρ = 1 is exact there. Raises
    UserError for inputs of the wrong shape or not finite, and for a σ without a closed form.
    """
    first = _inputs(net, x)
    second = first if x2 is None else _inputs(net, x2).to(first.device)
    sigma_dual = dual(net.activation) if net.depth > 1 else None
    weight, bias = net.weight_scale**2, net.beta**2
    q1, q2 = (weight * points.square().sum(dim=1) / net.inputs + bias for points in (first, second))
    nngp = weight * (first @ second.T) / net.inputs + bias
    ntk = nngp
    for _ in range(net.depth - 1):
        assert sigma_dual is not None
        values, slopes = sigma_dual(q1[:, None], q2, _correlation(nngp, q1, q2, same=x2 is None))
        nngp = weight * values + bias
        ntk = nngp + ntk * (weight * slopes)
        q1, q2 = (weight * sigma_dual(q, q, torch.ones_like(q))[0] + bias for q in (q1, q2))
    return LimitKernels(_symmetric(nngp), _symmetric(ntk)) if x2 is None else LimitKernels(nngp, ntk)


def relative_step_size(net: Architecture, x: Tensor | np.ndarray, relative: float) -> float:
    """η = r / λ_max(K_inf(x, x)/N): the same at every width. Gradient descent on squared error is stable for r < 2 in
    the limit."""
    kernel = limit_kernels(net, x).ntk
    largest = float(torch.linalg.eigvalsh(kernel / len(kernel))[-1])
    if not largest > 0:
        raise UserError("the limit kernel vanishes on these inputs, so no step size is relative to it")
    return relative / largest


def _correlation(covariance: Tensor, q1: Tensor, q2: Tensor, same: bool) -> Tensor:
    size = (q1[:, None] * q2).sqrt()
    rho = torch.where(
        size > 0, covariance / size, torch.zeros_like(size)
    )  # a zero input has no direction, and adds nothing
    rho = torch.where(1 - rho.abs() < ROUNDING, rho.sign(), rho)
    return rho.fill_diagonal_(1.0) if same else rho


def _symmetric(kernel: Tensor) -> Tensor:
    """x xᵀ need not be symmetric to the last digit."""
    return (kernel + kernel.T) / 2


def _inputs(net: Architecture, x: Tensor | np.ndarray) -> Tensor:
    points = torch.as_tensor(np.array(x)) if isinstance(x, np.ndarray) else torch.as_tensor(x)
    if points.ndim != 2 or points.shape[1] != net.inputs or len(points) == 0:
        raise UserError(
            f"inputs of shape {tuple(points.shape)} given to a network that takes (N, {net.inputs}), N at least 1"
        )
    points = points.double()
    if not points.isfinite().all():
        raise UserError("inputs must be finite numbers")
    return points
