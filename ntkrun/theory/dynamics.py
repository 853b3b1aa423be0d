"""Training with a frozen kernel K on N inputs X under squared error: the outputs at any time in closed form.

With K̂ = K(X,X)/N and ε = F(X) - y, dε/dt = -K̂ε is linear. With the functions p and s of rules.py,

    F_t(X) = y + p_t(K̂) ε_0,    F_t(x) = F_0(x) - K(x,X)/N · s_t(K̂) ε_0

(Jacot, Gabriel and Hongler 2018, section 5; Lee et al. 2019, equations 8 to 11.) The spectral form needs no inverse, so
singular kernels are safe: a mode with λ = 0 keeps its residual, which contributes a loss that training cannot remove.

A kernel has shape (N, M, O, O) for a network with O outputs, or (N, M) for one output. The latter acts on each output
separately, as limit kernels do. All computations are in float64 on the device of the kernel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.rules import Descent, Flow, Rule

EPSILON = 2.3e-16  # relative rounding error of float64


@dataclass(frozen=True)
class Spectrum:
    """The decomposition K̂ = V diag(λ) Vᵀ: `values` λ (..., P), ascending, set to 0 where they are within rounding of
    0; `vectors` V (..., P, P)."""

    values: Tensor
    vectors: Tensor


def spectrum(matrix: Tensor, precision: float = EPSILON) -> Spectrum:
    """Return the eigenvalues and eigenvectors of K̂ (..., P, P). `precision` is the relative error of its entries.
    Raises UserError for a matrix that is not finite, symmetric and positive semi-definite."""
    if not matrix.isfinite().all():
        raise UserError("the kernel must consist of finite numbers")
    if (matrix - matrix.mT).abs().amax() > 100 * precision * matrix.abs().amax():
        raise UserError("the kernel on the training inputs must be symmetric")
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    rounding = 10 * matrix.shape[-1] * precision * values.abs().amax(dim=-1, keepdim=True)
    if (values < -rounding).any():
        raise UserError(f"the kernel has the eigenvalue {float(values.min()):.3g}: it must be positive semi-definite")
    return Spectrum(torch.where(values <= rounding, 0.0, values), vectors)


@dataclass(frozen=True)
class Prediction:
    """Predictions of a frozen kernel at `times` (T,): outputs on the training inputs, `train` (T, N, O), and on the
    test inputs, `test` (T, M, O) or None, and the training `loss` (T,)."""

    times: Tensor
    train: Tensor
    test: Tensor | None
    loss: Tensor


@dataclass(frozen=True)
class KernelProblem:
    """Frozen-kernel training as matrices: K on the training inputs and from test to training inputs, targets and
    initial outputs. These have one column per output if the kernel has one output, else a single column with all."""

    kernel: Tensor  # (P, P)
    cross: Tensor | None  # (Q, P)
    y: Tensor  # (P, C)
    start: Tensor  # (P, C)
    test_start: Tensor | None  # (Q, C)
    inputs: int  # N
    outputs: int  # O

    def folded(self, columns: Tensor) -> Tensor:
        """Reshape (..., rows, C) to (..., inputs, O)."""
        return columns.reshape(*columns.shape[:-2], -1, self.outputs)


def frozen(
    kernel: Tensor,
    y: Tensor,
    start: Tensor,
    times: Sequence[float],
    rule: Rule | None = None,
    cross: Tensor | None = None,
    test_start: Tensor | None = None,
) -> Prediction:
    """Return outputs and loss under a frozen kernel and squared error, at `times` (T,), where math.inf is the limit,
    and by `rule`, gradient flow by default.

        F_t(X) = y + p_t(K̂) (F_0(X) - y),   F_t(x) = F_0(x) - K(x,X)/N · s_t(K̂) (F_0(X) - y),   K̂ = K(X,X)/N

    with the factors p and s of the rule, for gradient flow e^{-λt} and (1 - e^{-λt})/λ (Jacot, Gabriel and Hongler
    2018, section 5; Lee et al. 2019, equations 8 to 11).

    `kernel` is K(X,X), (N, N) for all outputs alike or (N, N, O, O); y (N, O) are the targets, `start` is F_0(X) (N,
    O); `cross` is K(x,X) from M test inputs, (M, N) or (M, N, O, O), and `test_start` F_0(x) (M, O). Any positive
    semi-definite kernel is accepted, such as K_0 of a network or its limit. The result has the `times` (T,), the
    outputs `train` (T, N, O) and `test` (T, M, O), None without test inputs, and the training `loss` (T,), ½|F - y|²
    averaged over inputs, all in float64. The limit loss is not zero where the kernel is singular and the residual has a
    part in its null space (see `null_residual`). Raises UserError for shapes that do not fit, numbers that are not
    finite, a matrix that is not a kernel, and a descent that overflows or has no limit.

    >>> import math, ntkrun, torch
    >>> K = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # K/N has the eigenvalues 2 and 1
    >>> y = torch.ones(2, 1, dtype=torch.float64)
    >>> seen = ntkrun.frozen(K, y, start=torch.zeros_like(y), times=[1.0, math.inf])
    >>> seen.train[:, :, 0]  # 1 - e^{-2t} and 1 - e^{-t}
    tensor([[0.8647, 0.6321],
            [1.0000, 1.0000]], dtype=torch.float64)
    """
    problem, time_points = kernel_problem(kernel, y, start, cross, test_start), times_of(times, y)
    modes = spectrum(problem.kernel / problem.inputs)
    remaining, driven = (rule or Flow()).factors(modes.values, time_points)  # (T, P)
    amplitude = modes.vectors.T @ (problem.start - problem.y)  # (P, C)
    residual = torch.einsum("ip,tp,pc->tic", modes.vectors, remaining, amplitude)
    test = None
    if problem.cross is not None and problem.test_start is not None:
        cross_in_modes = cross_modes(problem.cross / problem.inputs, modes, math.inf in times)
        test = problem.test_start - torch.einsum("qp,tp,pc->tqc", cross_in_modes, driven, amplitude)
    if not residual.isfinite().all() or not (test is None or test.isfinite().all()):
        raise UserError("this descent overflows float64 before the last time; use a step size below 2(1+μ)/λ_max")
    loss = problem.folded(residual).square().sum(dim=(1, 2)) / (2 * problem.inputs)
    test_outputs = None if test is None else problem.folded(test)
    return Prediction(time_points, problem.folded(problem.y + residual), test_outputs, loss)


def null_residual(kernel: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Return the part of F_0(X) - y in the null space of K(X,X), (N, O), which training never removes. Arguments are as
    in `frozen`. Half its squared size, averaged over inputs, is the limit loss. It is zero for a non-singular K;
    conflicting targets of repeated inputs contribute to it. Raises UserError for shapes that do not fit, numbers that
    are not finite and a matrix that is not a kernel.

    >>> import ntkrun, torch
    >>> K = torch.ones(2, 2, dtype=torch.float64)  # the same input twice
    >>> y = torch.tensor([[3.0], [1.0]], dtype=torch.float64)  # with different targets
    >>> ntkrun.null_residual(K, y, start=torch.zeros_like(y))  # the network learns their mean, 2
    tensor([[-1.0000],
            [ 1.0000]], dtype=torch.float64)
    """
    problem = kernel_problem(kernel, y, start, None, None)
    modes = spectrum(problem.kernel / problem.inputs)
    null = modes.vectors[:, modes.values == 0]
    return problem.folded(null @ (null.T @ (problem.start - problem.y)))


