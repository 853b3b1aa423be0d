"""The dual of a nonlinearity without a closed form: E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for all pairs of many variances.

The tabulated function is the correlation ĥ(q1, q2, θ) = E[σ(u)σ(v)]/sqrt(E[σ(u)²] E[σ(v)²]) in the angle θ = arccos ρ,
and likewise for σ'. If σ is smooth except for a kink at 0, ĥ is analytic in (log q1, log q2, θ) up to the ends, and its
Chebyshev series converges geometrically. Few terms suffice, because the variances in a layer span a small range. (A
series in ρ would converge slowly, since a kink causes a term (1-ρ)^{3/2}.) If σ has kinks elsewhere, the series
converges when all inputs have the same norm, but not in general. Each pair is then integrated separately, which takes a
few milliseconds. The same is done for any σ when there are few pairs.

The error is measured: a series is compared with another quadrature rule at random points between its nodes, and that
rule is compared with itself at more nodes.
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

SMOOTH, KINKED = 1e-10, 1e-9  # largest accepted relative errors
NEGLIGIBLE = 3e-14  # coefficients below this are dropped; |ĥ| is at most 1
CONVERGED = 1e-13  # a last coefficient, or a change with more nodes, below this is rounding
MOST_ANGLES, MOST_VARIANCES, MOST_LEVELS = 384, 96, 7
ONE_NORM = 1e-9  # if all log q differ by less than this, the norms are equal up to rounding: a linear term suffices
COARSEST, ENOUGH = -2, 1e-12  # for single pairs: the first level of `panels` to try, and the change at which to stop
FEW_PAIRS = 16  # a series does not pay off for so few pairs
LARGEST = 1e12  # variance up to which quadratures are tried
CHECKS = 6  # number of random triples at which the error is measured


def root_of_product(q1: Tensor, q2: Tensor) -> Tensor:
    """Return sqrt(q1 q2) of numbers that are not negative, float64, which broadcast. It has the digits of
    (q1 * q2).sqrt() but neither overflows nor underflows on the way: q = m·4^k has the root sqrt(m1 m2)·2^(k1+k2)."""
    (m1, s1), (m2, s2) = _mantissa_and_root(q1), _mantissa_and_root(q2)
    return (m1 * m2).sqrt_().mul_(s1).mul_(s2)


def _mantissa_and_root(q: Tensor) -> Pair:
    """Return m and s = 2^k with q = m·s² and m in [1/2, 2), both exact."""
    exponent = torch.frexp(q).exponent.long() // 2
    scale = ((exponent + 1023) << 52).view(torch.float64)  # 2^k by its bits: powers of tensors round
    return q / scale / scale, scale


@dataclass(frozen=True)
class Series:
    """The series Σ_k Σ_ab c[:, k, a, b] T_a(t1) T_b(t2) T_k(s) for ĥ of σ and of σ', c (2, K, A, A). t is the
    logarithm of a variance, scaled from [`low`, `high`] to [-1, 1], and s = 2θ/π - 1."""

    coefficients: Tensor
    low: float
    high: float

    def in_variance(self, q: Tensor) -> Tensor:
        """Return T_a(t) for each q, (Q, A)."""
        return _chebyshev(_scaled(q.log(), self.low, self.high), self.coefficients.shape[-1])

    def rows(self, basis1: Tensor, basis2: Tensor, rho: Tensor) -> Tensor:
        """Return ĥ on a block, (2, n, M), by Clenshaw's recurrence in the angle."""
        twice = 4 / math.pi * rho.acos() - 2
        correlations = rho.new_empty(2, *rho.shape)
        columns = basis2.T.contiguous()
        for part, coefficients in zip(correlations, self.coefficients, strict=True):
            present = (coefficients != 0).flatten(1).any(dim=1).tolist()  # every other degree if σ is odd or even
            half_way = basis1 @ coefficients  # (K, n, A)
            newer = older = rho.new_zeros(rho.shape)
            for k in range(len(half_way) - 1, -1, -1):
                # The terms of degree k minus the older sum, in one product. With a single variance a term is a number.
                if not present[k]:
                    term = -older
                elif len(columns) == 1:
                    term = half_way[k] - older
                else:
                    term = torch.addmm(older, half_way[k], columns, beta=-1)
                newer, older = torch.addcmul(term, twice if k else twice / 2, newer), newer
            part.copy_(newer)
        return correlations


