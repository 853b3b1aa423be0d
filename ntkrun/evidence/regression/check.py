"""`ntkrun check`: compares a sweep's numbers with a baseline file and draws the comparison, or rewrites the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ntkrun.errors import UserError
from ntkrun.evidence.figures.pieces import PAGE, settle
from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, STYLE, saved
from ntkrun.evidence.regression.baseline import (
    Baseline,
    RunRecord,
    changes,
    differing_keys,
    read_baseline,
    records,
    written,
)
from ntkrun.evidence.regression.check_tables import label, worst
from ntkrun.evidence.regression.comparison import MARGIN, Check, Comparison, compare
from ntkrun.files.writing import write_text
from ntkrun.store.results_directory import Results, Store


def check(run_dir: Path, path: Path) -> tuple[Check, Baseline, Path]:
    """Compare a sweep's results with the baseline in a file, and draw the comparison. Return it, the baseline and the
    figure's path. Raises UserError where the baseline belongs to another config."""
    store = Store(run_dir)
    results, description, known = store.read(), store.description(), read_baseline(path)
    if description["config_hash"] != known.config_hash:
        _check_config(description, known, path)
    comparison = compare(_records(store, results), known.runs)
    files = saved(check_figure(comparison), ALWAYS)
    paths = [results.write_figure(f"check.{ending}", raw) for ending, raw in files.items()]
    results.remove_figure("check", ON_REQUEST)  # a PDF of an earlier version
    return comparison, known, paths[0]


def update(run_dir: Path, path: Path) -> tuple[int, list[str]]:
    """Write the baseline from a sweep's results. Return the number of its runs, and a line for each change."""
    store = Store(run_dir)
    run_records = _records(store, store.read())
    before = read_baseline(path) if path.exists() else None
    write_text(path, written(store.description(), run_records))
    return len(run_records), changes(before, read_baseline(path)) if before else ["new"]


def _records(store: Store, results: Results) -> Sequence[RunRecord]:
    return records(store.plan(), results.runs, results.steps, results.layers)


def _check_config(description: dict[str, Any], known: Baseline, path: Path) -> None:
    """Check that the baseline has the sweep's config, apart from name, seeds and claims. Raises UserError where not."""

    def completed(config: Mapping[str, Any]) -> dict[str, Any]:
        from ntkrun.config import schema as sections  # imports torch: only needed for configs of different versions

        return sections.completed(config)

    if differing := differing_keys(description["config"], known.config, completed):
        raise UserError(f"{path}: this baseline belongs to another config: {', '.join(differing)}")


# ---------------------------------------------------------------- check_figure


COLOURS = {"fine": "C2", "regression": "C1", "inconclusive": "0.45"}
SHOWN = 10
CAPTION = (
    "Changes of the results relative to the baseline. Left: the quantities that changed most, with the intervals of "
    "their tests (changes within the grey band never count as a regression). Right: the curve that changed most, step "
    "by step."
)


def check_figure(check: Check) -> Figure:
    """Draw the changes in per cent. The axis shows every change; wide intervals run out of it."""
    with mpl.rc_context(fname=STYLE):
        rows = worst(check, SHOWN)
        figure = Figure(figsize=(PAGE, max(2.0, 0.9 + 0.22 * len(rows))))
        FigureCanvasAgg(figure)
        figure.suptitle(f"{check.verdict}: changes relative to the baseline", fontsize=8)
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
        _quantities(left, rows)
        _curve(right, check)
        return settle(figure)


def _quantities(ax: Axes, rows: Sequence[Comparison]) -> None:
    for place, row in enumerate(rows):
        _bar(ax, row, place, horizontal=True)
    ax.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.9", zorder=0)
    ax.axvline(0, color="0.4", linewidth=0.6)
    ax.set_yticks(range(len(rows)), [f"{label(row)[:40]}, {row.place}" for row in rows], fontsize=6)
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    ax.set_xlim(*_limits(rows))
    ax.set_xlabel("change, %")
    ax.grid(axis="y", visible=False)


def _curve(ax: Axes, check: Check) -> None:
    curves = [row for row in check.comparisons if row.curve and row.place.startswith("step")]
    chosen = next((row for row in worst(check, len(check.comparisons)) if row.curve), None)
    points = [row for row in curves if chosen and (row.group, row.quantity) == (chosen.group, chosen.quantity)]
    if not points:
        ax.text(0.5, 0.5, "no curve to compare", ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    for row in points:
        _bar(ax, row, float(row.place.split()[1]), horizontal=False)
    steps = [float(row.place.split()[1]) for row in points]
    ax.plot(steps, [100 * row.change for row in points], color="0.4", linewidth=0.8, zorder=1)
    ax.axhspan(-100 * MARGIN, 100 * MARGIN, color="0.9", zorder=0)
    ax.axhline(0, color="0.4", linewidth=0.6)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(-0.2, max(steps) * 1.3 + 0.2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(*_limits(points))
    ax.set_xlabel("step")
    ax.set_ylabel("change, %")
    ax.set_title(label(points[0])[:60], fontsize=7)


def _bar(ax: Axes, row: Comparison, place: float, horizontal: bool) -> None:
    value, ends = 100 * row.change, [[100 * (row.change - row.interval[0])], [100 * (row.interval[1] - row.change)]]
    x, y, x_ends, y_ends = (value, place, ends, None) if horizontal else (place, value, None, ends)
    ax.errorbar(x, y, y_ends, x_ends, fmt="o", color=COLOURS[row.verdict], capsize=1.5, elinewidth=0.8)


def _limits(rows: Sequence[Comparison]) -> tuple[float, float]:
    """Return the limits of an axis: every change, and intervals up to three times the largest change (or 8 %)."""
    changes = 100 * np.array([[row.change, *row.interval] for row in rows] or [[0.0, 0.0, 0.0]])
    reach = max(8.0, 3 * float(np.abs(changes[:, 0]).max()))
    return max(-reach, min(-2.5, 1.15 * changes.min())), min(reach, max(2.5, 1.15 * changes.max()))
