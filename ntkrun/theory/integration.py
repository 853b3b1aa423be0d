"""Training with a frozen kernel under any loss: the dynamics of the outputs, by a solver or step by step.

    dF(x)/dt = -(1/N) Σ_i K(x, x_i) ∂ℓ_i/∂F(x_i)

With c(t) = ∫ ∂ℓ/∂F dt on the training inputs, F_t(X) = F_0(X) - K̂ c and F_t(x) = F_0(x) - K(x,X)/N c. Gradient flow is
therefore solved for c alone, in the modes of K̂, which separate fast from slow and allow one tolerance per mode.
Gradient descent is computed step by step. For squared error dynamics.frozen gives the same in closed form.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ntkrun.errors import UserError
from ntkrun.theory.dynamics import KernelProblem, Prediction, Spectrum, cross_modes, kernel_problem, spectrum, times_of
from ntkrun.theory.losses import LOSSES, Loss
from ntkrun.theory.rules import Descent, Flow, Rule

SAFETY = 0.05  # the solver bounds the error of one step; the total error is about ten times larger


def frozen_any_loss(
    loss: str,
    kernel: Tensor,
    y: Tensor,
    start: Tensor,
    times: Sequence[float],
    rule: Rule | None = None,
    cross: Tensor | None = None,
    test_start: Tensor | None = None,
    tolerance: float = 1e-9,
) -> Prediction:
    """Return outputs and loss under a frozen kernel, with arguments and result as in `frozen`, for any loss: "squared",
    "cross_entropy", "logistic" or "huber".

        dF(x)/dt = -(1/N) Σ_i K(x, x_i) ∂ℓ_i/∂F(x_i)

    Gradient flow is computed by an implicit solver with error control (LSODA; `tolerance` on outputs), descent step by
    step. Times are finite, since outputs grow without bound under cross_entropy and logistic. Raises UserError as
    `frozen` does, for an unknown loss, targets that do not suit it, an infinite time, and where the solver fails.

    >>> import math, ntkrun, torch
    >>> one = torch.ones(1, 1, dtype=torch.float64)  # one input with K = 1 and target 1: F + e^F = 1 + t
    >>> seen = ntkrun.frozen_any_loss("logistic", kernel=one, y=one, start=0 * one, times=[math.e, 1 + math.e**2])
    >>> print(*(f"{F:.6f}" for F in seen.train.flatten()))
    1.000000 2.000000
    """
    if loss not in LOSSES:
        raise UserError(f"loss {loss!r}: choose {', '.join(LOSSES)}")
    ell, problem, time_points = LOSSES[loss], kernel_problem(kernel, y, start, cross, test_start), times_of(times, y)
    if not time_points.isfinite().all():
        raise UserError(f"times must be finite for the loss {loss}; only squared error has its limit in closed form")
    if objection := ell.objection(problem.folded(problem.y).cpu().numpy()):
        raise UserError(objection)
    order = torch.argsort(time_points)
    if isinstance(rule, Descent):
        outputs = _descent_outputs(ell, problem, rule, [int(rule.steps(float(t))) for t in time_points[order]])
    elif rule is None or isinstance(rule, Flow):
        outputs = _flow_outputs(ell, problem, time_points[order], tolerance)
    else:
        raise UserError(f"the rule {rule} is neither Flow nor Descent")
    if not all(part.isfinite().all() for part in outputs):
        raise UserError("this descent overflows float64 before the last time; use a smaller step size")
    train, *test = (problem.folded(part[torch.argsort(order)]) for part in outputs)
    return Prediction(time_points, train, test[0] if test else None, ell(train, problem.folded(problem.y)))


def _descent_outputs(loss: Loss, problem: KernelProblem, rule: Descent, steps: list[int]) -> list[Tensor]:
    """Return the training outputs, and the test outputs if there are any, after each of these numbers of steps
    (ascending), by the recursion for the outputs."""
    y, recorded = problem.folded(problem.y), []
    kernels = [part / problem.inputs for part in (problem.kernel, problem.cross) if part is not None]
    outputs = [part for part in (problem.start, problem.test_start) if part is not None]
    velocity = [torch.zeros_like(part) for part in outputs]
    step = 0
    for count in steps:
        while step < count:
            gradient = loss.gradient(problem.folded(outputs[0]), y).reshape(problem.y.shape)
            velocity = [
                rule.momentum * v - rule.step_size * (k @ gradient) for v, k in zip(velocity, kernels, strict=True)
            ]
            outputs = [f + v for f, v in zip(outputs, velocity, strict=True)]
            step += 1
        recorded.append(outputs)
    return [torch.stack(part) for part in zip(*recorded, strict=True)]


def _flow_outputs(loss: Loss, problem: KernelProblem, times: Tensor, tolerance: float) -> list[Tensor]:
    """Return the training outputs, and the test outputs if there are any, at each time (ascending)."""
    modes = spectrum(problem.kernel / problem.inputs)
    c = _integrals(loss, problem, modes, times, tolerance)
    outputs = [problem.start - modes.vectors @ (modes.values[:, None] * c)]
    if problem.cross is not None and problem.test_start is not None:
        outputs.append(problem.test_start - cross_modes(problem.cross / problem.inputs, modes, to_infinity=False) @ c)
    return outputs


def _integrals(loss: Loss, problem: KernelProblem, modes: Spectrum, times: Tensor, tolerance: float) -> Tensor:
    """Return c in the modes of K̂ at each time, (T, P, C)."""
    vectors, values = modes.vectors.cpu(), modes.values.cpu()
    start, y = problem.start.cpu(), problem.folded(problem.y).cpu()
    shape = start.shape

    def outputs(flat: np.ndarray) -> Tensor:
        return problem.folded(start - vectors @ (values[:, None] * torch.from_numpy(flat).view(shape)))

    def rate(t: float, flat: np.ndarray) -> np.ndarray:
        gradient = loss.gradient(outputs(flat), y).reshape(shape)
        return np.asarray((vectors.T @ gradient).flatten())

    def jacobian(t: float, flat: np.ndarray) -> np.ndarray:
        return _jacobian(loss.curvature(outputs(flat), y), vectors, values, shape)

    if not times[-1] > 0:
        return problem.start.new_zeros(len(times), *shape)
    # An error of a/sqrt(λ λ_max) in a mode of c changes training and test outputs by at most a.
    largest = max(float(values[-1]), 1e-300)
    scale = tolerance / torch.sqrt(values.clamp(min=1e-14 * largest) * largest)
    solution = solve_ivp(
        rate,
        (0.0, float(times[-1])),
        np.zeros(start.numel()),
        method="LSODA",
        t_eval=times.cpu().numpy(),
        rtol=max(SAFETY * tolerance, 1e-13),
        atol=SAFETY * np.asarray(scale[:, None].expand(shape).flatten()),
        jac=jacobian,
    )
    if not solution.success:
        raise UserError(f"the solver of the frozen-kernel flow failed ({solution.message}); use a shorter time")
    return torch.from_numpy(solution.y.T.copy()).view(len(times), *shape).to(problem.start.device)


def _jacobian(curvature: Tensor, vectors: Tensor, values: Tensor, shape: torch.Size) -> np.ndarray:
    """Return ∂(dc/dt)/∂c = -Vᵀ ℓ'' V diag(λ) over (mode, column) pairs. The curvature couples the outputs of an
    input."""
    rows, columns = shape
    if columns == 1:  # all outputs are in one column, so ℓ'' is block diagonal over inputs
        inputs, outputs = curvature.shape[:2]
        weighted = (curvature @ vectors.view(inputs, outputs, rows)).view(rows, rows)
        return np.asarray(-(vectors.T @ weighted) * values)
    blocks = -torch.einsum("ip,iab,iq,q->paqb", vectors, curvature, vectors, values)
    return np.asarray(blocks.reshape(rows * columns, rows * columns))