def kernel_regression(kernel: Tensor, cross: Tensor, y: Tensor) -> Tensor:
    """Return K(x,X) K(X,X)⁺ y, (M, O): the limit of training from F_0 = 0 on test inputs. Arguments are as in `frozen`.
    If K is singular, the pseudo-inverse selects the solution of smallest norm. Raises UserError as `frozen` does.

    >>> import ntkrun, torch
    >>> X, x = torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0]])
    >>> ntkrun.kernel_regression(kernel=X @ X.T, cross=x @ X.T, y=3 * X)  # a linear kernel continues y = 3x
    tensor([[15.0000]], dtype=torch.float64)
    """
    shape = (cross.shape[0], y.shape[1])
    test = frozen(kernel, y, torch.zeros_like(y), [math.inf], cross=cross, test_start=y.new_zeros(shape)).test
    assert test is not None
    return test[0]


def largest_stable_step(kernel: Tensor, momentum: float = 0.0) -> float:
    """Return 2(1+μ)/λ_max(K̂), where K̂ = K(X,X)/N for a kernel (N, N) or (N, N, O, O) and μ is the momentum. Descent
    on squared error under this frozen kernel converges for smaller steps and diverges for larger ones.
    Raises UserError where the kernel vanishes or is not one.

    >>> import ntkrun, torch
    >>> K = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # K/N has the eigenvalues 2 and 1
    >>> print(f"{ntkrun.largest_stable_step(K):.3f}, with momentum {ntkrun.largest_stable_step(K, momentum=0.9):.3f}")
    1.000, with momentum 1.900
    """
    return 2 * (1 + Descent(1.0, momentum).momentum) / _extremes(kernel)[1]


