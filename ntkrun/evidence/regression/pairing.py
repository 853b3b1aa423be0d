"""Which runs stand against which, and their numbers on a scale where a change can be judged.

The scale is the logarithm, for quantities that are positive but for rounding; others are divided by the baseline's root
mean square over its seeds. What lies below a quantity's floor counts as the floor: a loss of 1e-13 in float32 is
rounding, and so is its doubling.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ntkrun.evidence.regression.baseline import RunRecord

ROUNDINGS = 100  # the floor, in units of the float's rounding: at the floor, rounding is a change of about 1 %

NEW = "not in the baseline"  # why a quantity is not judged that only the runs of now have

# What a quantity's rounding is relative to: a number, or the largest value in the baseline of the quantity named ("":
# itself). The power: a loss is the square of a residual.
_FLOORS: tuple[tuple[str, str | float, int], ...] = (
    (r"loss_ratio", 1.0, 2),
    (r".*loss", "", 2),
    (r"output_drift", "", 1),
    (r".*drift_absolute", "kernel_norm", 1),
    (r".*drift.*|distance_to_limit|off_diagonal", 1.0, 1),
    (r".*gap", "output_drift", 1),
    (r"lambda_min", "lambda_max", 1),
    (r".*", "", 1),
)


@dataclass(frozen=True)
class Obstacle:
    """What stands in the way of a verdict; `run_ended` where it is a run that failed or diverged, unlike before."""

    what: str
    run_ended: bool = False


@dataclass(frozen=True)
class WidthRuns:
    """The runs of one width that are compared; if `paired`, of the same seeds in the same order."""

    group: str
    width: int | str
    now: list[RunRecord]
    then: list[RunRecord]
    paired: bool


@dataclass(frozen=True)
class Sides:
    """One quantity of one group, scaled: arrays (seeds, steps) for each width, `judged` (steps,) where both sides have
    something to compare, and `why` it cannot be judged somewhere, or ""."""

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
    """The cells that can be compared, groups one after the other, and what is wrong with the others."""
    here, there = _by_cell(now), _by_cell(then)
    cells: list[WidthRuns] = []
    problems: list[Obstacle] = []
    for group, width in dict.fromkeys([*here, *there]):
        mine, theirs = here.get((group, width), []), there.get((group, width), [])
        where = f"width {width}" + ("" if group == "{}" else f", {group}")
        problems += _of_runs(mine, theirs, where)
        done = [[run for run in side if run.status == "done"] for side in (mine, theirs)]
        if mine and theirs and not done[0] and {run.status for run in mine + theirs} == {"diverged"}:
            continue  # all of them, as before: there is nothing to compare, and nothing new
        cell = _width_runs(group, width, *done)
        if cell is None:
            counts = f"{len(done[0])} done here, {len(done[1])} in the baseline"
            problems.append(Obstacle(f"{where}: {counts}; two seeds on each side are the least"))
        else:
            cells.append(cell)
    order = list(dict.fromkeys(cell.group for cell in cells))
    return sorted(cells, key=lambda cell: order.index(cell.group)), problems


def _by_cell(runs: Sequence[RunRecord]) -> dict[tuple[str, int | str], list[RunRecord]]:
    found: dict[tuple[str, int | str], list[RunRecord]] = {}
    for run in runs:
        found.setdefault((run.group, run.width), []).append(run)
    return found


def _of_runs(now: Sequence[RunRecord], then: Sequence[RunRecord], where: str) -> Iterator[Obstacle]:
    before = {run.seed: run.status for run in then}
    for status in ("missing", "failed", "diverged"):
        seeds = [run.seed for run in now if run.status == status and before.get(run.seed) != status]
        if seeds:
            yield Obstacle(f"{where}: {len(seeds)} of {len(now)} runs {status} ({_some(seeds)})", status != "missing")
    seeds = [run.seed for run in now if run.status == "done" and before.get(run.seed) == "diverged"]
    if seeds:
        yield Obstacle(f"{where}: {len(seeds)} runs that diverged in the baseline do no more ({_some(seeds)})")


def _some(seeds: Sequence[int]) -> str:
    return f"seed {', '.join(map(str, seeds[:5]))}" + (", ..." if len(seeds) > 5 else "")


def _width_runs(group: str, width: int | str, now: list[RunRecord], then: list[RunRecord]) -> WidthRuns | None:
    mine, theirs = ({run.seed: run for run in side} for side in (now, then))
    shared = sorted(mine.keys() & theirs.keys())
    if len(shared) >= 2:
        return WidthRuns(group, width, [mine[seed] for seed in shared], [theirs[seed] for seed in shared], True)
    return WidthRuns(group, width, now, then, False) if min(len(now), len(then)) >= 2 else None


# ---------------------------------------------------------------- numbers against numbers


def sides_of(cells: list[WidthRuns]) -> Iterator[Sides]:
    """Every quantity that either side of a group has: estimates first, then curves."""
    runs = [run for cell in cells for run in (*cell.now, *cell.then)]
    largest = _largest([run for cell in cells for run in cell.then])
    for curve in (False, True):
        names = dict.fromkeys(name for run in runs for name in (run.curves if curve else run.estimates))
        for name in sorted(names):
            floor = max(_floor(name, largest, runs[0].dtype), 1e-300)
            yield _sides(cells, name, curve, floor)


def _largest(runs: Sequence[RunRecord]) -> dict[str, float]:
    """The largest absolute value of each quantity anywhere in these runs."""
    found: dict[str, float] = {}
    for run in runs:
        for name, values in [*run.curves.items(), *((name, (value,)) for name, value in run.estimates.items())]:
            stem = name.split(".")[0]
            found[stem] = max([found.get(stem, 0.0), *(abs(value) for value in values if value is not None)])
    return found


def _floor(name: str, largest: dict[str, float], dtype: str) -> float:
    """Below this, a value of the quantity is rounding: (100 ε)^power times what it is relative to."""
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
        here & there & ~((np.abs(a) <= floor).all(axis=0) & (np.abs(b) <= floor).all(axis=0))
        for (here, there), a, b in zip(finite, now, then, strict=True)
    ]
    why = _why(name, curve, finite, judged)
    kept = [k for k in range(len(cells)) if judged[k].any()]
    scaled = [_scaled(now[k], then[k], judged[k], floor, logarithmic) for k in kept]
    return Sides(
        name,
        curve,
        steps,
        [cells[k] for k in kept],
        [pair[0] for pair in scaled],
        [pair[1] for pair in scaled],
        [judged[k] for k in kept],
        logarithmic,
        why,
    )


def _runs(cells: list[WidthRuns]) -> list[tuple[list[RunRecord], list[RunRecord]]]:
    return [(cell.now, cell.then) for cell in cells]


def _common_steps(cells: list[WidthRuns]) -> tuple[int, ...]:
    sets = [set(run.steps) for cell in cells for run in (*cell.now, *cell.then)]
    return tuple(sorted(set.intersection(*sets)))


def _matrix(runs: Sequence[RunRecord], name: str, curve: bool, steps: Sequence[int]) -> np.ndarray:
    """(seeds, steps), nan where there is no number."""
    if not curve:
        return np.array([[run.estimates.get(name)] for run in runs], dtype=float)
    places = {kept: [kept.index(step) for step in steps] for kept in {run.steps for run in runs}}
    absent = (None,) * max(map(len, places))
    rows = [[run.curves.get(name, absent)[k] for k in places[run.steps]] for run in runs]
    return np.array(rows, dtype=float)


def _why(
    name: str, curve: bool, finite: Sequence[tuple[np.ndarray, np.ndarray]], judged: Sequence[np.ndarray]
) -> str | Obstacle:
    label = f"{name}(t)" if curve else name
    if any((there & ~here).any() for here, there in finite):
        return Obstacle(f"{label}: no number now where the baseline has one")
    if any(step.any() for step in judged):
        return ""
    if any(here.any() for here, _ in finite) and not any(there.any() for _, there in finite):
        return NEW
    if not any(here.any() for here, _ in finite):
        return "no numbers on either side"
    return "at the level of rounding on both sides"


def _scaled(
    now: np.ndarray, then: np.ndarray, judged: np.ndarray, floor: float, logarithmic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both on the scale where a difference is a relative change; 0 at steps that are not judged."""
    a, b = (np.where(judged, side, 1.0) for side in (now, then))
    if logarithmic:
        a, b = (np.log(np.maximum(side, floor)) for side in (a, b))
        return np.where(judged, a, 0.0), np.where(judged, b, 0.0)
    scale = np.maximum(np.sqrt(np.square(b).mean(axis=0)), floor)
    return np.where(judged, a / scale, 0.0), np.where(judged, b / scale, 0.0)
