"""The dual of a nonlinearity without a closed form: E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for all pairs of many variances.

What is tabulated is the correlation ĥ(q1, q2, θ) = E[σ(u)σ(v)]/sqrt(E[σ(u)²] E[σ(v)²]) in the angle θ = arccos ρ, and
likewise for σ'. Where σ is smooth but for a kink at 0, ĥ is analytic in (log q1, log q2, θ) up to the ends, and its
Chebyshev series converges geometrically; the variances that occur in a layer span little, so few terms do. (In ρ it
would not: a kink makes (1-ρ)^{3/2}.) With kinks elsewhere the series converges when all inputs have one norm, and
otherwise in general not: then every pair is integrated by itself, some milliseconds each. So are few pairs, whatever
σ.

The error is measured: the series against the other quadrature rule at random places between its nodes, or that rule
against itself with more nodes.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory import quadrature
from ntkrun.theory.activations import Activation
from ntkrun.theory.quadrature import Pair

SMOOTH, KINKED = 1e-10, 1e-9  # relative errors that are refused
NEGLIGIBLE = 3e-14  # a coefficient this small is left out: |ĥ| is at most 1
CONVERGED = 1e-13  # a last coefficient, or a change by more nodes, this small is rounding
MOST_ANGLES, MOST_VARIANCES, MOST_LEVELS = 384, 96, 7
ONE_NORM = 1e-9  # inputs whose log q differ by less have one norm but for rounding: linear in log q does
COARSEST, ENOUGH = -2, 1e-12  # of `panels` where pairs are integrated one by one: the first level off by no more
FEW_PAIRS = 16  # not worth a series
CHECKS = 6  # random triples at which the error is measured


@dataclass(frozen=True)
class Series:
    """Σ_k Σ_ab c[:, k, a, b] T_a(t1) T_b(t2) T_k(s): ĥ of σ and of σ', c (2, K, A, A), with t the logarithm of a
    variance between `low` and `high`, scaled to [-1, 1], and s = 2θ/π - 1."""

    coefficients: Tensor
    low: float
    high: float

    def in_variance(self, q: Tensor) -> Tensor:
        """T_a(t) for each q: (Q, A)."""
        return _chebyshev(_scaled(q.log(), self.low, self.high), self.coefficients.shape[-1])

    def rows(self, basis1: Tensor, basis2: Tensor, rho: Tensor) -> Tensor:
        """ĥ on a block, (2, n, M), by Clenshaw's recurrence in the angle."""
        twice = 4 / math.pi * rho.acos() - 2
        found = rho.new_empty(2, *rho.shape)
        columns = basis2.T.contiguous()
        for part, of_part in zip(found, self.coefficients, strict=True):
            present = (of_part != 0).flatten(1).any(dim=1).tolist()  # every second degree alone where σ is odd or even
            half_way = basis1 @ of_part  # (K, n, A)
            newer = older = rho.new_zeros(rho.shape)
            for k in range(len(half_way) - 1, -1, -1):
                # The terms of degree k less the older sum, in one product; of one variance they are a number.
                if not present[k]:
                    term = -older
                elif len(columns) == 1:
                    term = half_way[k] - older
                else:
                    term = torch.addmm(older, half_way[k], columns, beta=-1)
                newer, older = torch.addcmul(term, twice if k else twice / 2, newer), newer
            part.copy_(newer)
        return found


