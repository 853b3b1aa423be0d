"""What is measured of a state of training: numbers a run, and numbers a run and layer, mode, or input and output."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ntkrun.columns import DESCENT, LAYER_DETAIL
from ntkrun.engine.clock import NO_CLOCK, Laps
from ntkrun.engine.detail import (
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
from ntkrun.engine.flows import Flows, LearningProblem, flows
from ntkrun.engine.kernel import Passes, aligned_kernel, as_matrix, layerwise_kernel
from ntkrun.engine.network import DenseNetwork, Layers, output_gradients
from ntkrun.engine.readout import OutputScale, Readout
from ntkrun.engine.training import State
from ntkrun.engine.update import norm

SPECTRUM = ("lambda_min", "lambda_max")


@dataclass(frozen=True)
class Reference:
    """What a state is measured against: ‖p_0‖ of each parameter of S runs (S, 2L), K_0 (S, N, O, N, O), f_0 (S, N, O),
    what frozen kernels predict, and what makes f of F on the test inputs; where there are detail steps, what those
    need, and the modes of K_0 (None where the loss has none)."""

    norms: Tensor
    kernel: Tensor
    outputs: Tensor
    flows: Flows
    readout: Readout
    start: Start | None
    directions: Directions | None

    def select(self, keep: list[int]) -> "Reference":
        return Reference(
            self.norms[keep],
            self.kernel[keep],
            self.outputs[keep],
            self.flows.select(keep),
            self.readout.select(keep),
            self.start and self.start.select(keep),
            self.directions and self.directions.select(keep),
        )


@dataclass(frozen=True)
class Measurement:
    """A probed state of S runs, at these `positions` of the stack: `numbers` by column of steps.parquet, each (S,);
    `layers` by column of layers.parquet, each (S, L); `modes` (S, R) and `outputs` (S, A, O) by column of those tables,
    where they are kept; `kernel` K_t as (S, N, O, N, O); and at a detail step without momentum, where the kernel would
    `pull` the outputs. `row` is all numbers of its tables one after the other, float64. Like the state's, its tensors
    are valid until the next one."""

    step: int
    positions: list[int]
    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    modes: dict[str, Tensor]
    outputs: dict[str, Tensor]
    kernel: Tensor
    pull: Pull | None
    row: Tensor

    @property
    def tables(self) -> tuple[dict[str, Tensor], ...]:
        """Of steps, layers, modes and outputs."""
        return self.numbers, self.layers, self.modes, self.outputs


def reference(
    net: DenseNetwork, state: State, problem: LearningProblem, detailed: bool = False, clock: Laps = NO_CLOCK
) -> Reference:
    """The reference that the first state of a training makes; `detailed` where there are detail steps."""
    norms = torch.stack([norm(p) for p in state.start], dim=1)
    clock.lap("probes")
    kernel = state_kernel(net, state)
    clock.lap("kernel")
    predictions = flows(net, state.start, problem)
    clock.lap("flows")
    readout = Readout.begin(problem.scale, net, state.start, problem.x_test)
    start = detail_start(net, state, kernel) if detailed else None
    along = directions(predictions) if detailed else None
    clock.lap("detail")
    return Reference(norms, kernel, state.outputs, predictions, readout, start, along)


def measure(
    net: DenseNetwork,
    state: State,
    ref: Reference,
    time: Tensor,
    detailed: bool = False,
    keep_outputs: bool = False,
    clock: Laps = NO_CLOCK,
) -> Measurement:
    """Every number of a probed state at its `time` (1,) against its reference; the dearer ones where it is a detail
    step, else nan. The kernel's eigenvalues are left to whoever reads the numbers."""
    replay, problem = state.replay, ref.flows.problem
    kernel = replay("kernel", partial(state_kernel, net, state))
    clock.lap("kernel")
    seen = replay("probes", partial(_seen, net, state, ref, kernel))
    clock.lap("probes")
    predicted = replay("predictions", partial(_predicted, ref, seen.outputs, time))
    clock.lap("flows")
    later = dict.fromkeys(("growth", *DESCENT), seen.nowhere)  # at detail steps, DESCENT when the step is taken
    numbers, layers = seen.numbers | predicted | later, seen.layers
    test_deltas = output_gradients(seen.test) if detailed or keep_outputs else []
    modes, pull = {}, None
    if detailed:
        assert ref.start is not None, "made where there are detail steps"
        layers = layers | detail(net, state, kernel, ref.start)
        numbers["growth"] = growth(layers)
        modes = mode_columns(ref.directions, state.outputs, problem.y) if ref.directions else {}
        pull = None if problem.momentum else kernel_pull(net, state, problem, kernel, seen.test, test_deltas)
    kept = output_columns(net, state, seen.test, test_deltas, seen.outputs, problem.scale) if keep_outputs else {}
    columns = [column for table in (numbers, layers, modes, kept) for column in table.values()]
    row = joined(columns) if detailed or keep_outputs else replay("row", partial(joined, columns))
    clock.lap("detail" if detailed or keep_outputs else "probes")
    return Measurement(state.step, state.positions, numbers, layers, modes, kept, kernel, pull, row)