@dataclass(frozen=True)
class NumericalDual:
    """The dual of σ on the variances q1 (N,) and q2 (M,) of a layer; see duals.LayerDual."""

    sigma: Activation
    q1: Tensor
    q2: Tensor
    means: tuple[Pair, Pair]  # E[σ(u)], E[σ'(u)] for q1 and for q2
    squares: tuple[Pair, Pair]  # E[σ(u)²], E[σ'(u)²] for q1 and for q2
    series: Series | None
    level: int
    error: float

    def block(self, rows: slice, columns: slice, rho: Tensor) -> Pair:
        q1, q2 = self.q1[rows], self.q2[columns]
        expectations = self._correlations(q1, q2, rho)
        parallel = rho == 1
        if parallel.any():  # where u = v, ĥ is exactly 1
            expectations[:, parallel & (q1[:, None] == q2)] = 1.0
        for k in (0, 1):
            expectations[k] *= self.squares[0][k][rows].sqrt()[:, None]
            expectations[k] *= self.squares[1][k][columns].sqrt()
        zero = (q1 == 0)[:, None] | (q2 == 0)
        if zero.any():  # with variance 0, u = 0 and E[σ(0)σ(v)] = σ(0) E[σ(v)]
            for k in (0, 1):
                expectations[k][zero] = (self.means[0][k][rows][:, None] * self.means[1][k][columns])[zero]
        return expectations[0], expectations[1]

    def _correlations(self, q1: Tensor, q2: Tensor, rho: Tensor) -> Tensor:
        """Return ĥ of σ and σ' on a block, (2, n, M), from the series or by quadrature."""
        if self.series is not None:
            safe1, safe2 = (torch.where(q > 0, q, math.exp(self.series.low)) for q in (q1, q2))
            return self.series.rows(self.series.in_variance(safe1), self.series.in_variance(safe2), rho)
        first, second = q1[:, None].expand_as(rho), q2.expand_as(rho)
        return torch.stack(
            _direct(self.sigma, first.flatten(), second.flatten(), rho.acos().flatten(), self.level)
        ).view(2, *rho.shape)


def numerical_dual(sigma: Activation, q1: Tensor, q2: Tensor) -> NumericalDual:
    """Return the dual of σ on these variances, and measure its error. Raises UserError where the error exceeds 1e-10
    (smooth σ) or 1e-9 (with kinks), relative to sqrt(E[σ(u)²] E[σ(v)²])."""
    device = q1.device
    variances, index = torch.unique(torch.cat([q1, q2]).cpu(), return_inverse=True)
    if variances[-1] > LARGEST:
        raise UserError(
            f"the infinite-width kernel of {sigma.name} cannot be computed at a variance of "
            f"{float(variances[-1]):.3g}, beyond {LARGEST:g}: no node of the quadrature lies where {sigma.name} bends; "
            "use smaller inputs or a smaller weight_scale"
        )
    means, squares = quadrature.moments(sigma, variances)
    positive = variances[variances > 0]
    few = len(q1) * len(q2) <= FEW_PAIRS
    series, level, error = _series_and_error(sigma, positive, few) if len(positive) else (None, 0, 0.0)
    limit = KINKED if sigma.kinks else SMOOTH
    if not error <= limit:
        raise UserError(
            f"the infinite-width kernel of {sigma.name} cannot be computed to {limit:g}: its estimated error is "
            f"{error:.0e} for variances {float(variances[0]):.3g} to {float(variances[-1]):.3g}; if {sigma.name} has "
            "kinks, register it with all of them"
        )
    if series is not None:
        series = Series(series.coefficients.to(device), series.low, series.high)

    def split(pair: Pair) -> tuple[Pair, Pair]:
        per_input = [part[index].to(device) for part in pair]
        return (per_input[0][: len(q1)], per_input[1][: len(q1)]), (per_input[0][len(q1) :], per_input[1][len(q1) :])

    return NumericalDual(sigma, q1, q2, split(means), split(squares), series, level, error)