@dataclass(frozen=True)
class NumericalDual:
    """The dual of σ on the variances q1 (N,) and q2 (M,) of a layer; see duals.LayerDual."""

    sigma: Activation
    q1: Tensor
    q2: Tensor
    means: tuple[Pair, Pair]  # E[σ(u)], E[σ'(u)] of either side
    squares: tuple[Pair, Pair]  # E[σ(u)²], E[σ'(u)²] of either side
    series: Series | None
    level: int
    error: float

    def block(self, rows: slice, columns: slice, rho: Tensor) -> Pair:
        q1, q2 = self.q1[rows], self.q2[columns]
        found = self._normalised(q1, q2, rho)
        parallel = rho == 1
        if parallel.any():  # where u = v, ĥ is 1, known without the series
            found[:, parallel & (q1[:, None] == q2)] = 1.0
        for k in (0, 1):
            found[k] *= self.squares[0][k][rows].sqrt()[:, None]
            found[k] *= self.squares[1][k][columns].sqrt()
        zero = (q1 == 0)[:, None] | (q2 == 0)
        if zero.any():  # a variance of 0 makes u = 0, and E[σ(0)σ(v)] = σ(0) E[σ(v)]
            for k in (0, 1):
                found[k][zero] = (self.means[0][k][rows][:, None] * self.means[1][k][columns])[zero]
        return found[0], found[1]

    def _normalised(self, q1: Tensor, q2: Tensor, rho: Tensor) -> Tensor:
        if self.series is not None:
            safe1, safe2 = (torch.where(q > 0, q, math.exp(self.series.low)) for q in (q1, q2))
            return self.series.rows(self.series.in_variance(safe1), self.series.in_variance(safe2), rho)
        first, second = q1[:, None].expand_as(rho), q2.expand_as(rho)
        return torch.stack(
            _direct(self.sigma, first.flatten(), second.flatten(), rho.acos().flatten(), self.level)
        ).view(2, *rho.shape)


def numerical_dual(sigma: Activation, q1: Tensor, q2: Tensor) -> NumericalDual:
    """The dual of σ on these variances, with its error measured. Raises UserError where it exceeds 1e-10 (σ smooth) or
    1e-9 (with kinks), relative to sqrt(E[σ(u)²] E[σ(v)²])."""
    device = q1.device
    variances, where = torch.unique(torch.cat([q1, q2]).cpu(), return_inverse=True)
    means, squares = quadrature.moments(sigma, variances)
    positive = variances[variances > 0]
    few = len(q1) * len(q2) <= FEW_PAIRS
    series, level, error = _measured(sigma, positive, few) if len(positive) else (None, 0, 0.0)
    limit = KINKED if sigma.kinks else SMOOTH
    if not error <= limit:
        raise UserError(
            f"the infinite-width kernel of {sigma.name} cannot be computed to {limit:g}: the error is estimated at "
            f"{error:.0e} for variances {float(variances[0]):.3g} to {float(variances[-1]):.3g}; if {sigma.name} has "
            "kinks, register it with all of them"
        )
    if series is not None:
        series = Series(series.coefficients.to(device), series.low, series.high)

    def sides(pair: Pair) -> tuple[Pair, Pair]:
        spread = [part[where].to(device) for part in pair]
        return (spread[0][: len(q1)], spread[1][: len(q1)]), (spread[0][len(q1) :], spread[1][len(q1) :])

    return NumericalDual(sigma, q1, q2, sides(means), sides(squares), series, level, error)


def _measured(sigma: Activation, q: Tensor, few: bool) -> tuple[Series | None, int, float]:
    """The series on these variances, unless the pairs are few or it does not converge; the level of `panels` that is
    used without one; the error of what is used."""
    triples = _places(q)
    series = None if few else _series(sigma, q)
    if series is not None:
        q1, q2, theta = triples
        # On the diagonal of all the pairs stand the triples.
        found = series.rows(series.in_variance(q1), series.in_variance(q2), theta.cos().expand(CHECKS, -1))
        # Panels made the series of kinks elsewhere, so finer ones must check it.
        exact = torch.stack(_direct(sigma, *triples, 0 if _scale_free(sigma) else 1))
        error = max(float((found.diagonal(dim1=1, dim2=2) - exact).abs().max()), _line_error(sigma, q))
        if error <= SMOOTH:
            return series, 0, error
    now = torch.stack(_direct(sigma, *triples, COARSEST))
    for level in range(COARSEST, 1):
        after = torch.stack(_direct(sigma, *triples, level + 1))
        change, now = float((after - now).abs().max()), after
        if change <= ENOUGH:
            break
    return None, level, max(change, _line_error(sigma, q))


