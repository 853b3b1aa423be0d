"""Training with a frozen kernel K on N inputs X under squared error: outputs at any time, in closed form.

With K̂ = K(X,X)/N and ε = F(X) - y, dε/dt = -K̂ε is linear, and in terms of the functions p and s of rules.py

    F_t(X) = y + p_t(K̂) ε_0,    F_t(x) = F_0(x) - K(x,X)/N · s_t(K̂) ε_0

(Jacot, Gabriel and Hongler 2018, section 5; Lee et al. 2019, equations 8 to 11.) The spectral form needs no inverse, so
singular kernels are safe: a mode with λ = 0 keeps its residual, which is the loss that no training removes.

Kernels are those of a network (O outputs) as (N, M, O, O), or of one output as (N, M), which then acts on each output
by itself, as limit kernels do. Everything is float64 on the device of the kernel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.rules import Descent, Flow, Rule

EPSILON = 2.3e-16  # the rounding of float64


@dataclass(frozen=True)
class Spectrum:
    """K̂ = V diag(λ) Vᵀ: `values` λ (..., P), ascending, with those at the level of rounding set to 0; `vectors` V (...,
    P, P)."""

    values: Tensor
    vectors: Tensor


def spectrum(matrix: Tensor, precision: float = EPSILON) -> Spectrum:
    """The eigenvalues and modes of K̂ (..., P, P), symmetric and positive semi-definite; `precision` is the rounding of
    its entries. Raises UserError for a matrix that is neither."""
    if not matrix.isfinite().all():
        raise UserError("the kernel must hold finite numbers")
    if (matrix - matrix.mT).abs().amax() > 100 * precision * matrix.abs().amax():
        raise UserError("the kernel on the training inputs must be symmetric")
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    noise = 10 * matrix.shape[-1] * precision * values.abs().amax(dim=-1, keepdim=True)
    if (values < -noise).any():
        raise UserError(f"the kernel has the eigenvalue {float(values.min()):.3g}: it must be positive semi-definite")
    return Spectrum(torch.where(values <= noise, 0.0, values), vectors)


@dataclass(frozen=True)
class Prediction:
    """What a frozen kernel predicts at `times` (T,): outputs on the training inputs `train` (T, N, O) and on the test
    inputs `test` (T, M, O) (None without), and the training `loss` (T,)."""

    times: Tensor
    train: Tensor
    test: Tensor | None
    loss: Tensor


@dataclass(frozen=True)
class KernelProblem:
    """Outputs to be moved by a kernel: K on the training inputs and from them to test inputs as matrices, targets and
    initial outputs as columns. One column an output where the kernel has one output, else all in one column."""

    kernel: Tensor  # (P, P)
    cross: Tensor | None  # (Q, P)
    y: Tensor  # (P, C)
    start: Tensor  # (P, C)
    test_start: Tensor | None  # (Q, C)
    inputs: int  # N
    outputs: int  # O

    def folded(self, columns: Tensor) -> Tensor:
        """(..., rows, C) as (..., inputs, O)."""
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
    """Squared error under a frozen kernel: outputs and loss at `times` (math.inf for the limit) by `rule`, gradient
    flow unless given.

    `kernel` is K(X,X), y (N, O) the targets, `start` F_0(X); `cross` K(x,X) from M test inputs, `test_start` F_0(x).
    K_0 of a network, K_inf and any other positive semi-definite kernel will do. The limit loss is not zero where the
    kernel is singular and the residual has a part in its null space (see `null_residual`). Raises UserError for shapes
    that do not fit, numbers that are not finite, a kernel that is none, and a descent that overflows or has no limit.
    """
    problem, when = kernel_problem(kernel, y, start, cross, test_start), times_of(times, y)
    modes = spectrum(problem.kernel / problem.inputs)
    left, driven = (rule or Flow()).factors(modes.values, when)  # (T, P)
    amplitude = modes.vectors.T @ (problem.start - problem.y)  # (P, C)
    residual = torch.einsum("ip,tp,pc->tic", modes.vectors, left, amplitude)
    test = None
    if problem.cross is not None and problem.test_start is not None:
        reach = cross_modes(problem.cross / problem.inputs, modes, math.inf in times)
        test = problem.test_start - torch.einsum("qp,tp,pc->tqc", reach, driven, amplitude)
    if not residual.isfinite().all() or not (test is None or test.isfinite().all()):
        raise UserError("this descent overflows float64 before the last of the times: its step size is beyond 2/λ_max")
    loss = problem.folded(residual).square().sum(dim=(1, 2)) / (2 * problem.inputs)
    return Prediction(when, problem.folded(problem.y + residual), None if test is None else problem.folded(test), loss)


def null_residual(kernel: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """The part of F_0(X) - y in the null space of K(X,X), (N, O): what no training time removes. ½ of its mean square
    over inputs is the limit loss. Zero where K is non-singular; conflicting targets of repeated inputs lie in it."""
    problem = kernel_problem(kernel, y, start, None, None)
    modes = spectrum(problem.kernel / problem.inputs)
    null = modes.vectors[:, modes.values == 0]
    return problem.folded(null @ (null.T @ (problem.start - problem.y)))


def kernel_regression(kernel: Tensor, cross: Tensor, y: Tensor) -> Tensor:
    """K(x,X) K(X,X)⁺ y, (M, O): where training from F_0 = 0 ends on test inputs. The pseudo-inverse's solution, of the
    smallest norm, where K is singular."""
    shape = (cross.shape[0], y.shape[1])
    found = frozen(kernel, y, torch.zeros_like(y), [math.inf], cross=cross, test_start=y.new_zeros(shape)).test
    assert found is not None
    return found[0]


def largest_stable_step(kernel: Tensor, momentum: float = 0.0) -> float:
    """2(1+μ)/λ_max(K̂): descent on squared error under this frozen kernel converges below it and diverges above."""
    return 2 * (1 + Descent(1.0, momentum).momentum) / _extremes(kernel)[1]


def fastest_step(kernel: Tensor, momentum: float = 0.0) -> float:
    """2(1+μ)/(λ_max + λ_min) of K̂: the step at which the slowest mode decays fastest, |1-ηλ| equal at both ends (Polyak
    1964). λ_min is the smallest eigenvalue that is not 0: null modes do not move at any step."""
    smallest, largest = _extremes(kernel)
    return 2 * (1 + Descent(1.0, momentum).momentum) / (smallest + largest)


def mode_slopes(kernel: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The eigenvalues λ_i of K̂, ascending, and the slope of log|ε_i| per unit of time that `rule` predicts for each."""
    values = spectrum(as_matrix(kernel) / kernel.shape[0]).values
    return values, rule.slopes(values)


