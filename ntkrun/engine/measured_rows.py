"""The rows of a stack's tables, collected while it trains and read from its device in batches."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ntkrun.engine.detail_probes import ranks
from ntkrun.engine.kernel import as_blocks
from ntkrun.engine.probes import Measurement, eigenvalues, joined
from ntkrun.engine.tiles import pieces
from ntkrun.engine.torch_settings import spread

Columns = dict[str, list[float]]  # a table: its columns by name
TABLES = ("steps", "layers", "modes", "outputs")
Kernels = dict[int, dict[int, np.ndarray]]
Arrays = dict[str, np.ndarray]
# Most kernels of an eigenvalue task, several because each task has an overhead, and most bytes of them in float64.
TOGETHER, BYTES_TOGETHER = 32, 2**22


@dataclass(frozen=True)
class Axes:
    """The sizes of a task's tables: L layers, N training and M test inputs, O outputs."""

    layers: int
    inputs: int
    test_inputs: int
    outputs: int

    def of(self, table: str) -> Arrays:
        """Return the columns that identify the rows of one run and step, in the order of a measurement's numbers."""
        points, outputs = np.arange(self.inputs + self.test_inputs), np.arange(self.outputs)
        axes: dict[str, Arrays] = {
            "steps": {},
            "layers": {"layer": np.arange(self.layers)},
            "modes": {"mode": ranks(self.inputs * self.outputs)},
            "outputs": {"point": np.repeat(points, self.outputs), "output": np.tile(outputs, len(points))},
        }
        return axes[table]


@dataclass(frozen=True)
class _Unread:
    """A measured state of S runs that has not been read yet. `shapes` are those of each table's columns, runs first,
    and `numbers` holds all their values in one row on the device. `kernel` is K_t on the host, complete once the device
    has been synchronised. `outcome` holds the columns that the next state adds: to the table of steps (S,), to that of
    layers (S, L)."""

    step: int
    shapes: dict[str, dict[str, torch.Size]]
    numbers: Tensor
    kernel: Tensor
    outcome: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Measurement) -> "_Unread":
        tables = zip(TABLES, measured.tables, strict=True)
        shapes = {table: {name: c.shape for name, c in columns.items()} for table, columns in tables}
        return cls(measured.step, shapes, measured.row.clone(), _on_host(measured.kernel))

    def tables(self, numbers: np.ndarray, outcome: np.ndarray) -> dict[str, Arrays]:
        """Return the columns of each table from numbers on the host."""
        tables = _split(numbers, self.shapes)
        shapes = {table: {name: c.shape for name, c in columns.items()} for table, columns in self.outcome.items()}
        return tables | {table: tables[table] | columns for table, columns in _split(outcome, shapes).items()}


def _split(numbers: np.ndarray, shapes: dict[str, dict[str, torch.Size]]) -> dict[str, Arrays]:
    """Return the columns of each table from all their numbers in one row."""
    ends = np.cumsum([shape.numel() for columns in shapes.values() for shape in columns.values()])
    parts = iter(np.split(numbers, ends[:-1]))
    return {
        table: {name: next(parts).reshape(shape) for name, shape in columns.items()}
        for table, columns in shapes.items()
    }


@dataclass
class Recorded:
    """Holds what was read so far: the `rows` of each table in parts, the stored `kernels` by position and step, and the
    `last` kernel of each position with its step."""

    rows: dict[str, list[Arrays]] = field(default_factory=lambda: {table: [] for table in TABLES})
    kernels: Kernels = field(default_factory=dict)
    last: dict[int, tuple[int, Tensor]] = field(default_factory=dict)

    def table(self, name: str) -> Arrays:
        """Return the complete columns of a table; {} if it has no rows."""
        parts = self.rows[name]
        return {column: np.concatenate([part[column] for part in parts]) for column in (parts[0] if parts else {})}


