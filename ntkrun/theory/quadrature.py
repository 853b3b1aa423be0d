"""Gaussian expectations of a nonlinearity by quadrature: E[σ(u)²] in one dimension, E[σ(u)σ(v)] in two dimensions.

u and v are centred Gaussians of variances q1, q2 at an angle θ: their correlation is cos θ. There are three rules in
two dimensions, which the tests compare with each other where more than one applies:

* `mehler`, for smooth σ that are not steep: E[σ(u)σ(v)] = Σ_k a_k(q1) a_k(q2) cos^k θ, a_k(q) the k-th normalised
  Hermite coefficient of z -> σ(√q z). It needs one-dimensional quadrature only, and E[σ(u)²] - Σ_k a_k² bounds the
  truncation error.
* `sectors`, for σ without kinks or with a single kink at 0: polar coordinates (r, φ) about the bisector of the two
  directions, u = √q1 r cos(φ + θ/2), v = √q2 r cos(φ - θ/2). Between the lines u = 0 and v = 0 the integrand is smooth,
  so Gauss-Legendre panels converge geometrically. The nodes do not depend on the variances: a table over Q variances
  takes Q evaluations per node instead of Q².
* `panels`, for kinks anywhere: panels in u that end at its kinks and where E[v | u] passes a kink of v; then panels in
  v, given u, that end at its kinks.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ntkrun.theory.activations import Activation

REACH = 10.0  # half-width of the integration range in standard deviations; the density there is 1e-22 of its maximum
SHRINK = 4.0  # ratio of successive panel lengths towards the transition of a steep σ
LINE_LEVEL = 6  # number of such panels in one dimension: the last ends at 10/4^6 = 0.002, at √q = 1000 an argument of 2
LINE_NODES = 48
MEHLER_TERMS = 800  # for the slope of tanh, 130 terms leave an error of 1e-13 at q = 1, and 800 terms at q = 8
CHUNK = 1 << 21  # function values in memory at a time (16 MiB)

Pair = tuple[Tensor, Tensor]  # a tensor for σ and one for σ'


def value_and_slope(sigma: Activation, z: Tensor) -> Pair:
    """Return σ(z) and σ'(z)."""
    value = sigma.function(z)
    return value, sigma.slope(z, value)


