"""The specification of a stack: plain arrays and numbers, on no device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ntkrun.engine.network import Network
from ntkrun.engine.output_scale import PLAIN, OutputScale
from ntkrun.theory.limit import LimitLayers


@dataclass(frozen=True)
class StackTask:
    """The specification of a stack: its networks, the data (float64 arrays), the training, and which steps are
    measured."""

    network: Network
    seeds: Sequence[int]
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    step_size: float
    steps: int
    probed: frozenset[int]  # steps at which everything is measured, including 0 and `steps`
    keep_kernels: frozenset[int]  # steps whose full kernel is stored
    keep_last_kernel: bool  # store the last measured kernel too, at whichever step the run ends
    dtype: torch.dtype
    loss: str = "squared"
    huber_threshold: float = 1.0
    batch: int | None = None  # inputs per step, i.i.d. with replacement; None for all inputs
    momentum: float = 0.0
    limit: np.ndarray | None = None  # K_inf from training inputs, then test inputs, to the training inputs, (N + M, N)
    limit_layers: LimitLayers | None = None  # the limit kernels of all sub-networks on the training inputs
    scale: OutputScale = PLAIN  # the trained function: f = αF or α(F - F_0)
    detailed: frozenset[int] = frozenset()  # probed steps with the expensive probes too
    keep_outputs: frozenset[int] = frozenset()  # probed steps whose outputs are stored

    @property
    def largest_product(self) -> int:
        """Multiply-adds of the largest product of a step, inputs of a layer times its weight: S N max_l n_l n_{l+1}, at
        each of a layer's positions."""
        widest = max(math.prod(layer.weight) * layer.positions for layer in self.network.layers)
        return len(self.seeds) * len(self.x) * widest
