"""The Gaussian process of infinitely wide networks over initialisations, during training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.dynamics import EPSILON, check_finite, cross_modes, spectrum, times_of
from ntkrun.theory.rules import Flow, Rule


@dataclass(frozen=True)
class Ensemble:
    """The Gaussian distribution over initialisations at `times` (T,) on A points: `mean` (T, A, O) and `covariance`
    (T, A, A), which is the same for each output."""

    times: Tensor
    mean: Tensor
    covariance: Tensor


def ensemble(
    nngp: Tensor,
    ntk: Tensor,
    y: Tensor,
    times: Sequence[float],
    rule: Rule | None = None,
    precision: float = EPSILON,
) -> Ensemble:
    """Return mean and covariance of infinitely wide networks over all initialisations, trained on squared error, on A
    points. The first N points are the training inputs, N the length of the targets y (N, O).

    F_0 is Gaussian with mean 0 and covariance Σ = `nngp` (A, A); K = `ntk` (A, A) is frozen, and K̂ = K(X,X)/N. With
    the factor s of `rule`, gradient flow by default, and A_t = K(·,X)/N s_t(K̂), the outputs are F_t = F_0 - A_t
    (F_0(X) - y), so that

        mean A_t y,     covariance (I - A_t E) Σ (I - A_t E)ᵀ,    E the restriction to X

    (Lee et al. 2019, equations 14 and 15, in a form that stays positive semi-definite and needs no inverse). The result
    has the `times` (T,), where math.inf is the limit, the `mean` (T, A, O), and the `covariance` (T, A, A), the same
    for each output, in float64. `precision` is the relative error of the kernel's entries, which is larger than
    rounding for a numerical dual. Eigenvalues that this error can explain count as zero. Raises UserError for kernels
    that do not fit together or are none, and for a rule as `frozen` does.

    >>> import math, ntkrun, torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
    >>> net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=3, width=64, activation="erf")
    >>> y = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)  # of the first two points
    >>> trained = ntkrun.ensemble(*ntkrun.limit_kernels(net, x), y, times=[0.0, math.inf])
    >>> for covariance in trained.covariance:  # in the end only the outputs on the third point differ
    ...     print(*(f"{abs(variance):.4f}" for variance in covariance.diagonal()))
    0.2787 0.2787 0.2787
    0.0000 0.0000 0.0209
    """
    count, time_points = len(y), times_of(times, y)
    nngp, ntk, y = _checked(nngp, ntk, y)
    modes = spectrum(ntk[:count, :count] / count, precision)
    driven = (rule or Flow()).factors(modes.values, time_points)[1]
    cross_in_modes = cross_modes(ntk[:, :count] / count, modes, math.inf in times)
    gain = torch.einsum("ap,tp,np->tan", cross_in_modes, driven, modes.vectors)  # A_t
    remaining = torch.eye(len(ntk), dtype=y.dtype, device=y.device).repeat(len(time_points), 1, 1)  # I - A_t E
    remaining[:, :, :count] -= gain
    return Ensemble(time_points, gain @ y, remaining @ nngp @ remaining.mT)


def posterior(nngp: Tensor, y: Tensor, precision: float = EPSILON) -> tuple[Tensor, Tensor]:
    """Return mean (A, O) and covariance (A, A) of the Gaussian process with mean 0 and covariance Σ = `nngp` (A, A),
    given the values y (N, O) on its first N points X:

        mean Σ(·,X) Σ(X,X)⁺ y,     covariance Σ - Σ(·,X) Σ(X,X)⁺ Σ(X,·)

    It is the law of networks of which only the last layer is trained, for ever, since the kernel of the last layer's
    parameters is Σ (Lee et al. 2018; Lee et al. 2019, equation 13). `precision` and errors are as in `ensemble`, and
    the covariance is computed in the same positive semi-definite form.
    """
    nngp, _, y = _checked(nngp, nngp, y)
    count = len(y)
    modes = spectrum(nngp[:count, :count], precision)
    inverse = torch.where(modes.values > 0, 1 / modes.values, 0.0)
    gain = nngp[:, :count] @ (modes.vectors * inverse) @ modes.vectors.T
    remaining = torch.eye(len(nngp), dtype=y.dtype, device=y.device)
    remaining[:, :count] -= gain
    return gain @ y, remaining @ nngp @ remaining.T


def _checked(nngp: Tensor, ntk: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kernels and the targets in float64 on one device. Raises UserError where they do not fit together or
    are not finite."""
    if nngp.shape != ntk.shape or ntk.ndim != 2 or ntk.shape[0] != ntk.shape[1] or len(ntk) < len(y):
        raise UserError(
            f"nngp {tuple(nngp.shape)} and ntk {tuple(ntk.shape)} must be square and of one shape, with the {len(y)} "
            "training inputs first"
        )
    nngp, ntk, y = (part.to(ntk.device, torch.float64) for part in (nngp, ntk, y))
    check_finite(nngp, ntk, y)
    return nngp, ntk, y
