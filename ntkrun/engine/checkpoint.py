"""Checkpoints of a stack as plain data, sufficient to continue as if it had not been interrupted.

A checkpoint holds the results of training since the start. Quantities determined by the seeds and the first state are
recomputed: W_0, K_0, the predictions of frozen kernels, and the batches, which are drawn again up to the step.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ntkrun.engine.divergence import Divergence
from ntkrun.engine.flows import Flows
from ntkrun.engine.measured_rows import TABLES, Recorded
from ntkrun.engine.network import Parameters
from ntkrun.engine.training import Snapshot, State

FLOWS = ("coordinates", "velocity", "linear")  # the fields of the linearised network that change in training


@dataclass(frozen=True)
class Checkpoint:
    """A stack before a state is measured: `tensors` by name, and a `header` that JSON can store. A new checkpoint
    shares its tensors with the training run: they are valid until the next state is requested."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def step(self) -> int:
        return int(self.header["step"])

    @property
    def seconds(self) -> float:
        """Run time of the stack up to the checkpoint."""
        return float(self.header["seconds"])

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def snapshot(self) -> Snapshot:
        """The training run at the checkpoint."""
        has_velocity = "velocity.weights.0" in self.tensors
        return Snapshot(
            self.step,
            _parameters(self.tensors, "params"),
            _parameters(self.tensors, "velocity") if has_velocity else None,
            self.tensors.get("distances"),
        )

    def flows(self, first: Flows) -> Flows:
        """Return the predictions at the checkpoint's step, from the `first` ones."""
        device = first.linear.device
        coordinates, velocity, linear = (self.tensors[f"flows.{name}"].to(device) for name in FLOWS)
        return replace(first, coordinates=coordinates, velocity=velocity, linear=linear)

    @property
    def diverged(self) -> list[Divergence]:
        """The runs that had diverged by the checkpoint's step."""
        return [Divergence(*run) for run in self.header["diverged"]]

    def recorded(self) -> Recorded:
        """Return the records up to the checkpoint, ready for more to be added."""
        recorded = Recorded()
        for table, columns in self.header["columns"].items():
            recorded.rows[table] = [{name: self.tensors[f"rows.{table}.{name}"].numpy() for name in columns}]
        for name, tensor in self.tensors.items():
            match name.split("."):
                case ["kernel", position, step]:
                    recorded.kernels.setdefault(int(position), {})[int(step)] = tensor.numpy()
                case ["last", position, step]:
                    recorded.last[int(position)] = int(step), tensor
        return recorded


class Keeper(Protocol):
    """Storage for checkpoints, which also decides when one is due."""

    def due(self) -> bool: ...
    def keep(self, checkpoint: Checkpoint) -> None: ...


class _NoCheckpoints:
    """Stores no checkpoints."""

    def due(self) -> bool:
        return False

    def keep(self, checkpoint: Checkpoint) -> None: ...


NO_CHECKPOINTS = _NoCheckpoints()


def checkpoint(now: State, flows: Flows, recorded: Recorded, diverged: list[Divergence], seconds: float) -> Checkpoint:
    """Return the checkpoint of a training after `seconds` seconds, before its state `now` is measured."""
    tables = {table: columns for table in TABLES if (columns := recorded.table(table))}
    header = {
        "step": now.step,
        "diverged": [astuple(run) for run in diverged],
        "columns": {table: list(columns) for table, columns in tables.items()},  # keeps the columns' order
        "seconds": seconds,
    }
    tensors = {f"flows.{name}": getattr(flows, name) for name in FLOWS} | _named("params", now.params)
    if now.velocity is not None:
        tensors |= _named("velocity", now.velocity)
    if now.distances is not None:
        tensors["distances"] = now.distances
    for table, columns in tables.items():
        tensors |= {f"rows.{table}.{name}": torch.from_numpy(values) for name, values in columns.items()}
    return Checkpoint(header, tensors | dict(_kernels(recorded)))


def _named(name: str, params: Parameters) -> dict[str, Tensor]:
    parts = {"weights": params.weights, "biases": params.biases}
    return {f"{name}.{kind}.{layer}": tensor for kind, part in parts.items() for layer, tensor in enumerate(part)}


def _parameters(tensors: dict[str, Tensor], name: str) -> Parameters:
    layers = sum(key.startswith(f"{name}.weights.") for key in tensors)
    weights, biases = ([tensors[f"{name}.{kind}.{layer}"] for layer in range(layers)] for kind in ("weights", "biases"))
    return Parameters(weights, biases)


def _kernels(recorded: Recorded) -> Iterator[tuple[str, Tensor]]:
    for position, kernels in recorded.kernels.items():
        for step, kernel in kernels.items():
            yield f"kernel.{position}.{step}", torch.from_numpy(kernel)
    for position, (step, last) in recorded.last.items():
        yield f"last.{position}.{step}", last.clone()  # a copy, because it is a view into the kernel of the whole stack
