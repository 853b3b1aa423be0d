"""Measurements of a training state: numbers per run, and numbers per run and layer, mode, or input and output."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.columns import pending_columns
from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.detail_probes import (
    Directions,
    Pull,
    Start,
    detail,
    detail_start,
    directions,
    growth,
    kernel_pull,
    mode_columns,
)
from ntkrun.engine.flow_probes import flow_numbers, flow_weight_gap, linear_numbers, predicted_flow_gap
from ntkrun.engine.flows import Flows, flows
from ntkrun.engine.kernel import Gradients, aligned_kernel, as_matrix
from ntkrun.engine.network import Forward
from ntkrun.engine.output_scale import Readout
from ntkrun.engine.parametrization import Scales
from ntkrun.engine.start_probes import kernel_errors, projection, start_columns
from ntkrun.engine.training import LearningProblem, State
from ntkrun.engine.update import norm
from ntkrun.engine.uses import Affine


@dataclass(frozen=True)
class Reference:
    """The initial quantities that states are compared with: ‖p_0‖ of each parameter of S runs (S, 2L), K_0 (S, N, O, N,
    O), f_0 (S, N, O), the predictions of frozen kernels, the gradients of F_0, and the readout that turns F into f on
    the test inputs. With detail steps it also has their `start` and the modes of K_0 (None if the loss has no
    modes)."""

    norms: Tensor
    kernel: Tensor
    outputs: Tensor
    flows: Flows
    gradients: Gradients
    readout: Readout
    start: Start | None
    directions: Directions | None


@dataclass(frozen=True)
class Measurement:
    """The measurement of a probed state of S runs: `numbers` by column of steps.parquet, each (S,); `layers` by column
    of layers.parquet, each (S, L); `modes` (S, R) and `outputs` (S, A, O) by column of those tables, if they are
    stored; `kernel` K_t as (S, N, O, N, O). At a detail step `pull` is the change of the outputs that the kernel
    predicts, with momentum only at step 0. `row` holds all numbers of the tables in order, float64. Like those of the
    state, its tensors are valid until the next state. `diverged` are the positions of runs whose numbers mean
    nothing."""

    step: int
    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    modes: dict[str, Tensor]
    outputs: dict[str, Tensor]
    kernel: Tensor
    pull: Pull | None
    row: Tensor
    diverged: tuple[int, ...] = ()

    def mean(self, name: str) -> float:
        """Return the mean of a column of steps.parquet over the runs that have not diverged."""
        of_runs = self.numbers[name].cpu()
        return float(of_runs[[k not in self.diverged for k in range(len(of_runs))]].mean())

    @property
    def tables(self) -> tuple[dict[str, Tensor], ...]:
        """The columns of the tables steps, layers, modes and outputs, in this order."""
        return self.numbers, self.layers, self.modes, self.outputs


def reference(state: State, problem: LearningProblem, detailed: bool = False, clock: Laps = NO_CLOCK) -> Reference:
    """Return the reference computed from the first state; `detailed` if there are detail steps."""
    assert state.kernel is not None, "the first state is probed"
    norms = torch.stack([norm(p) for p in state.start], dim=1)
    clock.lap("probes")
    predictions = flows(state.start, problem)
    clock.lap("flows")
    readout = Readout.begin(problem.scale, problem.network, state.start, problem.x_test)
    start = detail_start(problem.network, state) if detailed else None
    modes = directions(predictions) if detailed else None
    clock.lap("detail")
    return Reference(norms, state.kernel, state.outputs, predictions, state.gradients, readout, start, modes)


def measure(
    state: State,
    ref: Reference,
    time: Tensor,
    detailed: bool = False,
    keep_outputs: bool = False,
    clock: Laps = NO_CLOCK,
) -> Measurement:
    """Return the measurement of a probed state at `time` (1,) against its reference. The expensive numbers are computed
    at detail steps and are nan at others. The kernel's eigenvalues are computed later, when the numbers are read."""
    call, problem = state.call, ref.flows.problem
    assert state.kernel is not None, "only a probed state has one"
    common = call("probes", _measure_common, state, ref)
    predicted = call("flows", _measure_predictions, ref, common.outputs, time)
    pending = dict.fromkeys(pending_columns("steps"), common.missing)  # set at detail steps, some after the step
    numbers, layers = common.numbers | predicted | pending, common.layers
    modes, stored, pull = {}, {}, None
    if detailed or keep_outputs:
        test = Gradients(common.test.uses, problem.network.output_gradients(common.test))
    if detailed:
        assert ref.start is not None, "computed if there are detail steps"
        of_layers, neuron_changes = detail(problem, state, ref.start)
        layers = layers | of_layers
        numbers["growth"] = growth(problem.network, layers)
        modes = mode_columns(ref.directions, state.outputs, problem.y) if ref.directions else {}
        if state.step == 0 or not problem.momentum:  # with momentum, later steps add what earlier ones began
            pull = kernel_pull(state, problem, common.test.outputs, test, neuron_changes)
    if keep_outputs:
        stored = output_columns(state, test, common.outputs, problem)
        numbers["flow_weight_gap"] = flow_weight_gap(state, ref.flows, ref.gradients, ref.norms, time)
        numbers["predicted_flow_rms_gap"] = predicted_flow_gap(state, ref.flows, time)
    if keep_outputs and state.step == 0:
        layers = layers | start_columns(problem, state)
        numbers |= kernel_errors(problem, state)
    columns = [column for table in (numbers, layers, modes, stored) for column in table.values()]
    if detailed or keep_outputs:
        row = joined(columns)
        clock.lap("detail")
    else:
        row = call("probes", joined, columns)
    return Measurement(state.step, numbers, layers, modes, stored, state.kernel, pull, row)


