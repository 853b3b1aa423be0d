"""`ntkrun export`: writes a sweep's stored tables in formats of other tools."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ntkrun.columns import NUMBER, TABLES
from ntkrun.errors import UserError
from ntkrun.files.writing import write_folder
from ntkrun.store.results_directory import Results

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

NO_TENSORBOARD = "--to tensorboard needs the tensorboard package: pip install 'ntkrun[tensorboard]'"


def export(results: Results, to: str, out: Path) -> str:
    """Write the tables as `csv` or `tensorboard` into a new folder, completely or not at all. Return a summary of what
    was written. Raises UserError for an unknown format, an existing folder, and where tensorboard is not installed."""
    if to not in WRITERS:
        raise UserError(f"--to {to}: choose {' or '.join(WRITERS)}")
    if results.runs.empty:
        raise UserError(f"{results.path}: nothing to export yet; no run is finished")
    summaries: list[str] = []
    write_folder(out, lambda folder: summaries.append(WRITERS[to](results, folder)))
    return summaries[0]


def _write_csv(results: Results, folder: Path) -> str:
    for table in TABLES:
        getattr(results, table).to_csv(folder / f"{table}.csv", index=False)
    return f"{len(TABLES)} tables, {sum(len(getattr(results, table)) for table in TABLES)} rows"


def _write_tensorboard(results: Results, folder: Path) -> str:
    """Write one event file per run, in a folder of the run's name: each number of steps.parquet, and of layers.parquet
    by layer, against the step."""
    try:
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        raise UserError(NO_TENSORBOARD) from None
    names = run_names(results.plan)
    steps, layers = results.steps.groupby("run_id"), results.layers.groupby("run_id")
    for run_id in results.runs["run_id"]:
        file = folder / names[run_id] / "events.out.tfevents.0.ntkrun"  # TensorBoard reads any name with tfevents
        file.parent.mkdir(parents=True)
        with file.open("wb") as raw:
            writer = RecordWriter(raw)
            for event in _events(steps.get_group(run_id), layers.get_group(run_id)):
                writer.write(event.SerializeToString())
    return f"event files of {len(results.runs)} runs, for `tensorboard --logdir`"


WRITERS: Mapping[str, Callable[[Results, Path], str]] = {"csv": _write_csv, "tensorboard": _write_tensorboard}


def run_names(plan: pd.DataFrame) -> dict[str, str]:
    """Return a folder name for each run, made of the values that the sweep varies and the seed: `width=256,seed=3`."""
    keys = [key for key in plan.columns if key not in ("run_id", "seed") and plan[key].astype(str).nunique() > 1]

    def name(row: Mapping[str, Any]) -> str:
        varied = [f"{key.partition('.')[2]}={row[key]}" for key in keys or ["network.width"] if not pd.isna(row[key])]
        return ",".join([*varied, f"seed={row['seed']}"]).replace("/", "_").replace(" ", "")

    return {row["run_id"]: name(row) for row in plan.to_dict("records")}


def _events(steps: pd.DataFrame, layers: pd.DataFrame) -> "Iterator[Event]":
    """Yield the file's version, then one event per step. The tables hold no wall-clock time, so every event has time
    0."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    yield Event(file_version="brain.Event:2")
    of_step = dict(list(layers.groupby("step")))
    for row in steps.to_dict("records"):
        step = int(row["step"])
        numbers = _numbers(row, "steps")
        for layer in of_step[step].to_dict("records") if step in of_step else ():
            numbers |= {f"layer {layer['layer']}/{name}": value for name, value in _numbers(layer, "layers").items()}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        yield Event(step=step, summary=Summary(value=values))


def _numbers(row: Mapping[str, Any], table: str) -> dict[str, float]:
    """Return the numbers of a table's row, without those that were not measured at this step."""
    numbers = (name for name, column in TABLES[table].items() if column.kind == NUMBER)
    return {name: row[name] for name in numbers if not pd.isna(row[name])}
