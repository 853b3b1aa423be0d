"""The infinite-width limit: the covariance of the initial outputs, and the Neural Tangent Kernel, which stays constant
during training.

    B^(1)(x,x') = σ_w² x·x'/n_0 + β²         Σ^(1)   = B^(1)                 K^(1)   = B^(1)
    B^(l+1)     = σ_w² E[σ(u)σ(v)] + β²      Σ^(l+1) = B^(l+1) + γ_l² Σ^(l)  K^(l+1) = B^(l+1) + K^(l) · Σ'^(l+1)
                                             Σ'^(l+1) = γ_l² + σ_w² E[σ'(u)σ'(v)]

with (u, v) centred Gaussian of covariance Σ^(l) on x, x', and γ_l the factor of z^(l) in z^(l+1). A dense network has
γ_l = 0 (Jacot, Gabriel and Hongler 2018, proposition 1 and theorem 1). A residual one adds γ z^(l) to what its layer
computes, B^(l+1): this is the covariance recursion of Yang and Schoenholz 2017 ("Mean field residual networks: on the
edge of chaos") and the kernel recursion of Huang et al. 2020 ("Why do deep residual networks generalize better than
deep feedforward networks? A neural tangent kernel perspective") for this place of the activations; docs/theory.md
derives it. All computations are in float64, in blocks of rows. Besides the result, temporaries take about 20 arrays of
BLOCK pairs: 20 MiB, or 2.5 GiB on a GPU, which needs larger blocks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.architecture import Architecture, Parametrization, SizedArchitecture
from ntkrun.theory.duals import LayerDual, layer_dual
from ntkrun.theory.numerical import root_of_product

BLOCK = {"cpu": 1 << 17, "cuda": 1 << 24}  # pairs per block; on a CPU an array of 1 MiB fits into a core's cache
ROUNDING = 1e-15  # a correlation this close to ±1 counts as ±1, since arccos would turn an error of 1e-16 into 1e-8

Points = Tensor | np.ndarray
Term = Callable[[int, Tensor, Tensor], Tensor]
FLOAT = torch.finfo(torch.float64)


class LimitKernels(NamedTuple):
    """Σ^(L) (`nngp`) and K^(L) (`ntk`) of one output, float64, (N, M). Different outputs are independent."""

    nngp: Tensor
    ntk: Tensor


@dataclass(frozen=True)
class LimitLayers:
    """The limit kernels of all sub-networks, whose outputs are z^(1..L): `nngp` Σ^(1..L) and `ntk` K^(1..L), (L, N, M);
    `slopes` Σ'^(2..L), the factors of K^(l) in K^(l+1), (L-1, N, M). `error` is the largest measured error of a
    numerical dual in any layer, relative to sqrt(E[σ(u)²] E[σ(v)²]); it is 0 where σ has a closed form."""

    nngp: Tensor
    slopes: Tensor
    ntk: Tensor
    error: float


def limit_kernels(
    net: Architecture, x: Points, x2: Points | None = None, parametrization: Parametrization | None = None
) -> LimitKernels:
    """Return the limit kernels of a network on inputs x (N, n_0) and x2 (M, n_0), by default x: `nngp`, the covariance
    of the initial outputs, and `ntk`, the Neural Tangent Kernel, both of one output, (N, M), in float64. Different
    outputs are independent.

        B^(1)(x,x') = σ_w² x·x'/n_0 + β²         Σ^(1)   = B^(1)         K^(1)   = B^(1)
        B^(l+1)     = σ_w² E[σ(u)σ(v)] + β²      Σ^(l+1) = B^(l+1)       K^(l+1) = B^(l+1) + K^(l) · Σ'^(l+1)
                                                 Σ'^(l+1) = σ_w² E[σ'(u)σ'(v)],    (u, v) ~ N(0, Σ^(l) on x, x')

    for a dense network (Jacot, Gabriel and Hongler 2018, proposition 1 and theorem 1). The limits of the kernel K_n of
    width n in each parametrization (by default the network's) are:

    * "ntk": Σ^(L) and K^(L) themselves;
    * "standard" (weights N(0, σ_w²/n), biases N(0, β²), no factors in the forward pass): the outputs' covariance is the
      same Σ^(L); the kernel grows like n, and lim K_n/n = Σ_{l≥2} E[σσ]^(l-1) Π_{m>l} Σ'^(m) for equal hidden widths,
      E[σσ]^(l-1) = (B^(l) - β²)/σ_w²;
    * "mean_field" (outputs divided by √n): both vanish like 1/n. lim n·K_n = K^(L) and lim n·cov = Σ^(L) hold only at
      initialisation: trained with steps of order n, this kernel changes at every width, so no limit describes it.

    All is computed in float64 on the device of x. Equal inputs have ρ = 1 exactly in every layer: a correlation within
    rounding of ±1 counts as ±1. (Nearly equal inputs lose digits, as in any computation from covariances: at relative
    distance d, slopes of a kinked σ are accurate to 1e-16/d, or to d where d is so small that the inputs count as
    equal.) Raises UserError for inputs of the wrong shape or not finite, for a σ whose dual cannot be computed to its
    tolerance, for kernels that overflow or underflow, and for a parametrization without a limit.

    >>> import ntkrun, torch
    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    >>> net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=64, activation="relu", beta=0.0)
    >>> nngp, ntk = ntkrun.limit_kernels(net, x)  # the same for every width
    >>> ntk  # K(x, x') = 1/(2π) for these orthogonal inputs
    tensor([[1.0000, 0.1592],
            [0.1592, 1.0000]], dtype=torch.float64)
    """
    return limit_kernels_with_error(net, x, x2, parametrization)[0]


def limit_kernels_with_error(
    net: Architecture, x: Points, x2: Points | None = None, parametrization: Parametrization | None = None
) -> tuple[LimitKernels, float]:
    """Return `limit_kernels` of the same arguments, and `limit_layers(...).error`, in one computation."""
    scheme = _parametrization(net, parametrization)
    if scheme == "standard" and net.depth == 1:
        raise UserError("a network without hidden layers has no width to grow: in the standard parametrization its "
                        "kernel is always x·x' + 1; use expected_kernel")  # fmt: skip
    recursion = _Recursion(net, x, x2)
    return _last(recursion, _standard_limit if scheme == "standard" else _ntk_term), recursion.error


def limit_layers(net: Architecture, x: Points, x2: Points | None = None) -> LimitLayers:
    """Return the limit kernels of z^(1), ..., z^(L), in the NTK parametrization and otherwise as `limit_kernels`.
    For a dense network they are the kernels of every depth up to its own.

    The result has `nngp`, Σ^(1..L), and `ntk`, K^(1..L), both (L, N, M); `slopes`, Σ'^(2..L), the factors of K^(l) in
    K^(l+1), (L-1, N, M); and `error`, the largest error that was measured of a numerical dual in any layer, relative to
    sqrt(E[σ(u)²] E[σ(v)²]), which is 0 where σ has a closed form.

    >>> import ntkrun, torch
    >>> x = torch.ones(1, 2, dtype=torch.float64)
    >>> net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=4, width=64, weight_scale=2**0.5, beta=0.0)
    >>> layers = ntkrun.limit_layers(net, x)
    >>> layers.nngp[:, 0, 0]  # relu with σ_w² = 2 keeps the size of the outputs,
    tensor([2.0000, 2.0000, 2.0000, 2.0000], dtype=torch.float64)
    >>> layers.ntk[:, 0, 0]  # and each layer adds it to the kernel
    tensor([2.0000, 4.0000, 6.0000, 8.0000], dtype=torch.float64)
    """
    recursion = _Recursion(net, x, x2)
    nngp, ntk = (recursion.empty(net.depth) for _ in range(2))
    slopes = recursion.empty(net.depth - 1)
    for rows, columns in recursion.blocks():
        for layer, (covariance, kernel, slope) in enumerate(recursion.layers(rows, columns, _ntk_term)):
            recursion.write(nngp[layer], rows, columns, covariance)
            recursion.write(ntk[layer], rows, columns, kernel)
            if slope is not None:
                recursion.write(slopes[layer - 1], rows, columns, slope)
    return LimitLayers(nngp, slopes, ntk, recursion.error)


def expected_kernel(
    net: SizedArchitecture, x: Points, x2: Points | None = None, parametrization: Parametrization | None = None
) -> Tensor:
    """Return the expected kernel at initialisation for this network's widths, (N, M), to leading order in 1/n, by
    default in the network's parametrization.

    * "ntk": K^(L), at every width;
    * "mean_field": K^(L)/n_{L-1};
    * "standard": Σ_l [n_{l-1} E[σσ]^(l-1) + 1] Π_{m>l} Σ'^(m), where E[σσ]^(0) = x·x'/n_0.

    The recursion is that of `limit_kernels`, and so are the other arguments and the errors.

    >>> import ntkrun, torch
    >>> x = torch.ones(1, 2, dtype=torch.float64)
    >>> for width in (10, 100):
    ...     net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=width, activation="relu", beta=0.0)
    ...     print(*(f"{float(ntkrun.expected_kernel(net, x, None, p)):.2f}" for p in ("ntk", "mean_field", "standard")))
    1.00 0.10 7.50
    1.00 0.01 52.50
    """
    scheme, recursion = _parametrization(net, parametrization), _Recursion(net, x, x2)
    if scheme == "standard":
        return _last(recursion, _standard_term(net)).ntk
    scale = net.widths[-2] if scheme == "mean_field" and net.depth > 1 else 1
    return _last(recursion, _ntk_term).ntk / scale


def relative_step_size(net: SizedArchitecture, x: Points, relative: float) -> float:
    """Return η = r / λ_max(K(x, x)/N), K the expected kernel at initialisation in the network's parametrization. For
    ntk this is K_inf, the same at every width. Gradient descent on squared error is stable for r < 2 if the kernel
    stays constant."""
    return relative_step(expected_kernel(net, x), relative)


def relative_step(kernel: Tensor, relative: float) -> float:
    """Return η = r / λ_max(K/N) for a kernel K (N, N). Raises UserError where K vanishes."""
    largest = float(torch.linalg.eigvalsh(kernel / len(kernel))[-1])
    if not largest > 0:
        raise UserError("the expected kernel vanishes on these inputs, so no step size can be relative to it")
    return relative / largest


def _parametrization(net: Architecture, requested: str | None) -> str:
    name = net.parametrization if requested is None else requested
    if name not in get_args(Parametrization):
        raise UserError(f"parametrization {name!r}: choose {', '.join(get_args(Parametrization))}")
    return name


def _ntk_term(layer: int, expectation: Tensor, branch: Tensor) -> Tensor:
    return branch


def _standard_limit(layer: int, expectation: Tensor, branch: Tensor) -> Tensor:
    """Return the layer's term of lim K_n/n, without biases. Only layers with hidden units as inputs contribute."""
    return expectation * (layer > 0)


