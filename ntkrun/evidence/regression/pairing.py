"""Pairs runs with those of the baseline, and puts their numbers on a scale where a change can be judged.

The scale is the logarithm for quantities that are positive up to rounding. Others are divided by the baseline's root
mean square over its seeds. Values below a quantity's floor count as the floor: in float32 a loss of 1e-13 is rounding,
and so is a doubling of it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ntkrun.evidence.regression.baseline import RunRecord

ROUNDINGS = 100  # the floor, in units of the float's rounding: at the floor, rounding is a change of about 1 %

NEW = "not in the baseline"  # the reason why a quantity that only the present runs have is not judged

# The scale of a quantity's rounding: a number, or the largest value in the baseline of the named quantity ("": of
# itself). The last entry is a power, since a loss is the square of a residual.
_FLOORS: tuple[tuple[str, str | float, int], ...] = (
    (r"loss_ratio", 1.0, 2),
    (r".*loss", "", 2),
    (r"output_drift", "", 1),
    (r".*drift_absolute", "kernel_norm", 1),
    (r".*drift.*|distance_to_limit.*|covariance_distance.*|.*off_diagonal.*", 1.0, 1),
    (r".*_error_0", 1e8, 1),  # by differences of F, whose rounding is as much larger
    (r".*gap", "output_drift", 1),
    (r"lambda_min", "lambda_max", 1),
    (r".*", "", 1),
)


@dataclass(frozen=True)
class Obstacle:
    """An obstacle to a verdict. `run_ended` is True if a run failed or diverged that did not in the baseline."""

    what: str
    run_ended: bool = False


@dataclass(frozen=True)
class WidthRuns:
    """The runs of one width that are compared. If `paired`, both sides have the same seeds in the same order."""

    group: str
    width: int | str
    now: list[RunRecord]
    then: list[RunRecord]
    paired: bool


@dataclass(frozen=True)
class Sides:
    """One quantity of one group, scaled. `now` and `then` hold arrays (seeds, steps) for each width, and `judged`
    arrays (steps,) that mark where both sides have something to compare. `why` says why the quantity cannot be judged,
    or is ""."""

    quantity: str
    curve: bool
    steps: tuple[int, ...]
    widths: list[WidthRuns]
    now: list[np.ndarray]
    then: list[np.ndarray]
    judged: list[np.ndarray]
    logarithmic: bool
    why: str | Obstacle

    @property
    def label(self) -> str:
        return f"{self.quantity}(t)" if self.curve else self.quantity


# ---------------------------------------------------------------- runs against runs


def pair_runs(now: Sequence[RunRecord], then: Sequence[RunRecord]) -> tuple[list[WidthRuns], list[Obstacle]]:
    """Return the cells (runs of one group and width) that can be compared, group by group, and the problems of the
    others."""
    by_cell_now, by_cell_then = _by_cell(now), _by_cell(then)
    cells: list[WidthRuns] = []
    problems: list[Obstacle] = []
    for group, width in dict.fromkeys([*by_cell_now, *by_cell_then]):
        runs_now, runs_then = by_cell_now.get((group, width), []), by_cell_then.get((group, width), [])
        where = f"width {width}" + ("" if group == "{}" else f", {group}")
        problems += _status_obstacles(runs_now, runs_then, where)
        done = [[run for run in side if run.status == "done"] for side in (runs_now, runs_then)]
        if runs_now and runs_then and not done[0] and {run.status for run in runs_now + runs_then} == {"diverged"}:
            continue  # all runs diverged, as in the baseline: there is nothing to compare, and nothing new
        cell = _width_runs(group, width, *done)
        if cell is None:
            counts = f"{len(done[0])} done here, {len(done[1])} in the baseline"
            problems.append(Obstacle(f"{where}: {counts}; each side needs at least two seeds"))
        else:
            cells.append(cell)
    order = list(dict.fromkeys(cell.group for cell in cells))
    return sorted(cells, key=lambda cell: order.index(cell.group)), problems


def _by_cell(runs: Sequence[RunRecord]) -> dict[tuple[str, int | str], list[RunRecord]]:
    cells: dict[tuple[str, int | str], list[RunRecord]] = {}
    for run in runs:
        cells.setdefault((run.group, run.width), []).append(run)
    return cells


def _status_obstacles(now: Sequence[RunRecord], then: Sequence[RunRecord], where: str) -> Iterator[Obstacle]:
    """Yield an obstacle for each status that runs have now and did not have in the baseline."""
    before = {run.seed: run.status for run in then}
    for status in ("missing", "failed", "diverged"):
        seeds = [run.seed for run in now if run.status == status and before.get(run.seed) != status]
        if seeds:
            yield Obstacle(
                f"{where}: {len(seeds)} of {len(now)} runs {status} ({_seeds_text(seeds)})", status != "missing"
            )
    seeds = [run.seed for run in now if run.status == "done" and before.get(run.seed) == "diverged"]
    if seeds:
        what = f"{len(seeds)} runs that diverged in the baseline do not diverge now ({_seeds_text(seeds)})"
        yield Obstacle(f"{where}: {what}")


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"seed {', '.join(map(str, seeds[:5]))}" + (", ..." if len(seeds) > 5 else "")


def _width_runs(group: str, width: int | str, now: list[RunRecord], then: list[RunRecord]) -> WidthRuns | None:
    by_seed_now, by_seed_then = ({run.seed: run for run in side} for side in (now, then))
    shared = sorted(by_seed_now.keys() & by_seed_then.keys())
    if len(shared) >= 2:
        paired_now, paired_then = ([side[seed] for seed in shared] for side in (by_seed_now, by_seed_then))
        return WidthRuns(group, width, paired_now, paired_then, True)
    return WidthRuns(group, width, now, then, False) if min(len(now), len(then)) >= 2 else None


# ---------------------------------------------------------------- numbers against numbers


def sides_of(cells: list[WidthRuns]) -> Iterator[Sides]:
    """Yield every quantity that either side of a group has, estimates first and then curves."""
    runs = [run for cell in cells for run in (*cell.now, *cell.then)]
    largest = _largest([run for cell in cells for run in cell.then])
    for curve in (False, True):
        names = dict.fromkeys(name for run in runs for name in (run.curves if curve else run.estimates))
        for name in sorted(names):
            floor = max(_floor(name, largest, runs[0].dtype), 1e-300)
            yield _sides(cells, name, curve, floor)


def _largest(runs: Sequence[RunRecord]) -> dict[str, float]:
    """Return the largest absolute value of each quantity anywhere in these runs."""
    largest: dict[str, float] = {}
    for run in runs:
        for name, values in [*run.curves.items(), *((name, (value,)) for name, value in run.estimates.items())]:
            stem = name.split(".")[0]
            largest[stem] = max([largest.get(stem, 0.0), *(abs(value) for value in values if value is not None)])
    return largest


def _floor(name: str, largest: dict[str, float], dtype: str) -> float:
    """Return the value below which the quantity is rounding: (100 ε)^power times its scale."""
    stem = name.split(".")[0]
    relative_to, power = next(rule[1:] for rule in _FLOORS if re.fullmatch(rule[0], stem))
    scale = relative_to if isinstance(relative_to, float) else largest.get(relative_to or stem, 0.0)
    return float((ROUNDINGS * np.finfo(dtype).eps) ** power * scale)


def _sides(cells: list[WidthRuns], name: str, curve: bool, floor: float) -> Sides:
    steps = _common_steps(cells) if curve else (0,)
    now, then = ([_matrix(side, name, curve, steps) for side in sides] for sides in zip(*_runs(cells), strict=True))
    finite = [(np.isfinite(a).all(axis=0), np.isfinite(b).all(axis=0)) for a, b in zip(now, then, strict=True)]
    logarithmic = all((side[np.isfinite(side)] >= -floor).all() for side in (*now, *then))
    judged = [
        finite_now & finite_then & ~((np.abs(a) <= floor).all(axis=0) & (np.abs(b) <= floor).all(axis=0))
        for (finite_now, finite_then), a, b in zip(finite, now, then, strict=True)
    ]
    why = _reason(name, curve, finite, judged)
    comparable = [k for k in range(len(cells)) if judged[k].any()]
    scaled = [_scaled(now[k], then[k], judged[k], floor, logarithmic) for k in comparable]
    return Sides(
        name,
        curve,
        steps,
        [cells[k] for k in comparable],
        [pair[0] for pair in scaled],
        [pair[1] for pair in scaled],
        [judged[k] for k in comparable],
        logarithmic,
        why,
    )


def _runs(cells: list[WidthRuns]) -> list[tuple[list[RunRecord], list[RunRecord]]]:
    return [(cell.now, cell.then) for cell in cells]


def _common_steps(cells: list[WidthRuns]) -> tuple[int, ...]:
    sets = [set(run.steps) for cell in cells for run in (*cell.now, *cell.then)]
    return tuple(sorted(set.intersection(*sets)))


def _matrix(runs: Sequence[RunRecord], name: str, curve: bool, steps: Sequence[int]) -> np.ndarray:
    """Return an array (seeds, steps), nan where there is no number."""
    if not curve:
        return np.array([[run.estimates.get(name)] for run in runs], dtype=float)
    positions = {own_steps: [own_steps.index(step) for step in steps] for own_steps in {run.steps for run in runs}}
    absent = (None,) * max(map(len, positions))
    rows = [[run.curves.get(name, absent)[k] for k in positions[run.steps]] for run in runs]
    return np.array(rows, dtype=float)


def _reason(
    name: str, curve: bool, finite: Sequence[tuple[np.ndarray, np.ndarray]], judged: Sequence[np.ndarray]
) -> str | Obstacle:
    label = f"{name}(t)" if curve else name
    if any((finite_then & ~finite_now).any() for finite_now, finite_then in finite):
        return Obstacle(f"{label}: no number now where the baseline has one")
    if any(step.any() for step in judged):
        return ""
    if any(finite_now.any() for finite_now, _ in finite) and not any(finite_then.any() for _, finite_then in finite):
        return NEW
    if not any(finite_now.any() for finite_now, _ in finite):
        return "no numbers on either side"
    return "at the level of rounding on both sides"


def _scaled(
    now: np.ndarray, then: np.ndarray, judged: np.ndarray, floor: float, logarithmic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides on the scale where a difference is a relative change; 0 at steps that are not judged."""
    a, b = (np.where(judged, side, 1.0) for side in (now, then))
    if logarithmic:
        a, b = (np.log(np.maximum(side, floor)) for side in (a, b))
        return np.where(judged, a, 0.0), np.where(judged, b, 0.0)
    scale = np.maximum(np.sqrt(np.square(b).mean(axis=0)), floor)
    return np.where(judged, a / scale, 0.0), np.where(judged, b / scale, 0.0)
