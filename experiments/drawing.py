"""What the experiments' figures are made of; the look is ntkrun's own (pieces.py)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ntkrun.evidence.claims.findings import INCONCLUSIVE, REFUTED, SUPPORTED, Finding
from ntkrun.evidence.claims.verdicts import Verdict
from ntkrun.evidence.estimates.cases import AT, AXES, Case, cases
from ntkrun.evidence.estimates.cases import settings_text as label_of
from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.per_run import done
from ntkrun.evidence.figures.pieces import COLUMN, HIDDEN_WIDTH, PAGE, headed, wedge
from ntkrun.experiments.framework import Drawn, Found
from ntkrun.report.tables import BEYOND, bar_position, estimate_text, interval_text

OF_VERDICT = {SUPPORTED: "C2", REFUTED: "C1", INCONCLUSIVE: "0.5"}
MARKERS = "osD^vPX"
DOTS = "Dots: seeds; markers: means; slopes with the 95 % interval that is judged; wedges: the slopes expected."
AXIS_LABELS = {"width": HIDDEN_WIDTH, "output scale": "output scale α", "step size": "step size η"}
LONG = 30  # letters of a name that has a line of a legend to itself
MOST_DOTS = 50  # seeds at one place that are drawn one by one


def canvas(title: str, across: int = 1, down: int = 1, height: float = 2.6, share: bool = False) -> tuple[Figure, Any]:
    """A figure of a column's width, or a page's for several axes across, and its axes (down, across)."""
    figure = Figure(figsize=(COLUMN if across == 1 else PAGE, height * down))
    headed(figure, title)
    return figure, figure.subplots(down, across, squeeze=False, sharex=share, sharey=share)


def band(ax: Axes, x: Any, low: Any, high: Any, colour: str, settings_text: str | None = None) -> None:
    """A shaded region between two curves."""
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, label=settings_text)


def sizes(table: pd.DataFrame) -> list[Any]:
    """The widths of a table, from narrow to wide."""
    return sorted(table[WIDTH].unique())


def with_runs(table: pd.DataFrame, runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A table of runs with their seed, width and other columns beside; of those that reached their last step."""
    return table.merge(done(runs)[list(dict.fromkeys(["run_id", "seed", WIDTH, *columns]))], on="run_id")


def mark(k: int) -> dict[str, Any]:
    """Colour and marker of the k-th curve: after the seven colours hollow markers and dashes, so that no two look
    alike, in grey as little as in colour."""
    again = k >= len(MARKERS)
    look = {"color": f"C{k % 7}", "marker": MARKERS[k % 7], "linestyle": "--" if again else "-"}
    return {**look, "markerfacecolor": "white"} if again else look


def with_bars(ax: Axes, x: Any, y: Any, low: Any, high: Any, look: Mapping[str, Any], settings_text: str) -> None:
    """Markers with their intervals; none where it is nan."""
    bars = np.nan_to_num([y - low, high - y])
    ax.errorbar(x, y, bars, capsize=2, elinewidth=0.8, label=settings_text, **{**look, "linestyle": ""})


def lost(ax: Axes, at: Any) -> None:
    """A cross at the rim for each run that diverged: its numbers mean nothing."""
    if len(at):
        top = np.full(len(at), 0.95)
        ax.plot(at, top, "x", color="k", alpha=0.6, label="diverged", transform=ax.get_xaxis_transform())


def levels(ax: Axes, case: Case, column: str, look: Mapping[str, Any], settings_text: str) -> None:
    """A column of per_run against the axis of a case, log-log: every seed, and the means."""
    table = case.trained[(case.trained["status"] == "done") & (case.trained[column] > 0)]
    mean = table.groupby(AT)[column].mean()
    first = not ax.lines
    if table.groupby(AT).size().max() <= MOST_DOTS:
        ax.plot(table[AT], table[column], ".", color=look["color"], alpha=0.4, markeredgewidth=0)
    ax.plot(mean.index, mean, linewidth=0.8, label=settings_text, **look)
    log_axes(ax, mean.index if first else [*mean.index, *ax.get_xticks()])