def _standard_term(net: SizedArchitecture) -> Term:
    """Return the layers' terms at finite widths: n_l E[a a'] + 1."""
    return lambda layer, expectation, branch: net.widths[layer] * expectation + 1


def _last(recursion: "_Recursion", term: Term) -> LimitKernels:
    nngp, ntk = recursion.empty(2)
    for rows, columns in recursion.blocks():
        *_, (covariance, kernel, _) = recursion.layers(rows, columns, term)
        recursion.write(nngp, rows, columns, covariance)
        recursion.write(ntk, rows, columns, kernel)
    return LimitKernels(nngp, ntk)


class _Recursion:
    """The recursion over layers, for one block of input pairs at a time. The variances of all layers are computed
    first: they follow their own recursion, and a numerical dual is then built once for all blocks."""

    def __init__(self, net: Architecture, x: Points, x2: Points | None):
        self.net = net
        self.first = _inputs(net, x)
        self.symmetric = x2 is None
        self.second = self.first if x2 is None else _inputs(net, x2).to(self.first.device)
        self.weight, self.bias = net.weight_scale**2, net.beta**2
        q1, q2 = (self._affine(points.square().sum(dim=1) / net.inputs) for points in (self.first, self.second))
        self.sizes = [(q1, q2)]
        for points, q in ((self.first, q1), (self.second, q2)):
            self._check(1, points.abs().amax(dim=1) + net.beta, q)
        self.duals: list[LayerDual] = []
        for layer, skip in enumerate(net.skips, start=2):
            self.duals.append(layer_dual(net.activation, q1, q2))
            branches = (self._affine(square) for square, _ in self.duals[-1].squares)
            q1, q2 = (b + skip**2 * q if skip else b for b, q in zip(branches, (q1, q2), strict=True))
            for before, q in zip(self.sizes[-1], (q1, q2), strict=True):
                self._check(layer, before, q)
            self.sizes.append((q1, q2))
        self.error = max((dual.error for dual in self.duals), default=0.0)

    def _affine(self, expectation: Tensor) -> Tensor:
        return self.weight * expectation + self.bias

    def _check(self, layer: int, before: Tensor, variances: Tensor) -> None:
        """Raise UserError where float64 cannot hold the variances of this layer, or only a part of their digits. They
        vanish only where those `before` do."""
        if not (variances <= FLOAT.max / 8).all():  # the duals add up a few of them
            raise self._overflow(layer)
        if ((variances < FLOAT.tiny) & (before > 0)).any():
            raise UserError(
                f"the limit kernel of {self.net.activation} underflows float64 at layer {layer}: its variance falls "
                f"below {FLOAT.tiny:.0e}; use fewer layers, larger inputs, a larger weight_scale or beta > 0"
            )

    def _overflow(self, layer: int) -> UserError:
        return UserError(
            f"the limit kernel of {self.net.activation} overflows float64 at layer {layer}: it grows too fast; use "
            "fewer layers, smaller inputs or a smaller weight_scale"
        )

    def layers(self, rows: slice, columns: slice, term: Term) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield Σ^(l), K^(l) and Σ'^(l) (None at l = 1) for l = 1..L. `term` computes a layer's term of K from the
        expectation E[σσ] of its inputs (x·x'/n_0 at l = 1) and from B^(l) = σ_w² E[σσ] + β²."""
        values = self.first[rows] @ self.second[columns].T / self.net.inputs
        covariance = self._affine(values)
        kernel = term(0, values, covariance)
        yield covariance, kernel, None
        tolerance = 2e-16 * (4 + self.net.inputs**0.5)  # x·x' and x·x are summed in different orders
        for layer, (dual, (q1, q2), skip) in enumerate(zip(self.duals, self.sizes, self.net.skips, strict=False), 1):
            size = root_of_product(q1[rows, None], q2[columns])
            rho = _correlation(covariance, size, max(ROUNDING, tolerance if layer == 1 else 0.0))
            values, slopes = dual.block(rows, columns, rho)
            branch, slopes = self._affine(values), self.weight * slopes
            covariance = branch
            if skip:  # Σ^(l) as ρ·size, so that rounding errors of equal inputs end at each layer and never add up
                covariance, slopes = branch.addcmul(rho, size, value=skip**2), slopes.add_(skip**2)
            kernel = torch.addcmul(term(layer, values, branch), kernel, slopes)
            yield covariance, kernel, slopes
        if not kernel.isfinite().all():
            raise self._overflow(self.net.depth)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of each block. For a symmetric kernel, blocks end at the diagonal."""
        count = max(1, BLOCK[self.first.device.type] // len(self.second))
        for start in range(0, len(self.first), count):
            stop = min(start + count, len(self.first))
            yield slice(start, stop), slice(0, stop if self.symmetric else len(self.second))

    def empty(self, count: int) -> Tensor:
        return self.first.new_empty(count, len(self.first), len(self.second))

    def write(self, whole: Tensor, rows: slice, columns: slice, block: Tensor) -> None:
        """Write a block into the whole kernel. For a symmetric kernel, write its mirror image too, because the computed
        x xᵀ need not be symmetric to the last digit."""
        whole[rows, columns] = block
        if self.symmetric:
            whole[: rows.start, rows] = block[:, : rows.start].T
            diagonal = block[:, rows.start :].tril()
            whole[rows, rows] = diagonal + diagonal.tril(-1).T


def _correlation(covariance: Tensor, size: Tensor, tolerance: float) -> Tensor:
    # A zero input has no direction and contributes nothing.
    rho = torch.where(size > 0, covariance / size, 0.0).clamp_(-1, 1)
    return torch.where(1 - rho.abs() < tolerance, rho.sign(), rho)


def _inputs(net: Architecture, x: Points) -> Tensor:
    points = torch.as_tensor(np.array(x)) if isinstance(x, np.ndarray) else torch.as_tensor(x)
    if points.ndim != 2 or points.shape[1] != net.inputs or len(points) == 0:
        raise UserError(
            f"inputs of shape {tuple(points.shape)} for a network that takes (N, {net.inputs}), N at least 1"
        )
    points = points.double()
    if not points.isfinite().all():
        raise UserError("inputs must be finite numbers")
    return points
