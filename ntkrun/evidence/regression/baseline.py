"""The data that a regression check compares: every run's statistics and thinned curves, from a sweep's tables or from a
baseline file.

The file is sorted JSON with nine digits per number and one line per curve, so that it is small and readable in a diff.
It is read as strictly as a config, since it may come from anywhere.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from ntkrun.errors import UserError
from ntkrun.evidence.estimates.cases import plain
from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.per_run import done, per_run
from ntkrun.files.reading import Unreadable, read_text
from ntkrun.text import printable
from ntkrun.validation import Strict

FORMAT = "ntkrun baseline 1"
CURVE_STEPS = 16  # about this many probed steps of a curve are stored, evenly spaced in log(step)
DIGITS = 9
LARGEST_FILE = 64 * 2**20  # bytes; a baseline of 4 widths and 3 seeds takes about 1e5

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,100}$")]
LARGEST = 1e150  # larger values do not count as numbers; the square of this one is still finite
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)] | None


class RunRecord(Strict):
    """One run: its place in the sweep, how it ended, and its numbers. `settings` are the values of what the sweep
    varies besides width and seed. `curves[name][k]` is the value at `steps[k]`."""

    settings: dict[Name, str | int | float | bool | None]
    width: int | str
    seed: int
    dtype: Literal["float32", "float64"]
    status: Literal["done", "diverged", "failed", "missing"]
    estimates: dict[Name, Number]
    steps: tuple[int, ...]
    curves: dict[Name, tuple[Number, ...]]

    @property
    def group(self) -> str:
        """The settings as text. The runs of a group share them and differ only in width and seed."""
        return json.dumps(self.settings, sort_keys=True)

    @model_validator(mode="after")
    def _check_curves(self) -> "RunRecord":
        if any(len(curve) != len(self.steps) for curve in self.curves.values()):
            raise ValueError("a curve and its steps differ in length")
        if any(step >= later for step, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("the steps do not increase")
        return self


class Baseline(Strict):
    """The contents of a baseline file: the runs, their resolved config, and what made them."""

    format: Literal["ntkrun baseline 1"]
    config: dict[str, Any]
    config_hash: str
    made_by: dict[str, Any]
    runs: tuple[RunRecord, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_runs(self) -> "Baseline":
        places = {(run.group, str(run.width), run.seed) for run in self.runs}
        if len(places) < len(self.runs):
            raise ValueError("a run occurs twice")
        if any(run.status == "missing" for run in self.runs):
            raise ValueError("a run is missing")
        if len({(run.group, run.steps) for run in self.runs if run.steps}) > len({run.group for run in self.runs}):
            raise ValueError("runs of one group have different steps")
        return self


# ---------------------------------------------------------------- from tables


def records(plan: pd.DataFrame, runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame) -> tuple[RunRecord, ...]:
    """Return one record per planned run, in the order of the plan. The estimates are the columns that `per_run` adds to
    `runs`, the step size, and the kernel's extreme eigenvalues at the first and the last step. The curves are the
    columns of `steps`."""
    varied = [name for name in plan.columns if "." in name and name != WIDTH and plan[name].nunique(dropna=False) > 1]
    status = dict(zip(runs["run_id"], runs["status"], strict=True)) if len(runs) else {}
    numbers = _numbers(runs, steps, layers) if "done" in status.values() else {}
    result = []
    for row in plan.to_dict("records"):
        estimates, curve_steps, curves = numbers.get(row["run_id"], ({}, (), {}))
        result.append(
            RunRecord.model_construct(
                settings={name: _setting(row[name]) for name in varied},
                width=_setting(row[WIDTH]),
                seed=int(row["seed"]),
                dtype=row["training.dtype"],
                status=status.get(row["run_id"], "missing"),
                estimates=estimates,
                steps=curve_steps,
                curves=curves,
            )
        )
    return tuple(result)


_Numbers = tuple[dict[str, Number], tuple[int, ...], dict[str, tuple[Number, ...]]]


def _numbers(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame) -> dict[str, _Numbers]:
    """Return the estimates, steps and curves of each finished run."""
    statistics = done(per_run(runs, steps, layers))
    names = [name for name in statistics.columns if name not in runs.columns] + ["step_size"]
    columns = [name for name in steps.columns if name not in ("run_id", "step", "time")]
    steps_of_run = dict(iter(steps.sort_values("step", kind="stable").groupby("run_id")))
    numbers = {}
    for row in statistics[["run_id", *names]].to_dict("records"):
        curve = steps_of_run[row["run_id"]]
        positions = _thinned(curve["step"].to_numpy())
        values = curve[columns].to_numpy(dtype=float)
        estimates = {name: _number(row[name]) for name in names}
        for name in ("lambda_min", "lambda_max"):
            if name in columns:
                start, end = values[[0, -1], columns.index(name)]
                estimates |= {f"{name}.start": _number(start), f"{name}.end": _number(end)}
        curves = {name: tuple(map(_number, values[positions, k])) for k, name in enumerate(columns)}
        numbers[row["run_id"]] = (estimates, tuple(curve["step"].to_numpy()[positions].tolist()), curves)
    return numbers


def _thinned(steps: np.ndarray) -> np.ndarray:
    """Return the positions of about CURVE_STEPS of the increasing `steps`, evenly spaced in log(step), with the first
    and the last."""
    targets = np.geomspace(1, max(int(steps[-1]), 1), CURVE_STEPS - 1)
    return np.unique([0, *np.abs(steps[:, None] - targets).argmin(axis=0), len(steps) - 1])


def _number(value: float) -> Number:
    return float(f"{value:.{DIGITS}g}") if abs(value) <= LARGEST else None


def _setting(value: Any) -> Any:
    value = plain(value)
    return None if isinstance(value, float) and math.isnan(value) else value


# ---------------------------------------------------------------- the file


def written(description: Mapping[str, Any], runs: Sequence[RunRecord]) -> str:
    """Return the text of a baseline file, from the contents of sweep.yaml and the runs. Raises UserError where runs are
    missing or failed, or none is done."""
    unfinished = sum(run.status in ("missing", "failed") for run in runs)
    if unfinished or not any(run.status == "done" for run in runs):
        reason = f"{unfinished} of {len(runs)} runs are missing or failed" if unfinished else "no run is done"
        raise UserError(f"{reason}; a baseline needs a finished sweep")
    document = {
        "format": FORMAT,
        "config": description["config"],
        "config_hash": description["config_hash"],
        "made_by": description["made_by"],
        "runs": [run.model_dump(mode="json") for run in runs],
    }
    return _pretty(document) + "\n"


def _pretty(value: Any, indent: str = "") -> str:
    """Return JSON with sorted keys, one line per key, and lists of numbers on one line."""
    inside = indent + " "
    if isinstance(value, dict) and value:
        rows = [f"{json.dumps(key)}: {_pretty(value[key], inside)}" for key in sorted(value)]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        rows = [_pretty(item, inside) for item in value]
    else:
        return json.dumps(value, allow_nan=False)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(inside + row for row in rows) + f"\n{indent}{closing}"


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file. Raises UserError, in one sentence, where it cannot be read or is not a baseline."""
    try:
        text = read_text(path, LARGEST_FILE)
    except Unreadable as error:
        raise UserError(f"{path}: not a baseline, since it cannot be read ({error}); `--update` writes one") from None
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: not a baseline ({_first_error(error)})") from None