def fastest_step(kernel: Tensor, momentum: float = 0.0) -> float:
    """Return 2(1+μ)/(λ_max + λ_min) of K̂ = K(X,X)/N, the step size at which the slowest mode decays fastest for a
    momentum μ: |1-ηλ| is equal at both ends without momentum (Polyak 1964). λ_min is the smallest non-zero eigenvalue,
    since null modes never move. Raises UserError where the kernel vanishes or is not one.

    >>> import ntkrun, torch
    >>> K = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # K/N has the eigenvalues 2 and 1
    >>> step = ntkrun.fastest_step(K)
    >>> print(f"{step:.3f}: each step leaves {abs(1 - 2 * step):.3f} and {abs(1 - step):.3f} of the two modes")
    0.667: each step leaves 0.333 and 0.333 of the two modes
    """
    smallest, largest = _extremes(kernel)
    return 2 * (1 + Descent(1.0, momentum).momentum) / (smallest + largest)


def mode_slopes(kernel: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues λ_i of K̂ = K(X,X)/N, ascending, and the slopes of log|ε_i| per unit of time that `rule`
    predicts, ε_i the residual F(X) - y along mode i: -λ_i under gradient flow, log|1-ηλ_i|/η under descent. Both are
    (N,), or (N·O,) for a kernel (N, N, O, O). Raises UserError for a matrix that is not a kernel.

    >>> import ntkrun, torch
    >>> K = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> values, flow = ntkrun.mode_slopes(K, ntkrun.Flow())
    >>> descent = ntkrun.mode_slopes(K, ntkrun.Descent(step_size=0.25))[1]
    >>> for numbers in zip(values, flow, descent):  # at this step size descent is faster than the flow
    ...     print(*(f"{number:.3f}" for number in numbers))
    1.000 -1.000 -1.151
    2.000 -2.000 -2.773
    """
    values = spectrum(as_matrix(kernel) / kernel.shape[0]).values
    return values, rule.slopes(values)


def as_matrix(kernel: Tensor) -> Tensor:
    """Return the kernel as a float64 matrix: (N, M) unchanged, (N, M, O, O) as (N·O, M·O)."""
    if kernel.ndim == 4:
        n, m, o, p = kernel.shape
        kernel = kernel.permute(0, 2, 1, 3).reshape(n * o, m * p)
    return kernel.double()


def kernel_problem(
    kernel: Tensor, y: Tensor, start: Tensor, cross: Tensor | None, test_start: Tensor | None
) -> KernelProblem:
    """Return a problem as matrices. Raises UserError for shapes that do not fit and numbers that are not finite."""
    if y.ndim != 2 or 0 in y.shape:
        raise UserError(f"targets of shape {tuple(y.shape)}; they must be (N, O), one row per input")
    (count, outputs), per_output = y.shape, kernel.ndim == 2
    tail = () if per_output else (outputs, outputs)
    if kernel.shape != (count, count, *tail):
        raise UserError(f"a kernel of shape {tuple(kernel.shape)} for targets {(count, outputs)}; it must be "
                        f"{(count, count)} or {(count, count, outputs, outputs)}")  # fmt: skip
    if start.shape != y.shape:
        raise UserError(f"initial outputs of shape {tuple(start.shape)} for targets of shape {tuple(y.shape)}")
    if (cross is None) != (test_start is None):
        raise UserError("test outputs need both `cross`, the kernel from test to training inputs, and `test_start`")
    if cross is not None and test_start is not None:
        cross_shape = (len(test_start), count, *tail)
        if test_start.shape != (len(test_start), outputs) or cross.shape != cross_shape:
            raise UserError(
                f"a test kernel of shape {tuple(cross.shape)} and test outputs {tuple(test_start.shape)}; they must be "
                f"(M, {count}{''.join(f', {o}' for o in tail)}) and (M, {outputs})"
            )

    def columns(part: Tensor) -> Tensor:
        part = part.to(kernel.device, torch.float64)
        return part if per_output else part.reshape(-1, 1)

    problem = KernelProblem(
        kernel=as_matrix(kernel),
        cross=None if cross is None else as_matrix(cross).to(kernel.device),
        y=columns(y),
        start=columns(start),
        test_start=None if test_start is None else columns(test_start),
        inputs=count,
        outputs=outputs,
    )
    check_finite(*(part for part in vars(problem).values() if isinstance(part, Tensor)))
    return problem


def times_of(times: Sequence[float], like: Tensor) -> Tensor:
    """Return the times as a float64 vector on the device of `like`. Raises UserError where there are none, or one is
    negative or not a number."""
    time_points = torch.tensor([float(t) for t in times], dtype=torch.float64, device=like.device)
    if time_points.numel() == 0 or not (time_points >= 0).all():
        raise UserError("times must be a non-empty list of numbers of at least 0; math.inf is the limit")
    return time_points


def cross_modes(cross: Tensor, modes: Spectrum, to_infinity: bool) -> Tensor:
    """Return K(x,X)/N in the modes of K̂, (Q, P). For a kernel it vanishes on null modes. Rounding errors there would
    grow with time, so they are set to 0. Raises UserError at infinite time where they are larger than rounding."""
    components = cross @ modes.vectors
    null, size = modes.values == 0, torch.linalg.vector_norm(cross, dim=1, keepdim=True)
    # A positive semi-definite kernel has |K(x,X)v| ≤ sqrt(λ K(x,x)): 1e-7 of its size where λ is rounding.
    if to_infinity and (components.abs() > 1e-6 * size)[:, null].any():
        raise UserError(
            "the test kernel does not vanish where the training kernel does: together they are not positive "
            "semi-definite, and the test outputs grow without limit"
        )
    rounding = 10 * math.sqrt(cross.shape[1]) * EPSILON * size
    return torch.where(null & (components.abs() <= rounding), 0.0, components)


def _extremes(kernel: Tensor) -> tuple[float, float]:
    """Return the smallest non-zero and the largest eigenvalue of K̂."""
    values = spectrum(as_matrix(kernel) / kernel.shape[0]).values
    if not values[-1] > 0:
        raise UserError("the kernel vanishes on these inputs, so training changes nothing at any step size")
    return float(values[values > 0][0]), float(values[-1])


def check_finite(*parts: Tensor) -> None:
    """Check that every entry is a finite number. Raises UserError otherwise."""
    if not all(part.isfinite().all() for part in parts):
        raise UserError("kernels, targets and outputs must be finite numbers")


# ---------------------------------------------------------------- components


# Smallest eigenvalue, and smallest gap between eigenvalues, relative to λ_max. With a smaller eigenvalue, rounding
# spoils the function away from the training inputs; with a smaller gap, its direction. At 1e-8 the error is 1e-15/1e-8.
SMALLEST = 1e-8


def component(kernel: Tensor, number: int) -> Tensor:
    """Return f^(k) on A inputs, (A,), k = `number` from 1. With K̂ = K(X,X)/N = Σ_k λ_k u_k u_kᵀ, λ_1 ≥ λ_2 ≥ ...,
    ‖u_k‖ = 1,

        f^(k)(X) = √N u_k,      f^(k)(x) = K(x,X)/N · f^(k)(X)/λ_k       (Nyström's extension)

    so that (1/N) Σ_i f^(k)(x_i)² = 1, and a residual along it decays as e^{-λ_k t} under gradient flow (Jacot, Gabriel
    and Hongler 2018, section 5). `kernel` is K from the A inputs to the N training inputs, (A, N), float64; its first N
    rows belong to the training inputs. The sign is positive at the first training input where |f^(k)| is at least half
    its maximum. Raises UserError where λ_k is 0 or equal to another eigenvalue, since f^(k) is then undefined.
    """
    count = kernel.shape[1]
    square = kernel[:count] / count
    values, vectors = torch.linalg.eigh((square + square.mT) / 2)
    values, vectors = values.flip(0), vectors.flip(1)
    _check_component(values, number)
    u = vectors[:, number - 1]
    large = u[u.abs() >= u.abs().max() / 2]
    f_train = math.sqrt(count) * u * large[0].sign()
    return torch.cat([f_train, kernel[count:] / count @ f_train / values[number - 1]])


def _check_component(values: Tensor, number: int) -> None:
    smallest, value = SMALLEST * float(values[0]), float(values[number - 1])
    if not value > smallest:
        raise UserError(
            f"component {number} of the kernel has the eigenvalue 0 up to rounding; choose a smaller number"
        )
    for neighbour in (number - 1, number + 1):
        if 1 <= neighbour <= len(values) and abs(float(values[neighbour - 1]) - value) <= smallest:
            pair = f"{min(number, neighbour)} and {max(number, neighbour)}"
            raise UserError(f"components {pair} of the kernel have the same eigenvalue, so neither is defined uniquely")