def _series_and_error(sigma: Activation, q: Tensor, few: bool) -> tuple[Series | None, int, float]:
    """Return the series on these variances, or None if there are few pairs or it does not converge; the level of
    `panels` to use instead of a series; and the error of the method that is used."""
    triples = _random_triples(q)
    series = None if few else _series(sigma, q)
    if series is not None:
        q1, q2, theta = triples
        # The triples are the diagonal of the table of all pairs.
        table = series.rows(series.in_variance(q1), series.in_variance(q2), theta.cos().expand(CHECKS, -1))
        # If kinks are elsewhere, the series comes from `panels`, so finer panels must check it.
        exact = torch.stack(_direct(sigma, *triples, 0 if _scale_free(sigma) else 1))
        error = max(float((table.diagonal(dim1=1, dim2=2) - exact).abs().max()), _moment_error(sigma, q))
        if error <= SMOOTH:
            return series, 0, error
    coarse = torch.stack(_direct(sigma, *triples, COARSEST))
    for level in range(COARSEST, 1):
        fine = torch.stack(_direct(sigma, *triples, level + 1))
        change, coarse = float((fine - coarse).abs().max()), fine
        if change <= ENOUGH:
            break
    return None, level, max(change, _moment_error(sigma, q))


def _random_triples(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return CHECKS triples of two of the variances and an angle. Half of the angles are near 0, where ĥ of a steep σ
    changes most."""
    random = np.random.default_rng(0)
    q1, q2 = (q[torch.from_numpy(random.integers(len(q), size=CHECKS))] for _ in range(2))
    unit = random.random(CHECKS)
    return q1, q2, torch.from_numpy(math.pi * np.where(np.arange(CHECKS) % 2, unit, unit**3 / 2))


def _moment_error(sigma: Activation, q: Tensor) -> float:
    """Return the relative change of the moments of the extreme variances with more nodes."""
    coarse, fine = (torch.stack(quadrature.moments(sigma, q[[0, -1]], count)[1]) for count in (48, 72))
    return float(_quotient(coarse - fine, fine).abs().max())


def _direct(sigma: Activation, q1: Tensor, q2: Tensor, theta: Tensor, level: int) -> Pair:
    """Return ĥ of σ and σ' for each triple (B,), by quadrature."""
    device = q1.device
    q1, q2, theta = q1.cpu(), q2.cpu(), theta.cpu()
    pair = quadrature.panels(sigma, q1, q2, theta, level)
    norms = zip(quadrature.moments(sigma, q1)[1], quadrature.moments(sigma, q2)[1], strict=True)
    values, slopes = (
        _quotient(part, root_of_product(a, b)).to(device) for part, (a, b) in zip(pair, norms, strict=True)
    )
    return values, slopes


def _series(sigma: Activation, q: Tensor) -> Series | None:
    """Return the Chebyshev series of ĥ with as many terms as it needs, or None where it would need too many."""
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
    """Return whether σ has no kink, or a single one at 0, which is then at 0 for every variance."""
    return set(sigma.kinks) <= {0.0}


def _angles(sigma: Activation, low: float, high: float, level: int) -> int | None:
    """Return the number of angles that the series needs at the extreme variances, or None if it exceeds MOST_ANGLES."""
    angles = 48
    while angles <= MOST_ANGLES:
        tail = _coefficients(sigma, low, high, angles, 2, level)[:, -angles // 12 :]
        if tail.abs().max() <= CONVERGED:
            return angles
        angles *= 2
    return None


def _terms_in_variance(span: float) -> int:
    """Return a number of terms that suffices for a function analytic where |Im log q| < π, by Bernstein's ellipse. For
    the usual σ, σ(√q z) is such a function."""
    height = 2 * math.pi / span
    return 3 + math.ceil(33 / math.log(height + math.sqrt(1 + height * height)))


def _level(sigma: Activation, q: Tensor) -> int | None:
    """Return the level at which `_table` must integrate for these variances: 0 if Mehler's series suffices, else the
    first level of `sectors` that agrees with the next one. Return None if no level does, as for an unlisted kink."""
    theta = torch.tensor([0.02, 0.5, 1.6, 3.0], dtype=torch.float64)
    if not _scale_free(sigma) or (not sigma.kinks and quadrature.mehler(sigma, q, theta, CONVERGED)):
        return 0
    norms = _norms(sigma, q)
    tables = (_normalised(quadrature.sectors(sigma, q, theta, level), norms) for level in range(1, MOST_LEVELS + 1))
    for level, (coarse, fine) in enumerate(itertools.pairwise(tables), start=1):
        if (fine - coarse).abs().max() <= CONVERGED:
            return level
    return None


def _table(sigma: Activation, q: Tensor, theta: Tensor, level: int) -> Iterable[Pair]:
    """Return E[σ(u)σ(v)] and E[σ'(u)σ'(v)] over all pairs of q, for each angle in turn, by the cheapest valid rule."""
    if not _scale_free(sigma):
        index = torch.meshgrid(*(torch.arange(len(part)) for part in (theta, q, q)), indexing="ij")
        j, a, b = (part.flatten() for part in index)
        pair = quadrature.panels(sigma, q[a], q[b], theta[j], level)
        return zip(*(part.view(index[0].shape) for part in pair), strict=True)
    series = quadrature.mehler(sigma, q, theta, CONVERGED) if level == 0 else None
    return series or quadrature.sectors(sigma, q, theta, max(level, 1))


def _normalised(table: Iterable[Pair], norms: Tensor) -> Tensor:
    """Return ĥ for a table of expectations, (2, J, Q, Q)."""
    return _quotient(torch.stack([torch.stack(pair) for pair in table], dim=1), norms[:, None])


def _norms(sigma: Activation, q: Tensor) -> Tensor:
    """Return sqrt(E[σ(u)²] E[σ(v)²]), and likewise for σ', for all pairs, (2, Q, Q)."""
    return torch.stack([root_of_product(s[:, None], s) for s in quadrature.moments(sigma, q)[1]])


def _coefficients(sigma: Activation, low: float, high: float, angles: int, variances: int, level: int) -> Tensor:
    """Return the coefficients (2, angles, variances, variances) from ĥ at the Chebyshev points in all three
    variables."""
    theta = (_points(angles) + 1) * (math.pi / 2)
    q = (low + (high - low) * (_points(variances) + 1) / 2).exp()
    values = _normalised(_table(sigma, q, theta, level), _norms(sigma, q))
    in_angle, in_variance = _transform(angles), _transform(variances)
    return torch.einsum("kj,cjab,ma,nb->ckmn", in_angle, values, in_variance, in_variance)


def _points(count: int) -> Tensor:
    """Return the Chebyshev points cos(πj/(count-1)), which include both ends."""
    return torch.cos(math.pi * torch.arange(count, dtype=torch.float64) / max(count - 1, 1))


def _transform(count: int) -> Tensor:
    """Return the matrix that maps values at `_points` to Chebyshev coefficients."""
    if count == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    ends = torch.ones(count, dtype=torch.float64)
    ends[0] = ends[-1] = 0.5
    j = torch.arange(count, dtype=torch.float64)
    return 2 / (count - 1) * ends[:, None] * torch.cos(math.pi / (count - 1) * j[:, None] * j) * ends


def _trimmed(coefficients: Tensor) -> Tensor:
    """Remove the high degrees whose coefficients are all negligible, and set other negligible terms to 0."""
    large = coefficients.abs() > NEGLIGIBLE
    coefficients = coefficients * large.any(dim=3, keepdim=True).any(dim=2, keepdim=True)
    angles = 1 + int(large.any(dim=3).any(dim=2).any(dim=0).nonzero().amax())
    variances = 1 + int(max(large.nonzero()[:, axis].amax() for axis in (2, 3)))
    return coefficients[:, :angles, :variances, :variances].contiguous()


def _chebyshev(t: Tensor, count: int) -> Tensor:
    """Return T_0..T_{count-1} at t (Q,), shape (Q, count)."""
    return torch.cos(t.clamp(-1, 1).acos()[:, None] * torch.arange(count, dtype=t.dtype, device=t.device))


def _scaled(t: Tensor, low: float, high: float) -> Tensor:
    return torch.zeros_like(t) if high == low else 2 * (t - low) / (high - low) - 1


def _quotient(part: Tensor, norm: Tensor) -> Tensor:
    """Return part/norm, and 0 where σ or σ' vanishes identically."""
    return torch.where(norm > 0, part / norm, 0.0)
