"""Figures over time: the mean over seeds, one line per width."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.summary import Group
from ntkrun.evidence.figures.pieces import (
    COLUMN,
    PAGE,
    WEIGHTS,
    layer_name,
    lines,
    log_scale,
    panels,
    time_axis,
    width_legend,
)

FLOWS = {"loss": "network", "linear_loss": "linearised", "flow_loss": "K₀ flow", "limit_loss": r"$K_\infty$ flow"}
FLOW_STYLES = ("-", "--", "-.", ":")
FAR = 1e3  # a prediction is not drawn beyond this multiple of the network's largest loss


def over_time(group: Group, steps: pd.DataFrame, column: str, label: str, colours: Mapping[Any, Any]) -> Figure:
    """Draw one quantity over time, one line per width."""
    figure, axes = panels(group, 1, COLUMN, 2.7)
    lines(axes[0], steps, column, colours)
    log_scale(axes[0])
    axes[0].set_ylabel(label)
    width_legend(figure, colours, steps)
    return figure


def losses_over_time(group: Group, steps: pd.DataFrame, colours: Mapping[Any, Any]) -> Figure:
    """Draw the training loss and, if there is one, the test loss over time, one line per width."""
    columns = [("loss", "training loss"), ("test_loss", "test loss")]
    shown = [pair for pair in columns if steps[pair[0]].notna().any()]
    figure, axes = panels(group, len(shown), COLUMN if len(shown) == 1 else PAGE, 2.7)
    for ax, (column, label) in zip(axes, shown, strict=True):
        lines(ax, steps, column, colours)
        log_scale(ax)
        ax.set_ylabel(label)
    width_legend(figure, colours, steps)
    return figure


def flows_over_time(group: Group, steps: pd.DataFrame) -> Figure:
    """Draw the losses of the network and of its three predictions over time: the narrowest and the widest network side
    by side, training inputs above test inputs. A prediction that diverges, such as a linearised network past its edge
    of stability, is not drawn beyond FAR."""
    widths = sorted(steps[WIDTH].unique())
    widths = widths if len(widths) == 1 else [widths[0], widths[-1]]
    parts = [(prefix, label) for prefix, label in (("", "training loss"), ("test_", "test loss"))
             if steps[f"{prefix}loss"].notna().any()]  # fmt: skip
    figure, axes = panels(group, len(parts) * len(widths), PAGE, 0.7 + 2.1 * len(parts), len(widths))
    for k, ax in enumerate(axes):
        (prefix, label), width = parts[k // len(widths)], widths[k % len(widths)]
        part = steps[steps[WIDTH] == width]
        top = FAR * part.groupby("step")[f"{prefix}loss"].mean().max()
        for number, (flow, name) in enumerate(FLOWS.items()):
            if steps[f"{prefix}{flow}"].isna().all():
                continue  # no limit kernel
            mean = part.groupby("step")[["time", f"{prefix}{flow}"]].mean()
            near = mean[f"{prefix}{flow}"].where(lambda losses: ~(losses > top))  # noqa: B023 - called at once
            (line,) = ax.plot(mean["time"], near, FLOW_STYLES[number], label=name if k == 0 else None)
            line.set(color=f"C{number}", linewidth=2.2 - 0.4 * number)
        log_scale(ax)
        ax.set_title(f"width {width}")
        time_axis(ax)
        ax.set_ylabel(label if k % len(widths) == 0 else "")
    figure.legend(loc="outside lower center", ncols=4, handlelength=3.2)
    return figure


def layers_over_time(group: Group, layers: pd.DataFrame, steps: pd.DataFrame, colours: Mapping[Any, Any]) -> Figure:
    """Draw the relative change of each weight matrix over time: one panel per layer, one line per width."""
    depth = int(layers["layer"].max()) + 1
    times = steps[["run_id", "step", "time"]]
    across = min(depth, 4)
    rows = math.ceil(depth / across)
    figure, axes = panels(group, depth, PAGE if across > 1 else COLUMN, 0.5 + 2.1 * rows, across, share=True)
    for layer, ax in enumerate(axes):
        layer_rows = layers[layers["layer"] == layer].merge(times, on=["run_id", "step"])
        lines(ax, layer_rows, "weight_drift", colours)
        log_scale(ax)
        ax.set_title(layer_name(group, layer))
        ax.set_ylabel(WEIGHTS if layer % across == 0 else "")
    width_legend(figure, colours, layers)
    return figure