def moments(sigma: Activation, q: Tensor, count: int = LINE_NODES) -> tuple[Pair, Pair]:
    """Return (E[σ(u)], E[σ'(u)]) and (E[σ(u)²], E[σ'(u)²]) for each variance q (Q,) of u, with `count` nodes per
    panel."""
    parts = [_moments(sigma, part, count) for part in torch.split(q, max(1, CHUNK // (count * 2 * (LINE_LEVEL + 2))))]
    mean, mean_slope, square, square_slope = (torch.cat(column) for column in zip(*parts, strict=True))
    return (mean, mean_slope), (square, square_slope)


def _moments(sigma: Activation, q: Tensor, count: int) -> list[Tensor]:
    root = q.sqrt()[:, None]
    z, weight = nodes(_edges(_graded(LINE_LEVEL), _kinks(sigma) / root), count)
    pair = value_and_slope(sigma, root * z)
    weight = weight * _density(z)
    return [(part**power * weight).sum(dim=1) for power in (1, 2) for part in pair]


def mehler(sigma: Activation, q: Tensor, theta: Tensor, tolerance: float) -> list[Pair] | None:
    """Return the same table as `sectors`, by Mehler's series. Return None where the truncated series misses more than
    `tolerance` of E[σ²] or E[σ'²]."""
    z, hermite = _hermite()
    powers = theta.cos() ** torch.arange(MEHLER_TERMS)[:, None]  # (K, J)
    tables = []
    squares = moments(sigma, q)[1]
    for part, square in zip(value_and_slope(sigma, q.sqrt()[:, None] * z), squares, strict=True):
        a = part @ hermite.T  # (Q, K)
        if not ((square - a.square().sum(dim=1)).abs() <= tolerance * square).all():
            return None
        tables.append(torch.einsum("ik,jk,kt->tij", a, a, powers))
    return list(zip(*tables, strict=True))


@lru_cache(maxsize=1)
def _hermite() -> Pair:
    """Return nodes z (n,), ten per wave of the last polynomial, and the Hermite polynomials at them, (MEHLER_TERMS, n).
    The polynomials are orthonormal under the standard Gaussian and multiplied by the weights of E[·]."""
    z, weight = nodes(torch.linspace(-REACH, REACH, 81, dtype=torch.float64), 12)
    rows = [torch.ones_like(z), z]
    for k in range(1, MEHLER_TERMS - 1):
        rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return z, torch.stack(rows) * (weight * _density(z))


def sectors(sigma: Activation, q: Tensor, theta: Tensor, level: int) -> Iterator[Pair]:
    """Yield, for each angle of θ (J,), E[σ(u)σ(v)] and E[σ'(u)σ'(v)] over all pairs of variances q (Q,), (Q, Q) each.

    `level` is the number of panels towards r = 0 and towards the edges of the sectors; above 3 it also adds nodes to
    each panel. The result is exact up to rounding for a σ that is analytic on either side of 0, once the panels resolve
    its transition: tanh needs level 1 at q = 1 and level 3 at q = 1000.
    """
    count = 20 + 6 * max(0, level - 3)
    r, r_weight = nodes(_graded(level), count)
    r_weight = r_weight * r.abs() * torch.exp(-r * r / 2) / (2 * math.pi)
    unit, unit_weight = nodes(_both_ends(level), count)  # a sector is mapped to [-1, 1], symmetric
    for angle in theta.tolist():
        totals = [torch.zeros(len(q), len(q), dtype=q.dtype) for _ in range(2)]
        # The sector about the bisector, where u and v have equal signs, and the one about its normal, where they have
        # opposite signs. Mirroring φ at the middle of a sector swaps u and v (with r -> -r in the second), so one
        # evaluation suffices.
        for middle, half in ((0.0, (math.pi - angle) / 2), (math.pi / 2, angle / 2)):
            direction = torch.cos(middle + half * unit + angle / 2)[:, None] * r  # u/√q1
            weight = (half * unit_weight)[:, None] * r_weight
            pair = value_and_slope(sigma, q.sqrt()[:, None, None] * direction)
            for total, at_u in zip(totals, pair, strict=True):
                at_v = at_u.flip(1) if middle == 0.0 else at_u.flip(1, 2)
                total += (at_u * weight).flatten(1) @ at_v.flatten(1).T
        yield totals[0], totals[1]


def panels(sigma: Activation, q1: Tensor, q2: Tensor, theta: Tensor, level: int) -> Pair:
    """Return E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for each triple of q1, q2, θ, (B,) each. Kinks may be anywhere."""
    count = 8 * (level + 3)  # nodes per panel
    transitions = len(_transitions(sigma))
    rows = max(1, CHUNK // ((8 * transitions + 12) * (transitions + 9) * count * count))
    triples = zip(*(torch.split(part, rows) for part in (q1, q2, theta)), strict=True)
    parts = [_panels(sigma, a, b, angle, count) for a, b, angle in triples]
    values, slopes = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, slopes


def _panels(sigma: Activation, q1: Tensor, q2: Tensor, theta: Tensor, count: int) -> Pair:
    root1, root2, cos, sin = (part[:, None] for part in (q1.sqrt(), q2.sqrt(), theta.cos(), theta.sin()))
    transitions = _transitions(sigma)
    # u = √q1 z. The mean of v given u passes a transition k of σ at z = k/(√q2 cos θ). E[σ(v) | u] changes there over a
    # range of tan θ.
    centres, scale = transitions / (root2 * cos), (sin / cos).abs()
    bends = [centres + scale * k for k in (-8.0, -2.0, -0.5, 0.0, 0.5, 2.0, 8.0)]
    z, z_weight = nodes(_edges(_graded(5), torch.cat([transitions / root1, *bends], dim=1)), count)  # (B, n)
    # v = √q2 (z cos θ + y sin θ) passes its kinks, and 0 with a transition of a few units on either side.
    ends = torch.tensor([*sigma.kinks, -8.0, -2.0, 0.0, 2.0, 8.0], dtype=z.dtype)
    crossings = (ends / root2[:, :, None] - (z * cos)[:, :, None]) / sin[:, :, None]
    y, y_weight = nodes(_edges(_graded(1), crossings), count)  # (B, n, m)
    at_u = value_and_slope(sigma, root1 * z)
    at_v = value_and_slope(sigma, root2[:, :, None] * ((z * cos)[:, :, None] + y * sin[:, :, None]))
    inner_weight, outer_weight = y_weight * _density(y), z_weight * _density(z)
    values, slopes = (
        (f * (g * inner_weight).sum(dim=2) * outer_weight).sum(dim=1) for f, g in zip(at_u, at_v, strict=True)
    )
    return values, slopes


def nodes(edges: Tensor, count: int) -> Pair:
    """Return Gauss-Legendre nodes and weights for the panels between consecutive `edges` (..., E), (..., (E-1)·count)
    each."""
    x, w = _legendre(count)
    middle, half = (edges[..., 1:] + edges[..., :-1]) / 2, (edges[..., 1:] - edges[..., :-1]) / 2
    return (middle[..., None] + half[..., None] * x).flatten(-2), (half[..., None] * w).flatten(-2)


@lru_cache(maxsize=32)
def _legendre(count: int) -> Pair:
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(x), torch.from_numpy(w)


def _graded(level: int) -> Tensor:
    """Return panel edges from -REACH to REACH, denser towards 0: ±10, ±10/4, ..., ±10/4^level, 0."""
    sizes = REACH * SHRINK ** -torch.arange(level + 1, dtype=torch.float64)
    return torch.cat([-sizes, torch.zeros(1, dtype=torch.float64), sizes.flip(0)])


def _both_ends(level: int) -> Tensor:
    """Return panel edges from -1 to 1, denser towards both ends: ∓1, ..., ∓(1 - 1/4), 0."""
    gaps = SHRINK ** -torch.arange(level, -1, -1, dtype=torch.float64)
    half = torch.cat([torch.zeros(1, dtype=torch.float64), gaps])
    return torch.cat([half - 1, (1 - half).flip(0)[1:]])


def _edges(fixed: Tensor, points: Tensor) -> Tensor:
    """Return the fixed edges and these points (..., K), sorted. Points beyond REACH give empty panels."""
    points = points.nan_to_num(nan=REACH, posinf=REACH, neginf=-REACH).clamp(-REACH, REACH)
    return torch.cat([fixed.expand(*points.shape[:-1], -1), points], dim=-1).sort(dim=-1).values


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _kinks(sigma: Activation) -> Tensor:
    return torch.tensor(sigma.kinks, dtype=torch.float64)


def _transitions(sigma: Activation) -> Tensor:
    """Return the kinks and 0, where a σ without kinks has its transition."""
    return torch.tensor(sorted({*sigma.kinks, 0.0}), dtype=torch.float64)