def as_matrix(kernel: Tensor) -> Tensor:
    """(N, M) as it is, (N, M, O, O) as (N·O, M·O); float64."""
    if kernel.ndim == 4:
        n, m, o, p = kernel.shape
        kernel = kernel.permute(0, 2, 1, 3).reshape(n * o, m * p)
    return kernel.double()


def kernel_problem(
    kernel: Tensor, y: Tensor, start: Tensor, cross: Tensor | None, test_start: Tensor | None
) -> KernelProblem:
    """The pieces of a problem as columns, or a UserError that says which does not fit."""
    if y.ndim != 2 or 0 in y.shape:
        raise UserError(f"targets of shape {tuple(y.shape)}; they must be (N, O), one row an input")
    (count, outputs), per_output = y.shape, kernel.ndim == 2
    tail = () if per_output else (outputs, outputs)
    if kernel.shape != (count, count, *tail):
        raise UserError(f"a kernel of shape {tuple(kernel.shape)} for targets {(count, outputs)}; it must be "
                        f"{(count, count)} or {(count, count, outputs, outputs)}")  # fmt: skip
    if start.shape != y.shape:
        raise UserError(f"initial outputs of shape {tuple(start.shape)} for targets of shape {tuple(y.shape)}")
    if (cross is None) != (test_start is None):
        raise UserError("test outputs need both the kernel from the test to the training inputs and their start")
    if cross is not None and test_start is not None:
        wanted = (len(test_start), count, *tail)
        if test_start.shape != (len(test_start), outputs) or cross.shape != wanted:
            raise UserError(
                f"a test kernel of shape {tuple(cross.shape)} and test outputs {tuple(test_start.shape)}; they must be "
                f"(M, {count}{''.join(f', {o}' for o in tail)}) and (M, {outputs})"
            )

    def columns(part: Tensor) -> Tensor:
        part = part.to(kernel.device, torch.float64)
        return part if per_output else part.reshape(-1, 1)

    found = KernelProblem(
        kernel=as_matrix(kernel),
        cross=None if cross is None else as_matrix(cross).to(kernel.device),
        y=columns(y),
        start=columns(start),
        test_start=None if test_start is None else columns(test_start),
        inputs=count,
        outputs=outputs,
    )
    check_finite(*(part for part in vars(found).values() if isinstance(part, Tensor)))
    return found


def times_of(times: Sequence[float], like: Tensor) -> Tensor:
    """The times as a float64 vector beside `like`. Raises UserError where one is negative or not a number."""
    when = torch.tensor([float(t) for t in times], dtype=torch.float64, device=like.device)
    if when.numel() == 0 or not (when >= 0).all():
        raise UserError("times must be a list of numbers from 0 on; math.inf is the limit")
    return when


def cross_modes(cross: Tensor, modes: Spectrum, to_infinity: bool) -> Tensor:
    """K(x,X)/N in the modes of K̂, (Q, P). On null modes it vanishes for a kernel: rounding there would be driven for
    ever, so it is set to 0. Raises UserError at infinite time where it is no rounding."""
    reach = cross @ modes.vectors
    null, size = modes.values == 0, torch.linalg.vector_norm(cross, dim=1, keepdim=True)
    # A positive semi-definite kernel has |K(x,X)v| ≤ sqrt(λ K(x,x)): 1e-7 of its size where λ is rounding.
    if to_infinity and (reach.abs() > 1e-6 * size)[:, null].any():
        raise UserError(
            "the test kernel does not vanish where the training kernel does: together they are not positive "
            "semi-definite, and the test outputs grow without limit"
        )
    rounding = 10 * math.sqrt(cross.shape[1]) * EPSILON * size
    return torch.where(null & (reach.abs() <= rounding), 0.0, reach)


def _extremes(kernel: Tensor) -> tuple[float, float]:
    """The smallest non-zero and the largest eigenvalue of K̂."""
    values = spectrum(as_matrix(kernel) / kernel.shape[0]).values
    if not values[-1] > 0:
        raise UserError("the kernel vanishes on these inputs: no step moves anything")
    return float(values[values > 0][0]), float(values[-1])


def check_finite(*parts: Tensor) -> None:
    """Raises UserError unless every entry is a finite number."""
    if not all(part.isfinite().all() for part in parts):
        raise UserError("kernels, targets and outputs must be finite numbers")


# ---------------------------------------------------------------- components


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