def log_axes(ax: Axes, at: Iterable[float]) -> None:
    """Both axes logarithmic, with ticks at these values below, as far as their labels have room."""
    ticks = _apart(sorted(set(at)), 0.1 if ax.get_position().width > 0.3 else 0.2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(ticks, [f"{tick:.3g}" if tick < 1000 else f"{tick:.0f}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _apart(ticks: Sequence[float], share: float) -> list[float]:
    """Those that lie at least this share of the whole axis, in logarithms, above the one before."""
    kept = list(ticks[:1])
    for tick in ticks[1:]:
        if math.log(tick / kept[-1]) >= share * math.log(ticks[-1] / ticks[0]):
            kept.append(tick)
    return kept


def against_axis(found: Found, axis: str, column: str, settings_text: str, part: str) -> Figure:
    """A column of per_run against an axis of claims, a colour for each setting of what else the sweep varies; with the
    slope that the claim's part was judged by, and up to three of them with the slopes that are expected."""
    every = list(cases(found.only, AXES[axis]))
    slopes = {label_of(verdict.settings): each for _, verdict in found.judged for each in verdict.findings
              if each.part == part}  # fmt: skip
    figure, axes = canvas("", height=2.6 if len(every) < 4 else 4.0)
    ax = axes[0, 0]
    for k, case in enumerate(every):
        name = label_of(case.settings)
        judged = slopes.get(name)
        levels(ax, case, column, mark(k), _with_slope(name, judged))
        if judged and len(every) < 4:
            _wedge(ax, case, column, judged, mark(k)["color"])
    ax.set_xlabel(AXIS_LABELS[axis])
    ax.set_ylabel(settings_text)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", fontsize=6)
    return figure


def one_law(
    stem: str, axis: str, column: str, settings_text: str, part: str, caption: str
) -> Callable[[Found], Iterator[Drawn]]:
    """The figures of an experiment that is about one law: `against_axis`, and the verdicts."""

    def figures(found: Found) -> Iterator[Drawn]:
        yield stem, against_axis(found, axis, column, settings_text, part), f"{caption} {DOTS}"
        yield from shown_verdicts(found)

    return figures


def _with_slope(name: str, judged: Finding | None) -> str:
    """'activation relu: slope −1.01 [−1.07, −0.95]'; '_' before what has neither name nor slope keeps it out of a
    legend."""
    if judged is None or math.isnan(judged.estimate.value):
        return name or "_"
    low, high = judged.estimate.interval
    slope = f"slope {judged.estimate.value:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")
    between = ("\n" if len(name) > LONG else ": ") if name else ""
    return f"{name}{between}{slope.replace('-', '−')}"


def _wedge(ax: Axes, case: Case, column: str, judged: Finding, colour: str) -> None:
    """The slopes that are expected, through the middle of the means within the fit range."""
    start, end = judged.estimate.fit_range
    means = case.statistics.groupby(AT)[column].mean().loc[start:end]
    if len(means) < 2 or any(map(math.isinf, judged.expected)):
        return
    middle, through = (float(np.exp(np.log(values).mean())) for values in (means.index.to_numpy(float), means))
    wedge(ax, judged.estimate.fit_range, (middle, through), judged.expected, colour)


def shown_verdicts(found: Found) -> list[Drawn]:
    """Every part of every claim: its interval against its margin."""
    several = len(found.verdicts) > 1
    lines = [
        (f"{name.split('/')[-1]}: " * several + _line_label(verdict, each), each)
        for name, verdict in found.judged
        for each in verdict.findings
    ]
    if not lines:
        return []
    figure, axes = canvas("the interval of each part, in units of its margin", height=0.7 + 0.2 * len(lines))
    figure.set_figwidth(PAGE)
    ax = axes[0, 0]
    ax.axvspan(0, 1, color="0.9", linewidth=0)
    for y, (_, each) in enumerate(lines):
        _interval(ax, y, each)
    ax.set_yticks(range(len(lines)), [name for name, _ in lines])
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlim(-BEYOND - 0.1, 1 + BEYOND + 0.1)
    ax.set_xticks([0, 1], ["low end", "high end"])
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(lines)), [_numbers(each) for _, each in lines])
    right.spines["right"].set_visible(False)
    for axis in (ax, right):
        axis.tick_params(axis="y", length=0)
    ax.grid(False)
    caption = (
        "Each part of each claim: the estimate and its 95 % interval (of a claim's parts together) against its margin, "
        "which is shaded and scaled to one width; on the right in numbers, measured and expected. Green: supported, "
        "orange: refuted, grey: inconclusive, hollow without an interval. What lies further out is drawn at the rim."
    )
    return [("verdicts", figure, caption)]


def _line_label(verdict: Verdict, each: Finding) -> str:
    part = f", {each.part}" if each.part and len(verdict.findings) > 1 else ""
    where = f" ({verdict.label})" if verdict.label else ""
    return verdict.claim.name + part + where


def _numbers(each: Finding) -> str:
    return f"{estimate_text(each.estimate)}  in  {interval_text(each.expected)}"


def _interval(ax: Axes, y: int, each: Finding) -> None:
    if math.isnan(each.estimate.value):
        return
    value, *ends = (bar_position(x, each.expected) for x in (each.estimate.value, *each.estimate.interval))
    colour, known = OF_VERDICT[each.verdict], not any(map(math.isnan, ends))
    if known:
        ax.plot(ends, [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    ax.plot([value], [y], "o", color=colour, markerfacecolor=colour if known else "white")