def joined(columns: Iterable[Tensor]) -> Tensor:
    """All their numbers in one new row, float64."""
    flat = [column.double().flatten() for column in columns]
    return torch.cat(flat) if flat else torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class _Seen:
    """What every probed state tells: the pass of the test inputs, f on all inputs, and numbers, nan where they are
    those of detail steps; `nowhere` is nan for each run."""

    test: Layers
    outputs: Tensor
    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    nowhere: Tensor


def _seen(net: DenseNetwork, state: State, ref: Reference, kernel: Tensor) -> _Seen:
    assert state.distances is not None, "only a probed state has them"
    problem = ref.flows.problem
    test = net.forward(state.params, problem.x_test)
    outputs = torch.cat([state.outputs, ref.readout(test.outputs)], dim=1)
    drift = state.distances.norm(dim=1) / ref.norms.norm(dim=1)
    nowhere = torch.full_like(drift, torch.nan)
    numbers = {
        "loss": state.loss,
        "test_loss": problem.loss(outputs[:, len(problem.y) :], problem.y_test),
        **kernel_numbers(kernel, ref.kernel),
        **dict.fromkeys(SPECTRUM, nowhere),  # until the kernel is read
        "weight_drift": drift,
        "output_drift": (state.outputs - ref.outputs).square().sum(dim=2).mean(dim=1).sqrt(),
        **limit_numbers(kernel, problem.limit),
    }
    layers = {"weight_drift": (state.distances / ref.norms)[:, : net.depth]}
    layers |= dict.fromkeys(LAYER_DETAIL, torch.full_like(layers["weight_drift"], torch.nan))
    return _Seen(test, outputs, numbers, layers, nowhere)


def _predicted(ref: Reference, outputs: Tensor, time: Tensor) -> dict[str, Tensor]:
    return flow_numbers(outputs, ref.flows, time) | linear_numbers(outputs, ref.flows, ref.norms.norm(dim=1))


def state_kernel(net: DenseNetwork, state: State) -> Tensor:
    """K_t on the training inputs, (S, N, O, N, O), from the passes of the training step."""
    assert state.deltas is not None, "only a probed state has them"
    return layerwise_kernel(net, state.layers, state.deltas, state.layers, state.deltas)


def kernel_numbers(kernel: Tensor, start: Tensor) -> dict[str, Tensor]:
    """‖K_t - K_0‖_F, over ‖K_0‖_F too, and ‖K_t‖_F: summed in float64, where no square is too large either. The
    difference is taken as the kernels are: where they are close it is exact."""

    def size(part: Tensor) -> Tensor:
        return torch.linalg.vector_norm(part.flatten(1), dim=1, dtype=torch.float64)

    change = size(kernel - start)
    return {"kernel_drift": change / size(start), "kernel_drift_absolute": change, "kernel_norm": size(kernel)}


def eigenvalues(kernel: Tensor) -> dict[str, Tensor]:
    """The extreme eigenvalues of K/N, in float64 as well; nan where K is not finite, where torch would raise."""
    matrix = as_matrix(kernel).double()
    finite = matrix.isfinite().flatten(1).all(dim=1, keepdim=True)
    found = torch.linalg.eigvalsh(matrix.where(finite.unsqueeze(2), 0.0)) / kernel.shape[1]
    found = found.where(finite, torch.nan)
    return dict(zip(SPECTRUM, (found[:, 0], found[:, -1]), strict=True))


def limit_numbers(kernel: Tensor, limit: Tensor | None) -> dict[str, Tensor]:
    """‖K_t - K_inf‖_F/‖K_inf‖_F, K_inf the same for each output and 0 between two; and ‖K_ij, i≠j‖_F/‖K‖_F, what of K_t
    lies between different outputs. nan without a limit kernel, and with one output."""
    _, n, o, *_ = kernel.shape
    now = kernel.double()
    same = now.diagonal(dim1=2, dim2=4)  # (S, N, N, O)
    nowhere = now.new_full(now.shape[:1], torch.nan)
    between, distance, share = torch.zeros_like(nowhere), nowhere, nowhere
    if o > 1:
        between = torch.linalg.vector_norm((now - torch.diag_embed(same, dim1=2, dim2=4)).flatten(1), dim=1)
        share = between / torch.linalg.vector_norm(now.flatten(1), dim=1)
    if limit is not None:
        to_limit = torch.linalg.vector_norm((same - limit[:n, :, None]).flatten(1), dim=1)
        distance = torch.hypot(to_limit, between) / (o**0.5 * torch.linalg.vector_norm(limit[:n]))
    return {"distance_to_limit": distance, "off_diagonal": share}


