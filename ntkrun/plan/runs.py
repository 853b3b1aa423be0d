"""The runs of a sweep: their networks, seeds and ids."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ntkrun.config.reader import Sweep
from ntkrun.config.schema import Kept, LogSpaced, Point, Probes, Spacing

IDENTITY_VERSION = 3  # increased when the same content would give different numbers


@dataclass(frozen=True)
class Run:
    """One network to train: a grid point and a seed."""

    run_id: str
    point: Point
    seed: int


@dataclass(frozen=True)
class Stack:
    """Runs of one grid point that are trained together."""

    point: Point
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def plan(sweep: Sweep) -> tuple[Run, ...]:
    """Return every run of the sweep once, in the order of the file."""
    runs: dict[str, Run] = {}
    for point, seeds in sweep.points:
        identity = point.identity()
        for seed in seeds:
            run = Run(run_id(identity, seed), point, seed)
            runs.setdefault(run.run_id, run)
    return tuple(runs.values())


def run_id(identity: dict[str, Any], seed: int) -> str:
    """Return 16 hexadecimal digits computed from the content that affects a run's numbers. Its position in the file and
    the sweep that it is part of do not matter."""
    content = json.dumps([IDENTITY_VERSION, identity, seed], sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def stacks(runs: Iterable[Run]) -> list[Stack]:
    """Group the runs by grid point, one stack per point."""
    by_point: dict[Point, list[Run]] = {}
    for run in runs:
        by_point.setdefault(run.point, []).append(run)
    return [Stack(point, tuple(members)) for point, members in by_point.items()]


def run_row(run: Run) -> dict[str, Any]:
    """Return the run as a row: its id, every config value under its dotted key, its seed."""
    return {"run_id": run.run_id, **_point_row(run.point), "seed": run.seed}


@lru_cache(maxsize=16)
def _point_row(point: Point) -> dict[str, Any]:
    """Return the config values of a row. Cached because thousands of seeds share a grid point."""
    return flattened(point.model_dump(mode="json"))


def probed_steps(probes: Probes, steps: int) -> frozenset[int]:
    """Return the steps at which the kernel is measured. They always include 0, the last step and the detail steps."""
    return _spaced(probes.every, steps) | detail_steps(probes, steps)


def detail_steps(probes: Probes, steps: int) -> frozenset[int]:
    """Return the steps at which the more expensive probes are measured too: none, or steps that include 0 and the
    last."""
    return frozenset() if probes.detail == "none" else _spaced(probes.detail, steps)


def kept_steps(kept: Iterable[Kept], steps: int) -> frozenset[int]:
    """Return the steps that `first`, `last` and numbers stand for."""
    return frozenset(0 if step == "first" else steps if step == "last" else step for step in kept)


def _spaced(spacing: Spacing, steps: int) -> frozenset[int]:
    if isinstance(spacing, LogSpaced):
        spaced = {0, *np.geomspace(1, max(steps, 1), spacing.log_spaced - 1).round().astype(int).tolist()}
        return frozenset(step for step in spaced if step <= steps) | {steps}
    return frozenset(range(0, steps + 1, spacing)) | {steps}


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one row with dotted keys. Lists become JSON text, so that a column has one type."""
    row: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and prefix == "":
            row |= flattened(value, f"{key}.")
        else:
            row[prefix + key] = json.dumps(value) if isinstance(value, dict | list) else value
    return row


# ---------------------------------------------------------------- missing runs


def missing_runs(runs: Iterable[Run], finished: Collection[str], failed: Collection[str]) -> Iterator[Run]:
    """Return the runs that have neither finished nor failed."""
    return (run for run in runs if run.run_id not in finished and run.run_id not in failed)
