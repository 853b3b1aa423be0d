"""What is measured of a state of training: numbers a run, and numbers a run and layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.kernel import as_matrix, layerwise_kernel
from ntkrun.engine.network import DenseNetwork, Parameters
from ntkrun.engine.training import State, squared_error


@dataclass(frozen=True)
class Reference:
    """The start that drifts are measured from: W_0 of S runs, ‖w_0^(l)‖ (S, L), ‖W_0‖ (S,), K_0 (S, N, O, N, O) and F_0
    (S, N, O)."""

    params: Parameters
    weight_norms: Tensor
    total_norm: Tensor
    kernel: Tensor
    outputs: Tensor

    def select(self, keep: list[int]) -> "Reference":
        return Reference(
            self.params.select(keep),
            self.weight_norms[keep],
            self.total_norm[keep],
            self.kernel[keep],
            self.outputs[keep],
        )


@dataclass(frozen=True)
class Measurement:
    """A probed state of S runs: `numbers` by column of steps.parquet, each (S,); `layers` by column of layers.parquet,
    each (S, L); `kernel` K_t as (S, N, O, N, O)."""

    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    kernel: Tensor


def reference(net: DenseNetwork, state: State) -> Reference:
    """The reference that the first state of a training makes."""
    norms = [frobenius(p) for p in state.params]
    return Reference(
        params=state.params.clone(),
        weight_norms=torch.stack(norms[: net.depth], dim=1),
        total_norm=torch.stack(norms, dim=1).norm(dim=1),
        kernel=state_kernel(net, state),
        outputs=state.layers.outputs.detach().clone(),
    )


def measure(net: DenseNetwork, state: State, ref: Reference, test_loss: Callable[[Parameters], Tensor]) -> Measurement:
    """Every number of a probed state against its reference."""
    kernel = state_kernel(net, state)
    drifts = [frobenius(now, start) for now, start in zip(state.params, ref.params, strict=True)]
    numbers = {
        "loss": state.loss,
        "test_loss": test_loss(state.params),
        **_kernel_numbers(kernel, ref.kernel),
        "weight_drift": torch.stack(drifts, dim=1).norm(dim=1) / ref.total_norm,
        "output_drift": (state.layers.outputs.detach() - ref.outputs).square().sum(dim=2).mean(dim=1).sqrt(),
    }
    layers = {"weight_drift": torch.stack(drifts[: net.depth], dim=1) / ref.weight_norms}
    return Measurement(numbers, layers, kernel)


def state_kernel(net: DenseNetwork, state: State) -> Tensor:
    """K_t on the training inputs, (S, N, O, N, O), from the passes of the training step."""
    assert state.deltas is not None, "only a probed state has them"
    return layerwise_kernel(net, state.layers, state.deltas, state.layers, state.deltas)


def test_losses(net: DenseNetwork, x_test: Tensor, y_test: Tensor) -> Callable[[Parameters], Tensor]:
    """The loss on the test inputs, a run; nan where there are none."""
    if len(x_test) == 0:
        return lambda params: params.weights[0].new_full((len(params.weights[0]),), torch.nan)
    return lambda params: squared_error(net.apply(params, x_test), y_test)


def _kernel_numbers(kernel: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Norms and eigenvalues in float64: they cost little there, and the rounding of K itself is then the only one."""
    now, first = as_matrix(kernel).double(), as_matrix(start).double()
    change = torch.linalg.matrix_norm(now - first)
    eigenvalues = torch.linalg.eigvalsh(now) / kernel.shape[1]
    return {
        "kernel_drift": change / torch.linalg.matrix_norm(first),
        "kernel_drift_absolute": change,
        "kernel_norm": torch.linalg.matrix_norm(now),
        "lambda_min": eigenvalues[:, 0],
        "lambda_max": eigenvalues[:, -1],
    }


def frobenius(now: Tensor, start: Tensor | None = None) -> Tensor:
    """‖now - start‖_F (or ‖now‖_F) of each network of a stack, (S,), float64.

    Rows are summed in the tensor's own precision and then together in float64: a float32 sum over a whole 2048 x 2048
    matrix is off by 1e-4, over its rows by 3e-8. One network at a time keeps the temporary small (three times faster at
    that size).
    """
    differences = now if start is None else (a - b for a, b in zip(now, start, strict=True))
    return torch.stack([torch.linalg.vector_norm(d, dim=-1).double().norm() for d in differences])
