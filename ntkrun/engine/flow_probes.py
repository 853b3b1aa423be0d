"""Distances between a training and the predictions of frozen kernels (flows.py): of its outputs, losses and weights."""

import torch
from torch import Tensor

from ntkrun.engine.flows import Flows
from ntkrun.engine.kernel import Gradients
from ntkrun.engine.training import State
from ntkrun.engine.update import norm
from ntkrun.theory.rules import Flow
from ntkrun.theory.sgd_noise import sgd_covariance


def flow_numbers(outputs: Tensor, predictions: Flows, time: Tensor) -> dict[str, Tensor]:
    """Return for each prediction of flows.py the largest distance ‖F_t(x) - prediction(x)‖ over training inputs and
    over test inputs, and the losses of the prediction itself. Missing predictions give nan."""
    problem, by_name = predictions.problem, predictions.outputs(time)
    count, numbers = len(problem.y), {}
    for name in ("linear", "flow", "limit"):
        predicted = by_name.get(name, torch.full_like(predictions.linear, torch.nan))
        gaps = torch.linalg.vector_norm(outputs.double() - predicted, dim=2)
        if name == "flow":
            numbers["flow_rms_gap"] = gaps[:, :count].square().mean(dim=1).sqrt()
        for prefix, part, y in (("", slice(count), problem.y), ("test_", slice(count, None), problem.y_test)):
            numbers[f"{prefix}{name}_gap"] = _largest(gaps[:, part])
            numbers[f"{prefix}{name}_loss"] = problem.loss(predicted[:, part], y.double())
    return numbers


def linear_numbers(outputs: Tensor, predictions: Flows, sizes: Tensor) -> dict[str, Tensor]:
    """Return numbers of the linearised network: the root mean square distance between its outputs and `outputs`, over
    training inputs and over test inputs (nan without them), and ‖W_lin - W_0‖/‖W_0‖, where `sizes` are ‖W_0‖."""
    squares = (outputs.double() - predictions.linear).square().sum(dim=2)
    count = len(predictions.problem.y)
    return {
        "linear_rms_gap": squares[:, :count].mean(dim=1).sqrt(),
        "test_linear_rms_gap": squares[:, count:].mean(dim=1).sqrt(),
        "linear_weight_drift": predictions.weight_distance() / sizes,
    }


def _largest(gaps: Tensor) -> Tensor:
    return gaps.amax(dim=1) if gaps.shape[1] else gaps.new_full(gaps.shape[:1], torch.nan)


def flow_weight_gap(state: State, predictions: Flows, first: Gradients, norms: Tensor, time: Tensor) -> Tensor:
    """Return ‖W_t - W_flow(t)‖/‖W_0‖, (S,), float64; nan where the flow with K_0 is not known. `first` are
    the gradients of F_0, `norms` ‖p_0‖ of each parameter.

    Gradient flow with a frozen kernel has the weights W_0 - (1/αN) J(X)ᵀ ∫_0^t ε ds. They are added up layer by layer,
    as an update of the first state.
    """
    modes, problem = predictions.predicted.get("flow"), predictions.problem
    if modes is None:
        return torch.full_like(norms[:, 0], torch.nan)
    if state.step == 0:
        return torch.zeros_like(norms[:, 0])
    _, driven = Flow().factors(modes.values, time)
    pushed = (modes.vectors @ (driven.mT * modes.amplitude)).view(state.outputs.shape)  # ∫ε
    c = -pushed / (len(problem.y) * problem.scale.factor)
    moved = state.params.zeros()
    for w, b, use, delta in zip(moved.weights, moved.biases, first.uses, first.deltas, strict=True):
        d = (c.to(delta.dtype).unsqueeze(2) @ delta.flatten(3)).squeeze(2).view(*c.shape[:2], *delta.shape[3:])
        use.add_update(w, b, d, 1.0)
    parts = zip(state.params, state.start, moved, strict=True)
    gaps = torch.stack([norm(p - start - change) for p, start, change in parts], dim=1)
    return gaps.norm(dim=1) / norms.norm(dim=1)


def predicted_flow_gap(state: State, predictions: Flows, time: Tensor) -> Tensor:
    """Return the root mean square distance from gradient flow that batches make until the last step, to first order in
    η, (S,), float64; nan at other steps, and where no formula holds."""
    problem = predictions.problem
    known = "flow" in predictions.predicted and problem.batch and not problem.momentum and problem.y.shape[1] == 1
    if not known or state.step < problem.steps:
        return torch.full_like(time.expand(len(problem.seeds)), torch.nan)
    assert problem.batch is not None, "known only with batches"
    n = len(problem.y)
    residuals = (predictions.start[:, :n] - problem.y.double()).flatten(1)
    variances = [
        sgd_covariance(kernel[:n], residual, problem.step_size, float(time), problem.batch).diagonal().mean()
        for kernel, residual in zip(predictions.kernel, residuals, strict=True)
    ]
    return torch.stack(variances).sqrt()
