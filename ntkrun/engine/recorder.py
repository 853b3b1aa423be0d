"""The rows of a stack's tables, collected while it trains and read from its device in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ntkrun.columns import DESCENT
from ntkrun.engine.kernel import as_blocks
from ntkrun.engine.modes import ranks
from ntkrun.engine.probes import Measurement
from ntkrun.engine.training import Departure

Columns = dict[str, list[float]]  # a table: its columns by name
TABLES = ("steps", "layers", "modes", "outputs")
Kernels = dict[int, dict[int, np.ndarray]]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Axes:
    """The sizes of what rows are about: L layers, N training and M test inputs, O outputs."""

    depth: int
    inputs: int
    test_inputs: int
    outputs: int

    def of(self, table: str) -> Arrays:
        """The columns that tell apart the rows of one run and step, in the order of a measurement's numbers."""
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
    """What is kept of a probed state until it is read: the numbers of each table on the device, by column, runs first;
    and the kernel where it may be wanted."""

    step: int
    positions: list[int]
    numbers: dict[str, dict[str, Tensor]]
    kernel: Tensor | None


@dataclass
class Recorded:
    """What has been read: the `rows` of each table in parts, the `kernels` kept of each position by step, the `last`
    one seen of each and its step, and the runs that `departed`."""

    rows: dict[str, list[Arrays]] = field(default_factory=lambda: {table: [] for table in TABLES})
    kernels: Kernels = field(default_factory=dict)
    last: dict[int, tuple[int, Tensor]] = field(default_factory=dict)
    departed: list[Departure] = field(default_factory=list)

    def table(self, name: str) -> Arrays:
        """Whole columns; {} for a table without rows."""
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
        wanted = self.keep_last_kernel or measured.step in self.keep_kernels
        numbers = dict(zip(TABLES, (measured.numbers, measured.layers, measured.modes, measured.outputs), strict=True))
        self.unread.append(_Record(measured.step, measured.positions, numbers, measured.kernel if wanted else None))

    def read(self, departed: Sequence[Departure] = ()) -> None:
        """Once divergence has been looked for: the rows of what is unread, up to where these runs `departed`."""
        self.recorded.departed.extend(departed)
        ends = {run.position: run.step for run in departed}
        read = iter(_read([record.numbers[table] for record in self.unread for table in TABLES]))
        for record in self.unread:
            left = np.array([ends.get(position, np.inf) for position in record.positions]) - record.step
            keep = np.flatnonzero(left > 0)
            numbers = {table: next(read) for table in TABLES}
            for name in DESCENT:  # the step from a run's last row led nowhere
                numbers["steps"][name][left == 1] = np.nan
            for table, columns in numbers.items():
                self._write(table, record, keep, columns)
            if record.kernel is not None:
                for k in keep.tolist():
                    self._keep_kernel(record.step, record.positions[k], record.kernel[k])
        self.unread = []

    def _write(self, table: str, record: _Record, keep: np.ndarray, columns: Arrays) -> None:
        if not columns:
            return
        axes, runs = self.axes.of(table), np.array(record.positions, dtype=int)[keep]
        each = max((len(axis) for axis in axes.values()), default=1)
        rows = {"position": np.repeat(runs, each), "step": np.full(len(runs) * each, record.step)}
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
        """Every table, and the kernels kept of each position by step."""
        self.read()
        recorded = self.recorded
        for position, (step, kernel) in recorded.last.items():
            recorded.kernels.setdefault(position, {})[step] = _kernel_array(kernel)
        tables = {table: {name: c.tolist() for name, c in recorded.table(table).items()} for table in TABLES}
        return tables, recorded.kernels


def _read(records: list[dict[str, Tensor]]) -> list[Arrays]:
    """The columns of all records from the device in one transfer, in their shapes, float64."""
    columns = [column.double() for record in records for column in record.values()]
    if not columns:
        return [{} for _ in records]
    whole = torch.cat([column.flatten() for column in columns]).cpu().numpy()
    ends = np.cumsum([column.numel() for column in columns])[:-1]
    read = iter([part.reshape(c.shape) for part, c in zip(np.split(whole, ends), columns, strict=True)])
    return [{name: next(read) for name in record} for record in records]


def _kernel_array(kernel: Tensor) -> np.ndarray:
    return as_blocks(kernel[None])[0].cpu().numpy()
