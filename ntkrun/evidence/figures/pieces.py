"""Building blocks of all figures: sizes, axis labels, colours, panels and legends."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ntkrun.evidence.estimates.cases import architecture_text, value_text
from ntkrun.evidence.estimates.intervals import WIDTH, Interval
from ntkrun.evidence.estimates.summary import Group

COLUMN, PAGE = 3.4, 7.0  # inches: the width of one column of a paper, and of both
MOST_MINOR = 3  # minor ticks are drawn if an axis spans fewer powers of ten than this
NARROW, WIDE = 16, 4096  # the widths with the first and the last colour
FEW_WIDTHS = 8  # the largest number of widths named in a legend or at the ticks of an axis
KERNEL = r"$\Vert K_t-K_0\Vert_F\,/\,\Vert K_0\Vert_F$"
WEIGHTS = r"$\Vert w^{(l)}_t-w^{(l)}_0\Vert_F\,/\,\Vert w^{(l)}_0\Vert_F$"
TIME = "time t = step · η"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
HIDDEN_WIDTH = "hidden width n"


def width_colours(widths: Iterable[Any]) -> dict[Any, Any]:
    """Return one colour per width, the same in every figure of every sweep. Colours are from viridis, dark for narrow
    networks, by the logarithm of the width between NARROW and WIDE. Widths that are lists (one width per layer) are
    sorted and spaced evenly."""
    distinct = sorted(set(widths))
    numeric = all(isinstance(width, int | float | np.number) for width in distinct)
    if numeric:
        places = np.log(np.array(distinct, float) / NARROW) / np.log(WIDE / NARROW)
    else:
        places = np.linspace(0, 1, len(distinct))
    shades = mpl.colormaps["viridis"](0.9 * np.clip(places, 0, 1))
    return dict(zip(distinct, map(tuple, shades), strict=True))


def new_figure(group: Group, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    headed(figure, subtitle(group, width > COLUMN))
    return figure


def headed(figure: Figure, title: str) -> None:
    """Give a figure the canvas that draws it, and a title in grey."""
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=7, color="0.35", y=1 - 0.04 / figure.get_figheight())


def settle(figure: Figure) -> Figure:
    """Fix the ticks and the layout of a figure, and return it. Otherwise they are computed again for each format that
    the figure is saved in, which is most of the time that saving takes."""
    for ax in figure.axes:
        log_ticks(ax)
        for axis in (ax.xaxis, ax.yaxis):
            _settle_ticks(axis)
    if figure.axes:
        figure.tight_layout(pad=0.5, w_pad=1.0, h_pad=1.0)
        figure.set_layout_engine(None)  # with any engine, even one that does nothing, each saving draws twice
    if figure.legends:
        _raise_above(figure, figure.legends[0])
    return figure


def _settle_ticks(axis: Axis) -> None:
    """Fix the ticks and labels that the axis shows in its current view."""
    low, high = sorted(axis.get_view_interval())
    major, minor = ([tick for tick in ticks if low <= tick <= high]
                 for ticks in (axis.get_majorticklocs(), axis.get_minorticklocs()))  # fmt: skip
    labels = FixedFormatter(axis.get_major_formatter().format_ticks(major))
    labels.set_offset_string(axis.get_major_formatter().get_offset())
    axis.set_major_locator(FixedLocator(major))
    axis.set_major_formatter(labels)
    axis.set_minor_locator(FixedLocator(minor))
    axis.set_minor_formatter(NullFormatter())


def _raise_above(figure: Figure, legend: Legend) -> None:
    """Shorten the axes by the height of a legend below all of them."""
    layout, spec = figure.subplotpars, figure.axes[0].get_subplotspec()
    rows = spec.get_gridspec().nrows if spec else 1
    height = (layout.top - layout.bottom) / (rows + layout.hspace * (rows - 1))
    legend_height = legend.get_window_extent().height / figure.bbox.height
    space = layout.hspace * height / (height - legend_height / rows)
    figure.subplots_adjust(bottom=layout.bottom + legend_height, hspace=space)


def panels(
    group: Group, count: int, width: float, height: float, across: int | None = None, share: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = new_figure(group, width, height)
    across = across or count
    rows = math.ceil(count / across)
    grid = figure.subplots(rows, across, squeeze=False, sharex=share, sharey=share)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def subtitle(group: Group, wide: bool) -> str:
    """Return the config in one line (two in a narrow figure), such as 'digits, N = 64, L = 4, relu, β = 0.1, ...'."""
    first = group.runs.iloc[0]
    classes = first.get("data.classes")
    data = f"{first['data.name']}" + (f" {classes}" if isinstance(classes, str) else "")
    counts = group.runs.groupby(WIDTH)["seed"].nunique()
    seeds = f"{counts.max()} seeds" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()} seeds"
    parts = [
        f"{data}, N = {first['data.samples']}, L = {first['network.depth']}, "
        f"{first['network.activation']}, β = {first['network.beta']:g}, "
        rf"$\sigma_w$ = {first['network.weight_scale']:g}" + _unusual(first),
        f"η = {first['step_size']:.3g}, {first['training.steps']} steps, {first['training.dtype']}, "
        + (seeds if counts.max() > 1 else "1 seed"),
    ]
    return ("; " if wide else "\n").join(parts)


# Settings that the subtitle shows only if they differ from the default: the column, the default and the text.
UNUSUAL = (
    ("network.parametrization", "ntk", "{}"),
    ("training.loss", "squared", "{}"),
    ("training.batch", "full", "batches of {}"),
    ("training.momentum", 0.0, "momentum {}"),
    ("training.output_scale", 1.0, "output scale {}"),
    ("data.target_scale", 1.0, "targets × {}"),
)


def _unusual(first: pd.Series) -> str:
    """Return the settings that are not the default, such as ', mean field, output scale 10 (centred)'."""
    network = {key.removeprefix("network."): first[key] for key in first.index if key.startswith("network.")}
    architecture = architecture_text({key: value for key, value in network.items() if not pd.isna(value)})
    text = f", {architecture}" if architecture else ""
    for column, default, template in UNUSUAL:
        value = first.get(column, default)
        if not pd.isna(value) and str(value) != str(default):
            text += ", " + template.format(value_text(value))
    return text


def lines(ax: Axes, table: pd.DataFrame, column: str, colours: Mapping[Any, Any]) -> None:
    """Draw the mean over seeds over time, one line per width, with the range of all seeds shaded."""
    for width, part in table.groupby(WIDTH, sort=True):
        by_step = part.groupby("step")
        time, seeds = by_step["time"].mean(), by_step[column]
        ax.fill_between(time, seeds.min(), seeds.max(), color=colours[width], alpha=0.2, linewidth=0)
        ax.plot(time, seeds.mean(), color=colours[width])
    time_axis(ax)


def time_axis(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
    ax.set_xlabel(TIME)


def log_scale(ax: Axes) -> None:
    """Make the y axis logarithmic if any drawn value is positive. A drift of exactly 0 cannot be shown on it."""
    if any((np.asarray(line.get_ydata(), float) > 0).any() for line in ax.lines):
        ax.set_yscale("log", nonpositive="mask")


def wedge(ax: Axes, span: Interval, through: tuple[float, float], slopes: Interval, colour: Any) -> None:
    """Shade the power laws through a point whose slopes lie in an interval, over a span of the axis."""
    at = np.geomspace(*span, 21)
    low, high = (through[1] * (at / through[0]) ** slope for slope in slopes)
    ax.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def width_legend(figure: Figure, colours: Mapping[Any, Any], table: pd.DataFrame) -> None:
    widths = few([width for width in colours if (table[WIDTH] == width).any()])
    lines = [mpl.lines.Line2D([], [], color=colours[width]) for width in widths]
    across = 6 if figure.get_figwidth() > COLUMN else 4
    figure.legend(
        lines,
        [str(width) for width in widths],
        title="width",
        title_fontsize=7,
        loc="outside lower center",
        ncols=across,
    )


def width_axis(ax: Axes, widths: Iterable[Any]) -> None:
    """Make the x axis logarithmic, with a tick at each width, or at FEW_WIDTHS of them if there are more."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(few(sorted(set(widths)))))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(HIDDEN_WIDTH)


