"""A stack in mid-run as plain data: what it takes to go on as if nothing had happened.

Kept is what training has made since the start. What the seeds and the first state give is made again from them: W_0,
K_0 and what frozen kernels predict, and the batches, which are drawn again up to the step.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ntkrun.engine.flows import Flows
from ntkrun.engine.network import Parameters
from ntkrun.engine.recorder import TABLES, Recorded
from ntkrun.engine.training import Divergence, Snapshot

FLOWS = ("coordinates", "velocity", "linear")  # of the linearised network: what moves


@dataclass(frozen=True)
class Checkpoint:
    """A stack before a state is measured: `tensors` by name, and a `header` of what JSON can hold. As it is made its
    tensors are those of the training itself: valid until the next state is asked for."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def step(self) -> int:
        return int(self.header["step"])

    @property
    def seconds(self) -> float:
        """What the stack took until then."""
        return float(self.header["seconds"])

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def standing(self) -> Snapshot:
        moving = "velocity.weights.0" in self.tensors
        return Snapshot(
            self.step,
            list(self.header["positions"]),
            _parameters(self.tensors, "params"),
            _parameters(self.tensors, "velocity") if moving else None,
            self.tensors.get("distances"),
        )

    def flows(self, first: Flows) -> Flows:
        """Those of the step, from the `first` of the runs that still go on."""
        where = first.linear.device
        coordinates, velocity, linear = (self.tensors[f"flows.{name}"].to(where) for name in FLOWS)
        return replace(first, coordinates=coordinates, velocity=velocity, linear=linear)

    def recorded(self) -> Recorded:
        """What was recorded until then, to be added to."""
        found = Recorded(diverged=[Divergence(*run) for run in self.header["departed"]])
        for table, columns in self.header["columns"].items():
            found.rows[table] = [{name: self.tensors[f"rows.{table}.{name}"].numpy() for name in columns}]
        for name, tensor in self.tensors.items():
            match name.split("."):
                case ["kernel", position, step]:
                    found.kernels.setdefault(int(position), {})[int(step)] = tensor.numpy()
                case ["last", position, step]:
                    found.last[int(position)] = int(step), tensor
        return found


class Keeper(Protocol):
    """Who keeps checkpoints, and says when one is due."""

    def due(self) -> bool: ...
    def keep(self, checkpoint: Checkpoint) -> None: ...


class _NoCheckpoints:
    """Keeps none."""

    def due(self) -> bool:
        return False

    def keep(self, checkpoint: Checkpoint) -> None: ...


NO_CHECKPOINTS = _NoCheckpoints()


def checkpoint(now: Snapshot, flows: Flows, recorded: Recorded, seconds: float) -> Checkpoint:
    """Of a training that stands there, after so many seconds."""
    tables = {table: columns for table in TABLES if (columns := recorded.table(table))}
    header = {
        "step": now.step,
        "positions": now.positions,
        "departed": [astuple(run) for run in recorded.diverged],
        "columns": {table: list(columns) for table, columns in tables.items()},  # tensors by name have no order
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
    depth = sum(key.startswith(f"{name}.weights.") for key in tensors)
    weights, biases = ([tensors[f"{name}.{kind}.{layer}"] for layer in range(depth)] for kind in ("weights", "biases"))
    return Parameters(weights, biases)


def _kernels(recorded: Recorded) -> Iterator[tuple[str, Tensor]]:
    for position, kernels in recorded.kernels.items():
        for step, kernel in kernels.items():
            yield f"kernel.{position}.{step}", torch.from_numpy(kernel)
    for position, (step, last) in recorded.last.items():
        yield f"last.{position}.{step}", last.clone()  # by itself: it lies in the kernel of its stack
