"""The Gaussian process that infinitely wide networks are, over initialisations, while they train."""

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
    """The Gaussian over initialisations at `times` (T,) on A points: `mean` (T, A, O) and, for each output alike,
    `covariance` (T, A, A)."""

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
    """Infinitely wide networks over all initialisations, trained on squared error, on A points of which the first N are
    the training inputs, N the length of y (N, O).

    F_0 is Gaussian with mean 0 and covariance Σ = `nngp` (A, A); K = `ntk` (A, A) is frozen. With A_t = K(·,X)/N
    s_t(K̂), F_t = F_0 - A_t (F_0(X) - y), so that

        mean A_t y,     covariance (I - A_t E) Σ (I - A_t E)ᵀ,    E the restriction to X

    (Lee et al. 2019, equations 14 and 15, in a form that stays positive semi-definite and needs no inverse).
    `precision` is the relative error of the kernel's entries, which of a numerical dual is larger than rounding: what
    it may have made of a zero eigenvalue counts as zero.
    """
    count, when = len(y), times_of(times, y)
    if nngp.shape != ntk.shape or ntk.ndim != 2 or ntk.shape[0] != ntk.shape[1] or len(ntk) < count:
        raise UserError(
            f"nngp {tuple(nngp.shape)} and ntk {tuple(ntk.shape)} must be square and alike, over the {count} training "
            "inputs and then any others"
        )
    nngp, ntk, y = (part.to(ntk.device, torch.float64) for part in (nngp, ntk, y))
    check_finite(nngp, ntk, y)
    modes = spectrum(ntk[:count, :count] / count, precision)
    driven = (rule or Flow()).factors(modes.values, when)[1]
    reach = cross_modes(ntk[:, :count] / count, modes, math.inf in times)
    gain = torch.einsum("ap,tp,np->tan", reach, driven, modes.vectors)  # A_t
    kept = torch.eye(len(ntk), dtype=y.dtype, device=y.device).repeat(len(when), 1, 1)
    kept[:, :, :count] -= gain
    return Ensemble(when, gain @ y, kept @ nngp @ kept.mT)