def few(values: list[Any]) -> list[Any]:
    """Return at most FEW_WIDTHS of the values, evenly spaced and with both ends."""
    if len(values) <= FEW_WIDTHS:
        return values
    return [values[k] for k in np.linspace(0, len(values) - 1, FEW_WIDTHS).round().astype(int)]


def log_ticks(ax: Axes) -> None:
    """Set the ticks of a logarithmic y axis. It gets at least two labels: 1, 2 and 5 times the powers of ten if it
    spans few of them. Minor ticks are drawn between powers of ten unless there are many."""
    low, high = ax.get_ylim()
    if not low > 0 or ax.get_yscale() != "log":
        return
    if high / low > 100:
        ax.yaxis.set_major_formatter(_power_of_ten)
    else:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
    if not 100 < high / low < 10**MOST_MINOR:
        ax.yaxis.set_minor_locator(NullLocator())


def _power_of_ten(value: float, _: object = None) -> str:
    """Return a power of ten as plain text, such as '10⁻³'. Matplotlib takes ten times as long to typeset it as TeX."""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPTS)


def layer_name(group: Group, layer: int) -> str:
    """Return number and name of a layer, such as 'layer 0 (input)'."""
    return f"layer {layer}" + (f" ({group.layers[layer]})" if group.layers.get(layer) else "")