class Rows:
    """Collects the rows of a stack as it is trained."""

    def __init__(self, axes: Axes, step_size: float, keep_kernels: frozenset[int], keep_last_kernel: bool):
        self.axes, self.step_size = axes, step_size
        self.keep_kernels, self.keep_last_kernel = keep_kernels, keep_last_kernel
        self.recorded = Recorded()
        self.unread: list[_Unread] = []

    def add(self, measured: Measurement) -> None:
        """Add a measurement, to be read later."""
        self.unread.append(_Unread.of(measured))

    def complete(self, outcome: dict[str, dict[str, Tensor]]) -> None:
        """Add the columns of the last measured state that only the next state provides, by table."""
        self.unread[-1].outcome.update(outcome)

    def read(self, ends: np.ndarray) -> None:
        """Read all measurements after a check for divergence. A run has no rows from the step on at which it has
        diverged, one of `ends` (S,)."""
        kept = [(state, runs) for state in self.unread if len(runs := np.flatnonzero(ends > state.step))]
        read = _read([state for state, _ in kept])  # this waits for the device, and so for the kernels' copies
        spectra = _spectra([[state.kernel[k] for k in runs] for state, runs in kept])
        for (state, runs), tables, spectrum in zip(kept, read, spectra, strict=True):
            for table, outcome in state.outcome.items():  # a run's last row has no valid next state
                for name in outcome:
                    tables[table][name][ends == state.step + 1] = np.nan
            for table, columns in tables.items():
                of_runs = {name: values[runs] for name, values in columns.items()}
                self._write(table, state.step, runs, of_runs | (spectrum if table == "steps" else {}))
            for k in runs.tolist():
                self._keep_kernel(state.step, k, state.kernel[k])
        for k, (step, kernel) in self.recorded.last.items():
            if ends[k] < np.inf and kernel.untyped_storage().nbytes() > kernel.nbytes:
                self.recorded.last[k] = step, kernel.clone()  # it stays, and need not keep those of its whole stack
        self.unread = []

    def _write(self, table: str, step: int, runs: np.ndarray, columns: Arrays) -> None:
        if not columns:
            return
        axes = self.axes.of(table)
        per_run = max((len(axis) for axis in axes.values()), default=1)
        rows = {"position": np.repeat(runs, per_run), "step": np.full(len(runs) * per_run, step)}
        if table != "layers":
            rows["time"] = rows["step"] * self.step_size
        rows |= {name: np.tile(axis, len(runs)) for name, axis in axes.items()}
        self.recorded.rows[table].append(rows | {name: values.reshape(-1) for name, values in columns.items()})

    def _keep_kernel(self, step: int, position: int, kernel: Tensor) -> None:
        if self.keep_last_kernel:
            self.recorded.last[position] = (step, kernel)
        if step in self.keep_kernels:
            self.recorded.kernels.setdefault(position, {})[step] = _kernel_array(kernel)

    def result(self) -> tuple[dict[str, Columns], Kernels]:
        """Return all tables that were read, and the stored kernels by position and step."""
        recorded = self.recorded
        for position, (step, kernel) in recorded.last.items():
            recorded.kernels.setdefault(position, {})[step] = _kernel_array(kernel)
        tables = {table: {name: c.tolist() for name, c in recorded.table(table).items()} for table in TABLES}
        return tables, recorded.kernels


def _read(unread: list[_Unread]) -> list[dict[str, Arrays]]:
    """Return the columns of each table of all measurements, float64, read from the device in one transfer."""
    if not unread:
        return []
    parts = [part for state in unread for part in (state.numbers, joined(_columns(state.outcome)))]
    values = joined(part.to(parts[0].device) for part in parts).cpu().numpy()
    numbers = iter(np.split(values, np.cumsum([len(part) for part in parts])[:-1]))
    return [state.tables(next(numbers), next(numbers)) for state in unread]


def _columns(tables: dict[str, dict[str, Tensor]]) -> list[Tensor]:
    return [column for columns in tables.values() for column in columns.values()]


def _on_host(kernel: Tensor) -> Tensor:
    """Return K_t itself, or a host copy that the device fills asynchronously, so that it need not wait or keep K_t."""
    if kernel.device.type == "cpu":
        return kernel
    return torch.empty(kernel.shape, dtype=kernel.dtype, pin_memory=True).copy_(kernel, non_blocking=True)


def _spectra(kernels: list[list[Tensor]]) -> list[Arrays]:
    """Return the eigenvalues of the kernels of each state, computed on all cores of the host: for a small kernel a GPU
    takes three times as long as a single core."""
    every = [kernel for of_state in kernels for kernel in of_state]
    if not every:
        return []
    together = max(1, min(TOGETHER, BYTES_TOGETHER // (8 * every[0].numel())))
    results = spread(lambda piece: eigenvalues(torch.stack(every[piece])), pieces(len(every), together))
    ends = np.cumsum([len(of_state) for of_state in kernels])[:-1]
    columns = {name: np.split(torch.cat([part[name] for part in results]).numpy(), ends) for name in results[0]}
    return [{name: parts[k] for name, parts in columns.items()} for k in range(len(kernels))]


def _kernel_array(kernel: Tensor) -> np.ndarray:
    return as_blocks(kernel[None])[0].cpu().numpy()