def _first_error(error: ValidationError) -> str:
    """Return the first validation error with its place, in printable characters."""
    detail = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in detail["loc"])[:80]
    return printable(f"{place}: {detail['msg']}" if place else detail["msg"])


# ---------------------------------------------------------------- configs and changes

_Config = Mapping[str, Any]
_IGNORED = re.compile(r"^(name|expect.*|claims.*|sweep\.(\d+\.)?seeds.*)$")  # no run's numbers depend on these
_ABSENT = object()


def differing_keys(now: _Config, then: _Config, completed: Callable[[_Config], _Config]) -> list[str]:
    """Return where two resolved configs differ, as 'network.depth (3 here, 4 in the baseline)'. Name, seeds and claims
    are ignored. `completed` fills in the defaults of a config from another version, and is called only if keys are
    missing."""
    differences = _differences(now, then)
    if any(_ABSENT in pair for pair in differences.values()):
        differences = _differences(completed(now), completed(then))
    return [
        printable(f"{key} ({_value_text(new)} here, {_value_text(old)} in the baseline)")
        for key, (new, old) in differences.items()
    ]


def _differences(now: _Config, then: _Config) -> dict[str, tuple[Any, Any]]:
    flat = [{key: value for key, value in _leaves(config) if not _IGNORED.match(key)} for config in (now, then)]
    keys = dict.fromkeys([*flat[0], *flat[1]])
    pairs = {key: (flat[0].get(key, _ABSENT), flat[1].get(key, _ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their plain values. A sweep's list of one block counts as that block."""
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        value = value[0] if len(value) == 1 else {str(k): item for k, item in enumerate(value)}
    if not isinstance(value, dict):
        yield key, value
        return
    for name, item in value.items():
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


def _value_text(value: Any) -> str:
    return "none" if value is _ABSENT else json.dumps(value)[:60]


def changes(before: Baseline, after: Baseline) -> list[str]:
    """Return what an update changed, one line each: config, runs, and the quantities that changed most."""
    lines = [f"config: {key}" for key in differing_keys(after.config, before.config, lambda config: config)]
    places = [{(run.group, str(run.width), run.seed): run for run in side.runs} for side in (before, after)]
    removed, added = (len(places[k].keys() - places[1 - k].keys()) for k in (0, 1))
    if removed or added:
        lines.append(f"runs: {added} added, {removed} removed")
    largest: dict[str, float] = {}
    for place in places[0].keys() & places[1].keys():
        old, now = (places[k][place] for k in (0, 1))
        if old.status != now.status:
            lines.append(f"width {now.width}, seed {now.seed}: {old.status} before, {now.status} now")
        for name in old.estimates.keys() & now.estimates.keys():
            largest[name] = max(largest.get(name, 0.0), _relative_change(old.estimates[name], now.estimates[name]))
    changed = sorted((item for item in largest.items() if item[1] > 0), key=lambda item: (-item[1], item[0]))
    lines += [f"{name}: changed by up to {100 * change:.2g} %" for name, change in changed[:10]]
    if len(changed) > 10:
        lines.append(f"and {len(changed) - 10} more quantities, by less")
    old_commit, new_commit = (str(side.made_by.get("commit"))[:12] for side in (before, after))
    if old_commit != new_commit:
        lines.append(printable(f"commit: {old_commit} before, {new_commit} now"))
    return lines


def _relative_change(old: Number, now: Number) -> float:
    """Return |now/old - 1|; infinite if only one of the two is a number."""
    if old is None or now is None:
        return 0.0 if old == now else math.inf
    return abs(now - old) / (abs(old) or 1.0) if now != old else 0.0