def _places(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CHECKS triples of two of the variances and an angle; half of the angles near 0, where a steep σ has its layer."""
    draw = np.random.default_rng(0)
    q1, q2 = (q[torch.from_numpy(draw.integers(len(q), size=CHECKS))] for _ in range(2))
    unit = draw.random(CHECKS)
    return q1, q2, torch.from_numpy(math.pi * np.where(np.arange(CHECKS) % 2, unit, unit**3 / 2))


def _line_error(sigma: Activation, q: Tensor) -> float:
    """How much more nodes change the moments of the extreme variances, relative."""
    few, more = (torch.stack(quadrature.moments(sigma, q[[0, -1]], count)[1]) for count in (48, 72))
    return float(_quotient(few - more, more).abs().max())


def _direct(sigma: Activation, q1: Tensor, q2: Tensor, theta: Tensor, level: int) -> Pair:
    """ĥ of σ and σ' by a quadrature for each triple (B,)."""
    device = q1.device
    q1, q2, theta = q1.cpu(), q2.cpu(), theta.cpu()
    found = quadrature.panels(sigma, q1, q2, theta, level)
    norms = zip(quadrature.moments(sigma, q1)[1], quadrature.moments(sigma, q2)[1], strict=True)
    values, slopes = (_quotient(part, (a * b).sqrt()).to(device) for part, (a, b) in zip(found, norms, strict=True))
    return values, slopes


def _series(sigma: Activation, q: Tensor) -> Series | None:
    """The Chebyshev series of ĥ, as long as it needs; None where it would be too long."""
    low, high = float(q[0].log()), float(q[-1].log())
    one_norm = high - low < ONE_NORM
    if not (_scale_free(sigma) or one_norm):
        return None
    variances = 1 if high - low < 1e-14 else 2 if one_norm else _terms_in_variance(high - low)
    level = _level(sigma, q[[0, -1]])
    angles = None if level is None else _angles(sigma, low, high, level)
    while level is not None and angles is not None and variances <= MOST_VARIANCES:
        coefficients = _coefficients(sigma, low, high, angles, variances, level)
        if variances <= 2 or coefficients[:, :, -1].abs().max() <= CONVERGED:
            return Series(_trimmed(coefficients), low, high)
        variances = variances * 3 // 2
    return None


def _scale_free(sigma: Activation) -> bool:
    """Whether the only kink, if any, is at 0, where it stays at every variance."""
    return set(sigma.kinks) <= {0.0}


def _angles(sigma: Activation, low: float, high: float, level: int) -> int | None:
    """How many angles the series takes at the extreme variances; None where MOST_ANGLES are too few."""
    angles = 48
    while angles <= MOST_ANGLES:
        tail = _coefficients(sigma, low, high, angles, 2, level)[:, -angles // 12 :]
        if tail.abs().max() <= CONVERGED:
            return angles
        angles *= 2
    return None


def _terms_in_variance(span: float) -> int:
    """Enough for a function analytic where |Im log q| < π, as σ(√q z) is for the usual σ: Bernstein's ellipse."""
    height = 2 * math.pi / span
    return 3 + math.ceil(33 / math.log(height + math.sqrt(1 + height * height)))


def _level(sigma: Activation, q: Tensor) -> int | None:
    """How finely `_table` must integrate at these variances: 0 where Mehler's series does, else the first level of
    `sectors` that the next one confirms; None if none does, as where σ has a kink that is not listed."""
    theta = torch.tensor([0.02, 0.5, 1.6, 3.0], dtype=torch.float64)
    if not _scale_free(sigma) or (not sigma.kinks and quadrature.mehler(sigma, q, theta, CONVERGED)):
        return 0
    norms = _norms(sigma, q)
    tables = (_normalised(quadrature.sectors(sigma, q, theta, level), norms) for level in range(1, MOST_LEVELS + 1))
    for level, (now, after) in enumerate(itertools.pairwise(tables), start=1):
        if (after - now).abs().max() <= CONVERGED:
            return level
    return None


def _table(sigma: Activation, q: Tensor, theta: Tensor, level: int) -> Iterable[Pair]:
    """E[σ(u)σ(v)] and E[σ'(u)σ'(v)] over all pairs of q, for each angle in turn, by the cheapest rule that holds."""
    if not _scale_free(sigma):
        index = torch.meshgrid(*(torch.arange(len(part)) for part in (theta, q, q)), indexing="ij")
        j, a, b = (part.flatten() for part in index)
        pair = quadrature.panels(sigma, q[a], q[b], theta[j], level)
        return zip(*(part.view(index[0].shape) for part in pair), strict=True)
    found = quadrature.mehler(sigma, q, theta, CONVERGED) if level == 0 else None
    return found or quadrature.sectors(sigma, q, theta, max(level, 1))


def _normalised(found: Iterable[Pair], norms: Tensor) -> Tensor:
    """ĥ of a table, (2, J, Q, Q)."""
    return _quotient(torch.stack([torch.stack(pair) for pair in found], dim=1), norms[:, None])


def _norms(sigma: Activation, q: Tensor) -> Tensor:
    """sqrt(E[σ(u)²] E[σ(v)²]), and of σ', for all pairs: (2, Q, Q)."""
    return torch.stack([(s[:, None] * s).sqrt() for s in quadrature.moments(sigma, q)[1]])


def _coefficients(sigma: Activation, low: float, high: float, angles: int, variances: int, level: int) -> Tensor:
    """(2, angles, variances, variances), from ĥ at Chebyshev's points of all three."""
    theta = (_points(angles) + 1) * (math.pi / 2)
    q = (low + (high - low) * (_points(variances) + 1) / 2).exp()
    found = _table(sigma, q, theta, level)
    along, across = _transform(angles), _transform(variances)
    return torch.einsum("kj,cjab,ma,nb->ckmn", along, _normalised(found, _norms(sigma, q)), across, across)


def _points(count: int) -> Tensor:
    """Chebyshev's extreme points, cos(πj/(count-1)), both ends among them."""
    return torch.cos(math.pi * torch.arange(count, dtype=torch.float64) / max(count - 1, 1))


def _transform(count: int) -> Tensor:
    """The matrix from values at `_points` to Chebyshev coefficients."""
    if count == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    ends = torch.ones(count, dtype=torch.float64)
    ends[0] = ends[-1] = 0.5
    j = torch.arange(count, dtype=torch.float64)
    return 2 / (count - 1) * ends[:, None] * torch.cos(math.pi / (count - 1) * j[:, None] * j) * ends


def _trimmed(coefficients: Tensor) -> Tensor:
    """Without the high degrees in which every coefficient is negligible; other negligible terms are exactly 0."""
    large = coefficients.abs() > NEGLIGIBLE
    coefficients = coefficients * large.any(dim=3, keepdim=True).any(dim=2, keepdim=True)
    angles = 1 + int(large.any(dim=3).any(dim=2).any(dim=0).nonzero().amax())
    variances = 1 + int(max(large.nonzero()[:, axis].amax() for axis in (2, 3)))
    return coefficients[:, :angles, :variances, :variances].contiguous()


def _chebyshev(t: Tensor, count: int) -> Tensor:
    """T_0..T_{count-1} at t (Q,): (Q, count)."""
    return torch.cos(t.clamp(-1, 1).acos()[:, None] * torch.arange(count, dtype=t.dtype, device=t.device))


def _scaled(t: Tensor, low: float, high: float) -> Tensor:
    return torch.zeros_like(t) if high == low else 2 * (t - low) / (high - low) - 1


def _quotient(part: Tensor, norm: Tensor) -> Tensor:
    """part/norm, and 0 where σ or σ' vanishes altogether."""
    return torch.where(norm > 0, part / norm, 0.0)
