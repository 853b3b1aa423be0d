"""The rows of a stack's tables, collected while it trains and read from its device in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ntkrun.columns import DESCENT
from ntkrun.engine.detail_probes import ranks
from ntkrun.engine.kernel import as_blocks
from ntkrun.engine.probes import Measurement, eigenvalues, joined
from ntkrun.engine.tiles import pieces
from ntkrun.engine.torch_settings import spread
from ntkrun.engine.training import Divergence

Columns = dict[str, list[float]]  # a table: its columns by name
TABLES = ("steps", "layers", "modes", "outputs")
Kernels = dict[int, dict[int, np.ndarray]]
Arrays = dict[str, np.ndarray]
TOGETHER = 32  # kernels per eigenvalue task: several, because each task has an overhead


@dataclass(frozen=True)
class Axes:
    """The sizes of a task's tables: L layers, N training and M test inputs, O outputs."""

    depth: int
    inputs: int
    test_inputs: int
    outputs: int

    def of(self, table: str) -> Arrays:
        """Return the columns that identify the rows of one run and step, in the order of a measurement's numbers."""
        points, outputs = np.arange(self.inputs + self.test_inputs), np.arange(self.outputs)
        axes: dict[str, Arrays] = {
            "steps": {},
            "layers": {"layer": np.arange(self.depth)},
            "modes": {"mode": ranks(self.inputs * self.outputs)},
            "outputs": {"point": np.repeat(points, self.outputs), "output": np.tile(outputs, len(points))},
        }
        return axes[table]


@dataclass(frozen=True)
class _Record:
    """A measured state that has not been read yet. `shapes` are those of each table's columns, runs first, and
    `numbers` holds all their values in one row on the device. `kernel` is K_t on the host, complete once the device has
    been synchronised. `outcome` holds the columns (S,) that the next state adds."""

    step: int
    positions: list[int]
    shapes: dict[str, dict[str, torch.Size]]
    numbers: Tensor
    kernel: Tensor
    outcome: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Measurement) -> "_Record":
        tables = zip(TABLES, measured.tables, strict=True)
        shapes = {table: {name: c.shape for name, c in columns.items()} for table, columns in tables}
        return cls(measured.step, measured.positions, shapes, measured.row.clone(), _on_host(measured.kernel))

    def tables(self, numbers: np.ndarray, outcome: np.ndarray, spectrum: dict[str, Tensor]) -> dict[str, Arrays]:
        """Return the columns of each table from numbers on the host."""
        ends = np.cumsum([shape.numel() for columns in self.shapes.values() for shape in columns.values()])
        parts = iter(np.split(numbers, ends[:-1]))
        tables = {
            table: {name: next(parts).reshape(shape) for name, shape in columns.items()}
            for table, columns in self.shapes.items()
        }
        tables["steps"] |= {name: values.numpy() for name, values in spectrum.items()}
        tables["steps"] |= dict(zip(self.outcome, outcome.reshape(len(self.outcome), len(self.positions)), strict=True))
        return tables


@dataclass
class Recorded:
    """The records read so far: the `rows` of each table in parts, the stored `kernels` by position and step, the `last`
    kernel of each position with its step, and the runs that `diverged`."""

    rows: dict[str, list[Arrays]] = field(default_factory=lambda: {table: [] for table in TABLES})
    kernels: Kernels = field(default_factory=dict)
    last: dict[int, tuple[int, Tensor]] = field(default_factory=dict)
    diverged: list[Divergence] = field(default_factory=list)

    def table(self, name: str) -> Arrays:
        """Return the complete columns of a table; {} if it has no rows."""
        parts = self.rows[name]
        return {column: np.concatenate([part[column] for part in parts]) for column in (parts[0] if parts else {})}


