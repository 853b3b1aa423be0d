"""Training with a frozen kernel under any loss: the function-space dynamics, integrated or stepped.

    dF(x)/dt = -(1/N) Σ_i K(x, x_i) ∂ℓ_i/∂F(x_i)

With c(t) = ∫ ∂ℓ/∂F dt on the training inputs, F_t(X) = F_0(X) - K̂ c and F_t(x) = F_0(x) - K(x,X)/N c: so the flow
integrates c alone, in the modes of K̂, where the stiffness lies and each mode can have a tolerance of its own. Descent
is its recursion. For squared error dynamics.frozen gives the same in closed form.
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

SAFETY = 0.05  # the solver bounds the error of a step; over all of them it is some ten times larger


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
    """`dynamics.frozen` for the loss of that name: squared, cross_entropy, logistic or huber.

    Gradient flow by an implicit solver with error control (LSODA; `tolerance` on outputs), descent step by step. Times
    are finite: under cross_entropy and logistic outputs grow without bound. Raises UserError as `dynamics.frozen` does,
    for targets that do not suit the loss, and where the solver gives up.
    """
    if loss not in LOSSES:
        raise UserError(f"loss {loss!r}: choose {', '.join(LOSSES)}")
    chosen, problem, when = LOSSES[loss], kernel_problem(kernel, y, start, cross, test_start), times_of(times, y)
    if not when.isfinite().all():
        raise UserError(f"times must be finite for the loss {loss}; only squared error has its limit in closed form")
    if objection := chosen.objection(problem.folded(problem.y).cpu().numpy()):
        raise UserError(objection)
    order = torch.argsort(when)
    if isinstance(rule, Descent):
        found = _stepped(chosen, problem, rule, [int(rule.steps(float(t))) for t in when[order]])
    elif rule is None or isinstance(rule, Flow):
        found = _flowed(chosen, problem, when[order], tolerance)
    else:
        raise UserError(f"the rule {rule} is neither Flow nor Descent")
    if not all(part.isfinite().all() for part in found):
        raise UserError("this descent overflows float64 before the last of the times: take a smaller step size")
    train, *test = (problem.folded(part[torch.argsort(order)]) for part in found)
    return Prediction(when, train, test[0] if test else None, chosen(train, problem.folded(problem.y)))


def _stepped(loss: Loss, problem: KernelProblem, rule: Descent, steps: list[int]) -> list[Tensor]:
    """Training outputs, and test outputs if there are any, at each of these numbers of steps (ascending): the recursion
    itself, in function space."""
    y, reached = problem.folded(problem.y), []
    kernels = [part / problem.inputs for part in (problem.kernel, problem.cross) if part is not None]
    outputs = [part for part in (problem.start, problem.test_start) if part is not None]
    moves = [torch.zeros_like(part) for part in outputs]
    step = 0
    for wanted in steps:
        while step < wanted:
            gradient = loss.gradient(problem.folded(outputs[0]), y).reshape(problem.y.shape)
            moves = [rule.momentum * v - rule.step_size * (k @ gradient) for v, k in zip(moves, kernels, strict=True)]
            outputs = [f + v for f, v in zip(outputs, moves, strict=True)]
            step += 1
        reached.append(outputs)
    return [torch.stack(part) for part in zip(*reached, strict=True)]


def _flowed(loss: Loss, problem: KernelProblem, times: Tensor, tolerance: float) -> list[Tensor]:
    """Training outputs, and test outputs if there are any, at each time (ascending)."""
    modes = spectrum(problem.kernel / problem.inputs)
    c = _integrals(loss, problem, modes, times, tolerance)
    found = [problem.start - modes.vectors @ (modes.values[:, None] * c)]
    if problem.cross is not None and problem.test_start is not None:
        found.append(problem.test_start - cross_modes(problem.cross / problem.inputs, modes, to_infinity=False) @ c)
    return found


def _integrals(loss: Loss, problem: KernelProblem, modes: Spectrum, times: Tensor, tolerance: float) -> Tensor:
    """c in the modes of K̂ at each time, (T, P, C)."""
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
    # An error of a/sqrt(λ λ_max) in a mode of c moves outputs, training or test, by a at most.
    top = max(float(values[-1]), 1e-300)
    scale = tolerance / torch.sqrt(values.clamp(min=1e-14 * top) * top)
    found = solve_ivp(
        rate,
        (0.0, float(times[-1])),
        np.zeros(start.numel()),
        method="LSODA",
        t_eval=times.cpu().numpy(),
        rtol=max(SAFETY * tolerance, 1e-13),
        atol=SAFETY * np.asarray(scale[:, None].expand(shape).flatten()),
        jac=jacobian,
    )
    if not found.success:
        raise UserError(f"the solver of the frozen-kernel flow gave up ({found.message}); take a shorter time")
    return torch.from_numpy(found.y.T.copy()).view(len(times), *shape).to(problem.start.device)


def _jacobian(curvature: Tensor, vectors: Tensor, values: Tensor, shape: torch.Size) -> np.ndarray:
    """∂(dc/dt)/∂c = -Vᵀ ℓ'' V diag(λ), over (mode, column) pairs; the curvature couples the outputs of an input."""
    rows, columns = shape
    if columns == 1:  # all outputs stand in one column: ℓ'' is block diagonal over inputs
        inputs, outputs = curvature.shape[:2]
        weighted = (curvature @ vectors.view(inputs, outputs, rows)).view(rows, rows)
        return np.asarray(-(vectors.T @ weighted) * values)
    blocks = -torch.einsum("ip,iab,iq,q->paqb", vectors, curvature, vectors, values)
    return np.asarray(blocks.reshape(rows * columns, rows * columns))