def joined(columns: Iterable[Tensor]) -> Tensor:
    """Return all numbers of the columns in one new row, float64."""
    flat = [column.double().flatten() for column in columns]
    return torch.cat(flat) if flat else torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class _Common:
    """The measurements made at every probed state: the pass of the test inputs, f on all inputs, and the numbers, nan
    for those of detail steps. `missing` is nan for each run."""

    test: Forward
    outputs: Tensor
    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    missing: Tensor


def _measure_common(state: State, ref: Reference) -> _Common:
    assert state.distances is not None, "only a probed state has them"
    assert state.kernel is not None, "only a probed state has one"
    problem = ref.flows.problem
    test = problem.network.forward(state.params, problem.x_test)
    outputs = torch.cat([state.outputs, ref.readout(test.outputs)], dim=1)
    drift = state.distances.norm(dim=1) / ref.norms.norm(dim=1)
    missing = torch.full_like(drift, torch.nan)
    numbers = {
        "loss": state.loss,
        "test_loss": problem.loss(outputs[:, len(problem.y) :], problem.y_test),
        "clipped_share": _clipped(problem, state.outputs),
        **kernel_numbers(state.kernel, ref.kernel),
        "residual_rate": _residual_rate(problem, state),
        "weight_drift": drift,
        "weight_distance": state.distances.norm(dim=1),
        "output_drift": (state.outputs - ref.outputs).square().sum(dim=2).mean(dim=1).sqrt(),
        **limit_numbers(state.kernel, problem.limit),
    }
    weights = slice(len(problem.network.layers))
    layers = {
        "weight_drift": (state.distances / ref.norms)[:, weights],
        "weight_distance": state.distances[:, weights].clone(),
    }
    layers |= dict.fromkeys(pending_columns("layers"), torch.full_like(layers["weight_drift"], torch.nan))
    return _Common(test, outputs, numbers, layers, missing)


def _measure_predictions(ref: Reference, outputs: Tensor, time: Tensor) -> dict[str, Tensor]:
    return flow_numbers(outputs, ref.flows, time) | linear_numbers(outputs, ref.flows, ref.norms.norm(dim=1))