class Recorder:
    """Collects the rows of a stack as it is trained."""

    def __init__(self, axes: Axes, step_size: float, keep_kernels: frozenset[int], keep_last_kernel: bool):
        self.axes, self.step_size = axes, step_size
        self.keep_kernels, self.keep_last_kernel = keep_kernels, keep_last_kernel
        self.recorded = Recorded()
        self.unread: list[_Record] = []

    def record(self, measured: Measurement) -> None:
        """Add a measurement, to be read later."""
        self.unread.append(_Record.of(measured))

    def complete(self, outcome: dict[str, Tensor]) -> None:
        """Add the columns (S,) of the last recorded state that only the next state provides."""
        self.unread[-1].outcome.update(outcome)

    def read(self, diverged: Sequence[Divergence] = ()) -> None:
        """Read all records after a check for divergence. Rows of `diverged` runs from their step on are dropped."""
        self.recorded.diverged.extend(diverged)
        ends = {run.position: run.step for run in diverged}
        for record, numbers in zip(self.unread, _read(self.unread), strict=True):
            remaining = np.array([ends.get(position, np.inf) for position in record.positions]) - record.step
            keep = np.flatnonzero(remaining > 0)
            for name in DESCENT:  # a run's last row has no valid next state
                numbers["steps"][name][remaining == 1] = np.nan
            for table, columns in numbers.items():
                self._write(table, record, keep, columns)
            for k in keep.tolist():
                self._keep_kernel(record.step, record.positions[k], record.kernel[k])
        self.unread = []

    def _write(self, table: str, record: _Record, keep: np.ndarray, columns: Arrays) -> None:
        if not columns:
            return
        axes, runs = self.axes.of(table), np.array(record.positions, dtype=int)[keep]
        per_run = max((len(axis) for axis in axes.values()), default=1)
        rows = {"position": np.repeat(runs, per_run), "step": np.full(len(runs) * per_run, record.step)}
        if table != "layers":
            rows["time"] = rows["step"] * self.step_size
        rows |= {name: np.tile(axis, len(runs)) for name, axis in axes.items()}
        self.recorded.rows[table].append(rows | {name: values[keep].reshape(-1) for name, values in columns.items()})

    def _keep_kernel(self, step: int, position: int, kernel: Tensor) -> None:
        if self.keep_last_kernel:
            self.recorded.last[position] = (step, kernel)
        if step in self.keep_kernels:
            self.recorded.kernels.setdefault(position, {})[step] = _kernel_array(kernel)

    def result(self) -> tuple[dict[str, Columns], Kernels]:
        """Return all tables, and the stored kernels by position and step."""
        self.read()
        recorded = self.recorded
        for position, (step, kernel) in recorded.last.items():
            recorded.kernels.setdefault(position, {})[step] = _kernel_array(kernel)
        tables = {table: {name: c.tolist() for name, c in recorded.table(table).items()} for table in TABLES}
        return tables, recorded.kernels


def _read(records: list[_Record]) -> list[dict[str, Arrays]]:
    """Return the columns of each table of all records, float64, read from the device in one transfer."""
    if not records:
        return []
    parts = [part for record in records for part in (record.numbers, joined(record.outcome.values()))]
    values = joined(part.to(parts[0].device) for part in parts).cpu().numpy()
    numbers = iter(np.split(values, np.cumsum([len(part) for part in parts])[:-1]))
    spectra = _spectra([record.kernel for record in records])
    return [r.tables(next(numbers), next(numbers), spectrum) for r, spectrum in zip(records, spectra, strict=True)]


def _on_host(kernel: Tensor) -> Tensor:
    """Return K_t itself, or a host copy that the device fills asynchronously, so that it need not wait or keep K_t."""
    if kernel.device.type == "cpu":
        return kernel
    return torch.empty(kernel.shape, dtype=kernel.dtype, pin_memory=True).copy_(kernel, non_blocking=True)


def _spectra(kernels: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return the eigenvalues of each kernel, computed on all cores of the host: for a small kernel a GPU takes three
    times as long as a single core."""
    stacked, counts = torch.cat(kernels), [len(k) for k in kernels]
    results = spread(eigenvalues, [stacked[piece] for piece in pieces(len(stacked), TOGETHER)])
    columns = {name: torch.split(torch.cat([part[name] for part in results]), counts) for name in results[0]}
    return [{name: parts[k] for name, parts in columns.items()} for k in range(len(kernels))]


def _kernel_array(kernel: Tensor) -> np.ndarray:
    return as_blocks(kernel[None])[0].cpu().numpy()