def flow_numbers(outputs: Tensor, predictions: Flows, time: Tensor) -> dict[str, Tensor]:
    """For each prediction of flows.py: the largest distance ‖F_t(x) - prediction(x)‖ over training inputs and over test
    inputs, and the losses of the prediction itself. nan for what is not there."""
    problem, found = predictions.problem, predictions.outputs(time)
    count, numbers = len(problem.y), {}
    for name in ("linear", "flow", "limit"):
        predicted = found.get(name, torch.full_like(predictions.linear, torch.nan))
        gaps = torch.linalg.vector_norm(outputs.double() - predicted, dim=2)
        for prefix, part, y in (("", slice(count), problem.y), ("test_", slice(count, None), problem.y_test)):
            numbers[f"{prefix}{name}_gap"] = _largest(gaps[:, part])
            numbers[f"{prefix}{name}_loss"] = problem.loss(predicted[:, part], y.double())
    return numbers


def linear_numbers(outputs: Tensor, predictions: Flows, sizes: Tensor) -> dict[str, Tensor]:
    """Of the linearised network: the root mean square distance of the outputs to its own, over training inputs and over
    test inputs (nan without), and ‖W_lin - W_0‖/‖W_0‖, where `sizes` are ‖W_0‖."""
    squares = (outputs.double() - predictions.linear).square().sum(dim=2)
    count = len(predictions.problem.y)
    return {
        "linear_rms_gap": squares[:, :count].mean(dim=1).sqrt(),
        "test_linear_rms_gap": squares[:, count:].mean(dim=1).sqrt(),
        "linear_weight_drift": predictions.weight_distance() / sizes,
    }


def _largest(gaps: Tensor) -> Tensor:
    return gaps.amax(dim=1) if gaps.shape[1] else gaps.new_full(gaps.shape[:1], torch.nan)


# ---------------------------------------------------------------- outputs


def output_columns(
    net: DenseNetwork, state: State, test: Layers, test_deltas: list[Tensor], outputs: Tensor, scale: OutputScale
) -> dict[str, Tensor]:
    """On all A inputs, training first, each (S, A, O), from f there, `outputs`:

    value         f_i(x)
    variance      Var f_i(x) over the last layer, the hidden layers given: α²(s²|a^(L-1)(x)|² + b²), s and b the factors
                  of weights and biases times their initial deviations; 0 where F_0 is subtracted. At the start alone;
                  nan later
    covariance    the same between x and the first input of its part, training or test
    kernel        K_ii(x, x)
    kernel_row    K_ii(x, x'), x' the first test input; nan without test inputs
    """
    assert state.deltas is not None, "only a probed state has them"
    both = [Passes(state.layers.activations, state.deltas), Passes(test.activations, test_deltas)]
    kernel = torch.cat([aligned_kernel(net, passes, passes) for passes in both], dim=1)
    row = torch.full_like(outputs, torch.nan)
    if test.outputs.shape[1]:
        row = torch.cat([aligned_kernel(net, passes, both[1].part(slice(1))) for passes in both], dim=1)
    variance = covariance = torch.full_like(outputs, torch.nan)
    if state.step == 0:
        parts = [passes.activations[-1] for passes in both]  # (S, N, n) and (S, M, n)
        squares = torch.cat([last.square().sum(dim=2) for last in parts], dim=1)
        products = torch.cat([(last * last[:, :1]).sum(dim=2) for last in parts], dim=1)
        variance = scale.variance(_of_last_layer(net, squares, outputs))
        covariance = scale.variance(_of_last_layer(net, products, outputs))
    return {"value": outputs, "variance": variance, "covariance": covariance, "kernel": kernel, "kernel_row": row}


def _of_last_layer(net: DenseNetwork, products: Tensor, like: Tensor) -> Tensor:
    """s² a·a' + b² for every output alike, from a·a' (S, A)."""
    top = net.depth - 1
    weight, bias = net.scale(top) * net.weight_std(top), net.bias_scale(top) * net.bias_std(top)
    return (weight**2 * products + bias**2).unsqueeze(2).expand_as(like)