def kernel_numbers(kernel: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Return ‖K_t - K_0‖_F, the same over ‖K_0‖_F, and ‖K_t‖_F. Sums are in float64, where no square overflows. The
    difference is taken in the kernels' own precision: it is exact where they are close."""

    def size(part: Tensor) -> Tensor:
        return torch.linalg.vector_norm(part.flatten(1), dim=1, dtype=torch.float64)

    change = size(kernel - start)
    return {"kernel_drift": change / size(start), "kernel_drift_absolute": change, "kernel_norm": size(kernel)}


def eigenvalues(kernel: Tensor) -> dict[str, Tensor]:
    """Return the extreme eigenvalues of K/N and exp(-Σ p_i log p_i), p_i = max(λ_i, 0)/Σ_j max(λ_j, 0), in float64; nan
    where K is not finite, because torch would raise there. The last is nan for K = 0 too."""
    matrix = as_matrix(kernel).double()
    finite = matrix.isfinite().flatten(1).all(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(matrix.where(finite.unsqueeze(2), 0.0)) / kernel.shape[1]
    values = values.where(finite, torch.nan)
    positive = values.clamp(min=0)
    shares = positive / positive.sum(dim=1, keepdim=True)
    rank = torch.special.entr(shares).sum(dim=1).exp()
    return {"lambda_min": values[:, 0], "lambda_max": values[:, -1], "effective_rank": rank}


def limit_numbers(kernel: Tensor, limit: Tensor | None) -> dict[str, Tensor]:
    """Return ‖K_t - K_inf‖_F/‖K_inf‖_F, with K_inf the same for each output and 0 between two outputs; the part of
    K_inf that K_t has, Σ (K_ii ∘ K_inf)/Σ K_inf², mean over outputs; and the share ‖K_ij, i≠j‖_F/‖K‖_F of K_t between
    different outputs. The first two are nan without a limit kernel, the third with one output."""
    _, n, o, *_ = kernel.shape
    full = kernel.double()
    same = full.diagonal(dim1=2, dim2=4)  # (S, N, N, O)
    missing = full.new_full(full.shape[:1], torch.nan)
    between, distance, share, part = torch.zeros_like(missing), missing, missing, missing
    if o > 1:
        between = torch.linalg.vector_norm((full - torch.diag_embed(same, dim1=2, dim2=4)).flatten(1), dim=1)
        share = between / torch.linalg.vector_norm(full.flatten(1), dim=1)
    if limit is not None:
        to_limit = torch.linalg.vector_norm((same - limit[:n, :, None]).flatten(1), dim=1)
        part = projection(same.mean(dim=3), limit[:n])
        distance = torch.hypot(to_limit, between) / (o**0.5 * torch.linalg.vector_norm(limit[:n]))
    return {"distance_to_limit": distance, "limit_projection": part, "off_diagonal": share}


def _clipped(problem: LearningProblem, outputs: Tensor) -> Tensor:
    """Return the share of inputs and outputs whose gradient the loss clips, (S,), float64; nan if it clips none."""
    threshold = problem.loss.threshold
    if threshold is None:
        return outputs.new_full(outputs.shape[:1], torch.nan, dtype=torch.float64)
    return ((outputs - problem.y).abs() > threshold).double().mean(dim=(1, 2))


def _residual_rate(problem: LearningProblem, state: State) -> Tensor:
    """Return ε·K̂_t ε/‖ε‖² for the squared loss, (S,), float64, else nan."""
    assert state.kernel is not None, "only a probed state has one"
    if problem.loss.name != "squared":
        return state.outputs.new_full(state.outputs.shape[:1], torch.nan, dtype=torch.float64)
    residual = (state.outputs.double() - problem.y.double()).flatten(1)
    pulled = (as_matrix(state.kernel).double() @ residual.unsqueeze(2)).squeeze(2) / len(problem.y)
    return (residual * pulled).sum(dim=1) / residual.square().sum(dim=1)


# ---------------------------------------------------------------- outputs


def output_columns(state: State, test: Gradients, outputs: Tensor, problem: LearningProblem) -> dict[str, Tensor]:
    """Return columns on all A inputs, training first, each (S, A, O), where `outputs` are f on these inputs:

    value         f_i(x)
    variance      Var f_i(x) over the last layer, the hidden layers given: α²(s²|a^(L-1)(x)|² + b²), s and b the factors
                  of weights and biases times their initial deviations; 0 where F_0 is subtracted. Only at the start;
                  nan later
    covariance    the covariance between x and the first input of its part, training or test, computed likewise
    kernel        K_ii(x, x)
    kernel_row    K_ii(x, x'), x' the first test input; nan without test inputs
    """
    both = [state.gradients, test]
    kernel = torch.cat([aligned_kernel(part, part) for part in both], dim=1)
    row = torch.full_like(outputs, torch.nan)
    if test.deltas[-1].shape[1]:
        row = torch.cat([aligned_kernel(part, test.part(slice(1))) for part in both], dim=1)
    variance = covariance = torch.full_like(outputs, torch.nan)
    last = [part.uses[-1] for part in both]
    if state.step == 0 and all(isinstance(use, Affine) for use in last):
        parts = [use.a for use in last if isinstance(use, Affine)]  # (S, N, n) and (S, M, n)
        squares = torch.cat([a.square().sum(dim=2) for a in parts], dim=1)
        products = torch.cat([(a * a[:, :1]).sum(dim=2) for a in parts], dim=1)
        scales = problem.network.layers[-1].scales
        variance = problem.scale.variance(_readout_covariance(scales, squares, outputs))
        covariance = problem.scale.variance(_readout_covariance(scales, products, outputs))
    return {"value": outputs, "variance": variance, "covariance": covariance, "kernel": kernel, "kernel_row": row}


def _readout_covariance(scales: Scales, products: Tensor, like: Tensor) -> Tensor:
    """Return s² a·a' + b² of the last layer, the same for every output, from a·a' (S, A)."""
    weight, bias = scales.weight * scales.weight_std, scales.bias * scales.bias_std
    return (weight**2 * products + bias**2).unsqueeze(2).expand_as(like)
