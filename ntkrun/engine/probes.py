"""What is measured of a state of training: numbers a run, and numbers a run and layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkrun.engine.kernel import as_matrix, layerwise_kernel
from ntkrun.engine.network import DenseNetwork, Parameters
from ntkrun.engine.training import State
from ntkrun.engine.update import norm
from ntkrun.theory.losses import Loss


@dataclass(frozen=True)
class Reference:
    """The start that drifts are measured from: ‖p_0‖ of each parameter of S runs (S, 2L), K_0 (S, N, O, N, O) and F_0
    (S, N, O)."""

    norms: Tensor
    kernel: Tensor
    outputs: Tensor

    def select(self, keep: list[int]) -> "Reference":
        return Reference(self.norms[keep], self.kernel[keep], self.outputs[keep])


@dataclass(frozen=True)
class Measurement:
    """A probed state of S runs: `numbers` by column of steps.parquet, each (S,); `layers` by column of layers.parquet,
    each (S, L); `kernel` K_t as (S, N, O, N, O)."""

    numbers: dict[str, Tensor]
    layers: dict[str, Tensor]
    kernel: Tensor


def reference(net: DenseNetwork, state: State) -> Reference:
    """The reference that the first state of a training makes."""
    norms = torch.stack([norm(p) for p in state.start], dim=1)
    return Reference(norms, state_kernel(net, state), state.layers.outputs)


def measure(net: DenseNetwork, state: State, ref: Reference, test_loss: Callable[[Parameters], Tensor]) -> Measurement:
    """Every number of a probed state against its reference."""
    assert state.distances is not None, "only a probed state has them"
    kernel = state_kernel(net, state)
    numbers = {
        "loss": state.loss,
        "test_loss": test_loss(state.params),
        **kernel_numbers(kernel, ref.kernel),
        **eigenvalues(kernel),
        "weight_drift": state.distances.norm(dim=1) / ref.norms.norm(dim=1),
        "output_drift": (state.layers.outputs - ref.outputs).square().sum(dim=2).mean(dim=1).sqrt(),
    }
    layers = {"weight_drift": (state.distances / ref.norms)[:, : net.depth]}
    return Measurement(numbers, layers, kernel)


def state_kernel(net: DenseNetwork, state: State) -> Tensor:
    """K_t on the training inputs, (S, N, O, N, O), from the passes of the training step."""
    assert state.deltas is not None, "only a probed state has them"
    return layerwise_kernel(net, state.layers, state.deltas, state.layers, state.deltas)


def test_losses(net: DenseNetwork, x_test: Tensor, y_test: Tensor, loss: Loss) -> Callable[[Parameters], Tensor]:
    """The loss on the test inputs, a run; nan where there are none."""
    if len(x_test) == 0:
        return lambda params: params.weights[0].new_full((len(params.weights[0]),), torch.nan)
    return lambda params: loss(net.apply(params, x_test), y_test)


def kernel_numbers(kernel: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Norms in float64: they cost little there, and the rounding of K itself is then the only one."""
    now, first = kernel.flatten(1).double(), start.flatten(1).double()
    change, norm = torch.linalg.vector_norm(now - first, dim=1), torch.linalg.vector_norm(first, dim=1)
    return {
        "kernel_drift": change / norm,
        "kernel_drift_absolute": change,
        "kernel_norm": torch.linalg.vector_norm(now, dim=1),
    }


def eigenvalues(kernel: Tensor) -> dict[str, Tensor]:
    """The extreme eigenvalues of K/N, in float64 as well."""
    found = torch.linalg.eigvalsh(as_matrix(kernel).double()) / kernel.shape[1]
    return {"lambda_min": found[:, 0], "lambda_max": found[:, -1]}
