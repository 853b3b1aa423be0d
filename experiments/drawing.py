"""Parts of the experiments' figures; their style is that of ntkrun's own figures (pieces.py)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ntkrun.evidence.cells import BEYOND, bar_position
from ntkrun.evidence.estimates.cases import AT, AXES, Case, cases, settings_text
from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.per_run import done
from ntkrun.evidence.figures.pieces import COLUMN, HIDDEN_WIDTH, PAGE, headed, wedge
from ntkrun.evidence.reasons import INCONCLUSIVE, REFUTED, SUPPORTED
from ntkrun.evidence.records import Finding, Verdict
from ntkrun.experiments.framework import Drawn, Evidence

OF_VERDICT = {SUPPORTED: "C2", REFUTED: "C1", INCONCLUSIVE: "0.5"}
MARKERS = "osD^vPX"
DOTS = "Dots: seeds; markers: means; slopes with the 95 % interval that is judged; wedges: expected slopes."
AXIS_LABELS = {"width": HIDDEN_WIDTH, "output scale": "output scale α", "step size": "step size η"}
LONG = 30  # length of a name above which it gets its own line in a legend
MOST_DOTS = 50  # largest number of seeds at one point that are drawn individually


def canvas(title: str, across: int = 1, down: int = 1, height: float = 2.6, share: bool = False) -> tuple[Figure, Any]:
    """Return a figure as wide as a column, or as a page for several axes across, and its axes (down, across)."""
    figure = Figure(figsize=(COLUMN if across == 1 else PAGE, height * down))
    headed(figure, title)
    return figure, figure.subplots(down, across, squeeze=False, sharex=share, sharey=share)


def band(ax: Axes, x: Any, low: Any, high: Any, colour: str, label: str | None = None) -> None:
    """Shade the region between two curves."""
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, label=label)


def sizes(table: pd.DataFrame) -> list[Any]:
    """Return the widths of a table, from narrow to wide."""
    return sorted(table[WIDTH].unique())


def with_runs(table: pd.DataFrame, runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows of runs that reached their last step, with seed, width and further columns of the runs."""
    return table.merge(done(runs)[list(dict.fromkeys(["run_id", "seed", WIDTH, *columns]))], on="run_id")


def mark(k: int) -> dict[str, Any]:
    """Return colour and marker of the k-th curve. After the seventh, markers are hollow and lines dashed, so that all
    curves differ, also in grey."""
    hollow = k >= len(MARKERS)
    look = {"color": f"C{k % 7}", "marker": MARKERS[k % 7], "linestyle": "--" if hollow else "-"}
    return {**look, "markerfacecolor": "white"} if hollow else look


def with_bars(ax: Axes, x: Any, y: Any, low: Any, high: Any, look: Mapping[str, Any], label: str) -> None:
    """Draw markers with their intervals, without a bar where the interval is nan."""
    bars = np.nan_to_num([y - low, high - y])
    ax.errorbar(x, y, bars, capsize=2, elinewidth=0.8, label=label, **{**look, "linestyle": ""})


def lost(ax: Axes, at: Any) -> None:
    """Draw a cross at the top for each run that diverged: its numbers are meaningless."""
    if len(at):
        top = np.full(len(at), 0.95)
        ax.plot(at, top, "x", color="k", alpha=0.6, label="diverged", transform=ax.get_xaxis_transform())


def levels(ax: Axes, case: Case, column: str, look: Mapping[str, Any], label: str) -> None:
    """Draw a column of per_run against the axis of a case, log-log: every seed, and the means."""
    table = case.trained[(case.trained["status"] == "done") & (case.trained[column] > 0)]
    mean = table.groupby(AT)[column].mean()
    first = not ax.lines
    if table.groupby(AT).size().max() <= MOST_DOTS:
        ax.plot(table[AT], table[column], ".", color=look["color"], alpha=0.4, markeredgewidth=0)
    ax.plot(mean.index, mean, linewidth=0.8, label=label, **look)
    log_axes(ax, mean.index if first else [*mean.index, *ax.get_xticks()])


