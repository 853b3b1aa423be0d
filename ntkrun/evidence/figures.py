"""Figures of a sweep. They draw tables and estimates made elsewhere; none of them fits or judges.

Every function returns a matplotlib Figure of its own, without pyplot's hidden state.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from ntkrun.evidence.estimates import WIDTH, Exponent, level
from ntkrun.evidence.summary import Group, groups

STYLE = Path(__file__).with_name("ntkrun.mplstyle")
COLUMN, PAGE = 3.4, 7.0  # inches: one column of a paper, and both
FEW_WIDTHS = 8  # more than these are named by a colour bar's ticks alone

Kernels = Callable[[str], Mapping[str, np.ndarray] | None]
Drawn = tuple[str, Figure, str]


def draw_all(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels) -> Iterator[Drawn]:
    """Every figure that the tables give, as (file stem, figure, caption); one set for each group of runs that differ in
    width and seed alone."""
    colours = width_colours(runs)
    found = groups(runs, steps, layers)
    for number, group in enumerate(found):
        ending = "" if len(found) == 1 else f"_{number}"
        with mpl.rc_context(fname=STYLE):
            for stem, figure, caption in _of_group(group, steps, layers, kernels, colours):
                figure.draw_without_rendering()  # finds the layout once; saving in each format would find it again
                figure.set_layout_engine("none")
                yield stem + ending, figure, caption


def saver(figure: Figure) -> Callable[[Path], None]:
    """A function that saves the figure to a path, in the format of its ending, the same bytes each time."""

    def save(path: Path) -> None:
        with mpl.rc_context(fname=STYLE):
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

    return save


def _of_group(
    group: Group, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels, colours: Mapping[Any, Any]
) -> Iterator[Drawn]:
    steps, layers = (table.merge(group.runs[["run_id", WIDTH, "seed"]], on="run_id") for table in (steps, layers))
    if group.has_widths and len(group.statistics):
        yield (
            "kernel_drift",
            kernel_drift(group),
            "Relative change of the kernel, its largest over the training, against width. " + DOTS,
        )
        yield (
            "weight_drift",
            weight_drift(group),
            "Relative change of each weight matrix, its largest over the training, against width. " + DOTS,
        )
        yield "loss", loss(group), "Loss at the end of the training against width. " + LEVELS
    if len(steps):
        yield (
            "kernel_drift_time",
            over_time(group, steps, "kernel_drift", KERNEL, colours),
            "Relative change of the kernel over time" + MEANS,
        )
        yield (
            "weight_drift_time",
            layers_over_time(group, layers, steps, colours),
            "Relative change of each weight matrix over time" + MEANS,
        )
        yield "loss_time", losses_over_time(group, steps, colours), "Training and test loss over time" + MEANS
    if len(steps) and "linear_loss" in steps and steps["linear_loss"].notna().any():
        yield (
            "flows_time",
            flows_over_time(group, steps),
            "The network and what frozen kernels predict of it, on one clock: the linearised network under the same "
            "steps, gradient flow with the kernel of the start, and with that of infinite width from the same start. "
            "Mean over seeds (runs that are done); the narrowest and the widest network.",
        )
    chosen = _kernels_to_show(group, kernels)
    if chosen:
        yield (
            "kernel",
            kernel_matrices(group, chosen),
            "The kernel on the training inputs, sorted as the data are, first, last, and the difference; seed "
            + str(chosen[0][1])
            + " of the narrowest and the widest network.",
        )


FLOWS = {"loss": "network", "linear_loss": "linearised", "flow_loss": "$K_0$ flow", "limit_loss": r"$K_\infty$ flow"}
FLOW_STYLES = ("-", "--", "-.", ":")
KERNEL = r"$\Vert K_t-K_0\Vert_F\,/\,\Vert K_0\Vert_F$"
WEIGHTS = r"$\Vert w^{(l)}_t-w^{(l)}_0\Vert_F\,/\,\Vert w^{(l)}_0\Vert_F$"
TIME = r"time $t$ = step · $\eta$"
HIDDEN_WIDTH = "hidden width $n$"
LEVELS = "Faint dots: seeds; markers: mean and 95 % t interval."
DOTS = LEVELS[:-1] + "; lines: fitted power laws, slope with 95 % interval."
MEANS = ", mean over seeds, a line a width (runs that are done)."


def width_colours(runs: pd.DataFrame) -> dict[Any, Any]:
    """One colour a width, the same in every figure of a sweep: from viridis, dark for narrow, by the logarithm of the
    width."""
    widths = sorted(runs[WIDTH].unique()) if len(runs) else []
    cmap = mpl.colormaps["viridis"]
    numeric = all(isinstance(width, int | float | np.number) for width in widths)
    places = np.log(np.array(widths, float)) if numeric and widths else np.arange(len(widths), dtype=float)
    spread = np.ptp(places) if len(places) > 1 else 1.0
    return {
        width: cmap(0.88 * (place - places[0]) / (spread or 1.0)) for width, place in zip(widths, places, strict=True)
    }


def kernel_drift(group: Group) -> Figure:
    """sup_t ‖K_t-K_0‖/‖K_0‖ against width."""
    figure, axes = _panels(group, 1, COLUMN, 2.7)
    _against_width(axes[0], group, "kernel_drift", "C0", "o", "kernel")
    axes[0].set_ylabel(r"$\mathrm{sup}_t\,$" + KERNEL)
    axes[0].legend(loc="best")
    return figure


def weight_drift(group: Group) -> Figure:
    """sup_t ‖w_t-w_0‖/‖w_0‖ of each layer against width."""
    figure, axes = _panels(group, 1, COLUMN, 3.4)
    names = [
        name for name in group.statistics if name.startswith("weight_drift.") and group.statistics[name].notna().any()
    ]
    for k, name in enumerate(names):
        layer = int(name.split(".")[1])
        _against_width(
            axes[0], group, name, f"C{k % 7}", "osD^vPX"[k % 7], f"$w^{{({layer})}}$" + _place(layer, len(names))
        )
    axes[0].set_ylabel(r"$\mathrm{sup}_t\,$" + WEIGHTS)
    figure.legend(loc="outside lower center", ncols=1 if len(names) < 5 else 2)
    return figure


def loss(group: Group) -> Figure:
    """The last training and test loss against width."""
    figure, axes = _panels(group, 1, COLUMN, 2.7)
    _against_width(axes[0], group, "loss", "C0", "o", "training", fitted=False)
    if group.statistics["test_loss"].notna().any():
        _against_width(axes[0], group, "test_loss", "C1", "s", "test", fitted=False)
    axes[0].set_ylabel("loss at the last step")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def over_time(group: Group, steps: pd.DataFrame, column: str, label: str, colours: Mapping[Any, Any]) -> Figure:
    """One quantity over time, a line a width."""
    figure, axes = _panels(group, 1, COLUMN, 2.7)
    _lines(axes[0], steps, column, colours)
    _log_scale(axes[0])
    axes[0].set_ylabel(label)
    _width_legend(figure, colours, steps)
    return figure


def losses_over_time(group: Group, steps: pd.DataFrame, colours: Mapping[Any, Any]) -> Figure:
    """Training loss and, where there is one, test loss over time, a line a width."""
    columns = [("loss", "training loss"), ("test_loss", "test loss")]
    shown = [pair for pair in columns if steps[pair[0]].notna().any()]
    figure, axes = _panels(group, len(shown), COLUMN if len(shown) == 1 else PAGE, 2.7)
    for ax, (column, label) in zip(axes, shown, strict=True):
        _lines(ax, steps, column, colours)
        _log_scale(ax)
        ax.set_ylabel(label)
    _width_legend(figure, colours, steps)
    return figure


def flows_over_time(group: Group, steps: pd.DataFrame) -> Figure:
    """The losses of the network and of its three predictions over time: the narrowest and the widest network side by
    side, training above test inputs."""
    widths = sorted(steps[WIDTH].unique())
    widths = widths if len(widths) == 1 else [widths[0], widths[-1]]
    parts = [(prefix, label) for prefix, label in (("", "training loss"), ("test_", "test loss"))
             if steps[f"{prefix}loss"].notna().any()]  # fmt: skip
    figure, axes = _panels(group, len(parts) * len(widths), PAGE, 0.7 + 2.1 * len(parts), len(widths))
    for k, ax in enumerate(axes):
        (prefix, label), width = parts[k // len(widths)], widths[k % len(widths)]
        part = steps[steps[WIDTH] == width]
        for number, (flow, name) in enumerate(FLOWS.items()):
            if steps[f"{prefix}{flow}"].isna().all():
                continue  # no limit kernel
            mean = part.groupby("step")[["time", f"{prefix}{flow}"]].mean()
            (line,) = ax.plot(
                mean["time"], mean[f"{prefix}{flow}"], FLOW_STYLES[number], label=name if k == 0 else None
            )
            line.set(color=f"C{number}", linewidth=2.2 - 0.4 * number)
        _log_scale(ax)
        ax.set_title(f"width {width}")
        ax.set_xlabel(TIME)
        ax.set_ylabel(label if k % len(widths) == 0 else "")
    figure.legend(loc="outside lower center", ncols=4, handlelength=3.2)
    return figure


def layers_over_time(group: Group, layers: pd.DataFrame, steps: pd.DataFrame, colours: Mapping[Any, Any]) -> Figure:
    """The relative change of each weight matrix over time: a panel a layer, a line a width."""
    depth = int(layers["layer"].max()) + 1
    times = steps[["run_id", "step", "time"]]
    across = min(depth, 4)
    rows = math.ceil(depth / across)
    figure, axes = _panels(group, depth, PAGE if across > 1 else COLUMN, 0.5 + 2.1 * rows, across, share=True)
    for layer, ax in enumerate(axes):
        of_layer = layers[layers["layer"] == layer].merge(times, on=["run_id", "step"])
        _lines(ax, of_layer, "weight_drift", colours)
        _log_scale(ax)
        ax.set_title(f"$w^{{({layer})}}$" + _place(layer, depth))
        ax.set_ylabel(WEIGHTS if layer % across == 0 else "")
    _width_legend(figure, colours, layers)
    return figure


def kernel_matrices(group: Group, chosen: Sequence[tuple[Any, int, Mapping[str, np.ndarray]]]) -> Figure:
    """K_first, K_last and their difference on the training inputs, a row a network: `chosen` is (width, seed, kernels).
    Output 0 with itself."""
    figure = _figure(group, PAGE, 2.0 * len(chosen) + 0.3)
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, (width, seed, kept) in zip(axes, chosen, strict=True):
        first, last = (kept["ntk"][k][:, :, 0, 0] for k in (0, -1))
        scale = Normalize(min(first.min(), last.min()), max(first.max(), last.max()))
        change = float(np.abs(last - first).max()) or 1.0
        for ax, matrix, title in (
            (row[0], first, f"step {kept['steps'][0]}"),
            (row[1], last, f"step {kept['steps'][-1]}"),
        ):
            shown = ax.imshow(matrix, norm=scale, cmap="viridis")
            ax.set_title(f"$K$ at {title}")
        figure.colorbar(shown, ax=list(row[:2]), shrink=0.85, label="$K$")
        shown = row[2].imshow(last - first, norm=Normalize(-change, change), cmap="RdBu_r")
        row[2].set_title("difference")
        figure.colorbar(shown, ax=row[2], shrink=0.85, label="change of $K$")
        row[0].set_ylabel(f"width {width}, seed {seed}\ntraining input")
        for ax in row:
            ax.grid(False)
            ax.set_xlabel("training input")
    return figure


# ---------------------------------------------------------------- pieces


def _figure(group: Group, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(subtitle(group, width > COLUMN), fontsize=7, color="0.35")
    return figure


def _panels(
    group: Group, count: int, width: float, height: float, across: int | None = None, share: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = _figure(group, width, height)
    across = across or count
    rows = math.ceil(count / across)
    grid = figure.subplots(rows, across, squeeze=False, sharex=share, sharey=share)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def subtitle(group: Group, wide: bool) -> str:
    """The config in a line (two in a narrow figure): 'digits, N = 64, L = 4, relu, β = 0.1' and so on."""
    first = group.runs.iloc[0]
    classes = first.get("data.classes")
    data = f"{first['data.name']}" + (f" {classes}" if isinstance(classes, str) else "")
    most = group.runs.groupby(WIDTH)["seed"].nunique()
    seeds = f"{most.max()} seeds" if most.min() == most.max() else f"{most.min()} to {most.max()} seeds"
    parts = [
        f"{data}, N = {first['data.samples']}, L = {first['network.depth']}, "
        f"{first['network.activation']}, β = {first['network.beta']:g}, "
        rf"$\sigma_w$ = {first['network.weight_scale']:g}" + _unusual(first),
        f"η = {first['step_size']:.3g}, {first['training.steps']} steps, {first['training.dtype']}, "
        + (seeds if most.max() > 1 else "1 seed"),
    ]
    return ("; " if wide else "\n").join(parts)


def _unusual(first: pd.Series) -> str:
    """What else the reader must know, where it is not the default."""
    name = first.get("network.parametrization", "ntk")
    return "" if name == "ntk" else f", {str(name).replace('_', '-')}"


def _against_width(
    ax: Axes, group: Group, column: str, colour: str, marker: str, label: str, fitted: bool = True
) -> None:
    """Every seed, the mean with its interval and the fitted line, log-log. Zeros have no logarithm and are left out."""
    table = group.statistics[group.statistics[column] > 0]
    levels = {width: level(part[column]) for width, part in table.groupby(WIDTH)}
    widths = np.array(list(levels))
    means = np.array([found.mean for found in levels.values()])
    low, high = (np.array([found.interval[side] for found in levels.values()]) for side in (0, 1))
    bars = np.nan_to_num(np.stack([np.minimum(means - low, 0.95 * means), high - means]))
    exponent = group.exponents.get(column) if fitted else None
    ax.plot(table[WIDTH], table[column], ".", color=colour, alpha=0.4, markersize=3.5, markeredgewidth=0)
    ax.errorbar(widths, means, bars, fmt=marker, color=colour, capsize=2, elinewidth=0.8, label=_label(label, exponent))
    if exponent:
        span = np.array(exponent.fit_range)
        ax.plot(span, math.exp(exponent.log_constant) * span**exponent.slope, "-", color=colour, linewidth=1)
    ax.set_xscale("log", base=2)
    _log_scale(ax)
    ax.xaxis.set_major_locator(FixedLocator(_few(sorted(group.runs[WIDTH].unique()))))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(HIDDEN_WIDTH)
    _sparse_minor_labels(ax)


def _label(label: str, exponent: Exponent | None) -> str:
    if exponent is None:
        return label
    if not exponent:
        return f"{label}: no slope"
    half = (exponent.interval[1] - exponent.interval[0]) / 2
    text = f"{label}: slope {exponent.slope:.2f} ± {half:.2f} (95 %)".replace("-", "−")
    return text if exponent.asymptotic else text + " (curved)"


def _lines(ax: Axes, table: pd.DataFrame, column: str, colours: Mapping[Any, Any]) -> None:
    for width, part in table.groupby(WIDTH, sort=True):
        mean = part.groupby("step")[["time", column]].mean()
        ax.plot(mean["time"], mean[column], color=colours[width])
    ax.set_xlabel(TIME)


def _log_scale(ax: Axes) -> None:
    """A logarithmic axis, if anything positive is drawn: a drift of exactly 0 has no place on one."""
    if any((np.asarray(line.get_ydata(), float) > 0).any() for line in ax.lines):
        ax.set_yscale("log", nonpositive="mask")


def _width_legend(figure: Figure, colours: Mapping[Any, Any], table: pd.DataFrame) -> None:
    widths = _few([width for width in colours if (table[WIDTH] == width).any()])
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


def _few(values: list[Any]) -> list[Any]:
    """At most FEW_WIDTHS of them, evenly, with both ends."""
    if len(values) <= FEW_WIDTHS:
        return values
    return [values[k] for k in np.linspace(0, len(values) - 1, FEW_WIDTHS).round().astype(int)]


def _sparse_minor_labels(ax: Axes) -> None:
    """At least two labels: 1, 2 and 5 times the powers of ten on an axis that spans few of these."""
    low, high = ax.get_ylim()
    if not low > 0 or ax.get_yscale() != "log":
        return
    if high / low > 100:
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())


def _place(layer: int, depth: int) -> str:
    return " (first)" if layer == 0 else " (last)" if layer == depth - 1 else ""


def _kernels_to_show(group: Group, kernels: Kernels) -> list[tuple[Any, int, Mapping[str, np.ndarray]]]:
    """The first seed of the narrowest and of the widest network that kept two kernels."""
    chosen = []
    for _, part in group.runs.groupby(WIDTH, sort=True):
        first = part.iloc[0]
        kept = kernels(first["run_id"])
        if kept is not None and len(kept["steps"]) > 1:
            chosen.append((first[WIDTH], int(first["seed"]), kept))
    return chosen if len(chosen) < 2 else [chosen[0], chosen[-1]]