def log_axes(ax: Axes, at: Iterable[float]) -> None:
    """Make both axes logarithmic, with ticks at these values on the x axis as far as their labels fit."""
    ticks = _spaced(sorted(set(at)), 0.1 if ax.get_position().width > 0.3 else 0.2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(ticks, [f"{tick:.3g}" if tick < 1000 else f"{tick:.0f}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _spaced(ticks: Sequence[float], share: float) -> list[float]:
    """Return the ticks that lie at least this share of the whole logarithmic axis above the previous one."""
    spaced = list(ticks[:1])
    for tick in ticks[1:]:
        if math.log(tick / spaced[-1]) >= share * math.log(ticks[-1] / ticks[0]):
            spaced.append(tick)
    return spaced


def against_axis(evidence: Evidence, axis: str, column: str, label: str, part: str) -> Figure:
    """Return a figure of a column of per_run against an axis of claims, with a colour for each combination of the other
    varied settings and the slope by which the claim's part was judged; for up to three combinations with the expected
    slopes."""
    all_cases = list(cases(evidence.only, AXES[axis]))
    slopes = {v.case: finding for v in evidence.verdicts for finding in v.parts if finding.part == part}
    figure, axes = canvas("", height=2.6 if len(all_cases) < 4 else 4.0)
    ax = axes[0, 0]
    for k, case in enumerate(all_cases):
        name = settings_text(case.settings)
        judged = slopes.get(name)
        levels(ax, case, column, mark(k), _with_slope(name, judged))
        if judged and len(all_cases) < 4:
            _wedge(ax, case, column, judged, mark(k)["color"])
    ax.set_xlabel(AXIS_LABELS[axis])
    ax.set_ylabel(label)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", fontsize=6)
    return figure


def one_law(
    stem: str, axis: str, column: str, label: str, part: str, caption: str
) -> Callable[[Evidence], Iterator[Drawn]]:
    """Return the figures of an experiment about a single law: `against_axis`, and the verdicts."""

    def figures(evidence: Evidence) -> Iterator[Drawn]:
        yield stem, against_axis(evidence, axis, column, label, part), f"{caption} {DOTS}"
        yield from shown_verdicts(evidence)

    return figures


def _with_slope(name: str, judged: Finding | None) -> str:
    """Return a legend entry: 'activation relu: slope −1.01 [−1.07, −0.95]'; '_' without name and slope, which
    matplotlib leaves out of legends."""
    if judged is None or math.isnan(judged.estimate):
        return name or "_"
    low, high = judged.interval
    slope = f"slope {judged.estimate:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")
    separator = ("\n" if len(name) > LONG else ": ") if name else ""
    return f"{name}{separator}{slope.replace('-', '−')}"


def _wedge(ax: Axes, case: Case, column: str, judged: Finding, colour: str) -> None:
    """Draw the expected slopes as a wedge through the middle of the means within the fit range."""
    start, end = judged.fit_range
    means = case.statistics.groupby(AT)[column].mean().loc[start:end]
    if len(means) < 2 or any(map(math.isinf, judged.expected)):
        return
    middle, through = (float(np.exp(np.log(values).mean())) for values in (means.index.to_numpy(float), means))
    wedge(ax, judged.fit_range, (middle, through), judged.expected, colour)


def shown_verdicts(evidence: Evidence) -> list[Drawn]:
    """Return the figure of the verdicts: the interval of each part of each claim against its margin."""
    several = len(evidence.judgements) > 1
    lines = [
        (f"{verdict.sweep.split('/')[-1]}: " * several + _line_label(verdict, finding), finding)
        for verdict in evidence.verdicts
        for finding in weakest(verdict.parts)
    ]
    if not lines:
        return []
    figure, axes = canvas("interval of each part, in units of its margin", height=0.7 + 0.2 * len(lines))
    figure.set_figwidth(PAGE)
    ax = axes[0, 0]
    ax.axvspan(0, 1, color="0.9", linewidth=0)
    for y, (_, finding) in enumerate(lines):
        _interval(ax, y, finding)
    ax.set_yticks(range(len(lines)), [name for name, _ in lines])
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlim(-BEYOND - 0.1, 1 + BEYOND + 0.1)
    ax.set_xticks([0, 1], ["low end", "high end"])
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(lines)), [_numbers(finding) for _, finding in lines])
    right.spines["right"].set_visible(False)
    for axis in (ax, right):
        axis.tick_params(axis="y", length=0)
    ax.grid(False)
    caption = (
        "Each part of each claim (of a part that is judged at every width, the weakest): the estimate and its interval "
        "(95 % for all parts of a claim together) against its margin, which is shaded and scaled to the same width; on "
        "the right the measured and the expected numbers. Green: supported; orange: refuted; grey: inconclusive; "
        "hollow: without an interval. Values further out are drawn at the edge."
    )
    return [("verdicts", figure, caption)]


def weakest(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, but of a part that is judged at each value of the axis ('second at 64') the one that is
    nearest to an edge of its margin."""
    of_parts = dict[str, Finding]()
    for finding in findings:
        part = finding.part.split(" at ")[0]
        of_parts[part] = min(of_parts.get(part, finding), finding, key=lambda each: each.room)
    return list(of_parts.values())


def _line_label(verdict: Verdict, finding: Finding) -> str:
    part = f", {finding.part}" if finding.part and len(verdict.parts) > 1 else ""
    settings = f" ({verdict.case})" if verdict.case else ""
    return verdict.name + part + settings


def _numbers(finding: Finding) -> str:
    return f"{finding.measured}  vs  {finding.margin}"


def _interval(ax: Axes, y: int, finding: Finding) -> None:
    if math.isnan(finding.estimate):
        return
    value, *ends = (bar_position(x, finding.expected) for x in (finding.estimate, *finding.interval))
    colour, has_interval = OF_VERDICT[finding.verdict], not any(map(math.isnan, ends))
    if has_interval:
        ax.plot(ends, [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    ax.plot([value], [y], "o", color=colour, markerfacecolor=colour if has_interval else "white")
