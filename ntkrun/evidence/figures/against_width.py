"""Figures against the width: every seed, the means, and the fitted power laws (computed elsewhere)."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkrun.evidence.claims.table import expected_exponent
from ntkrun.evidence.estimates.intervals import WIDTH, Exponent, level
from ntkrun.evidence.estimates.summary import Group
from ntkrun.evidence.figures.pieces import COLUMN, KERNEL, WEIGHTS, layer_name, log_scale, panels, wedge, width_axis


def kernel_drift(group: Group) -> Figure:
    """Draw sup_t ‖K_t-K_0‖/‖K_0‖ against the width."""
    figure, axes = panels(group, 1, COLUMN, 2.7)
    _against_width(axes[0], group, "kernel_drift", "C0", "o", "kernel")
    axes[0].set_ylabel(r"$\mathrm{sup}_t\,$" + KERNEL)
    axes[0].legend(loc="best")
    return figure


def weight_drift(group: Group) -> Figure:
    """Draw sup_t ‖w_t-w_0‖/‖w_0‖ of each layer against the width."""
    figure, axes = panels(group, 1, COLUMN, 3.4)
    names = [
        name for name in group.statistics if name.startswith("weight_drift.") and group.statistics[name].notna().any()
    ]
    for k, name in enumerate(names):
        layer = int(name.split(".")[1])
        _against_width(axes[0], group, name, f"C{k % 7}", "osD^vPX"[k % 7], layer_name(group, layer))
    axes[0].set_ylabel(r"$\mathrm{sup}_t\,$" + WEIGHTS)
    figure.legend(loc="outside lower center", ncols=1 if len(names) < 5 else 2)
    return figure


def loss(group: Group) -> Figure:
    """Draw the last training and test loss against the width."""
    figure, axes = panels(group, 1, COLUMN, 2.7)
    _against_width(axes[0], group, "loss", "C0", "o", "training", fitted=False)
    if group.statistics["test_loss"].notna().any():
        _against_width(axes[0], group, "test_loss", "C1", "s", "test", fitted=False)
    axes[0].set_ylabel("loss at the last step")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _against_width(
    ax: Axes, group: Group, column: str, colour: str, marker: str, label: str, fitted: bool = True
) -> None:
    """Draw every seed, the means with their intervals and the fitted line, log-log. Zeros have no logarithm and are
    left out."""
    table = group.statistics[group.statistics[column] > 0]
    levels = {width: level(part[column]) for width, part in table.groupby(WIDTH)}
    widths = np.array(list(levels))
    means = np.array([entry.mean for entry in levels.values()])
    low, high = (np.array([entry.interval[end] for entry in levels.values()]) for end in (0, 1))
    bars = np.nan_to_num(np.stack([np.minimum(means - low, 0.95 * means), high - means]))
    exponent = group.exponents.get(column) if fitted else None
    label = _label(label, exponent)
    ax.plot(table[WIDTH], table[column], ".", color=colour, alpha=0.4, markersize=3.5, markeredgewidth=0)
    ax.errorbar(widths, means, bars, fmt=marker, color=colour, capsize=2, elinewidth=0.8, label=label)
    if exponent and exponent.status.ok:
        span = np.array(exponent.fit_range)
        ax.plot(span, math.exp(exponent.log_constant) * span**exponent.slope, "-", color=colour, linewidth=1)
        _draw_expected_slopes(ax, group, column, colour, exponent)
    width_axis(ax, group.runs[WIDTH])
    log_scale(ax)


def _draw_expected_slopes(ax: Axes, group: Group, column: str, colour: str, exponent: Exponent) -> None:
    """Draw the slopes that the theory expects as a wedge through the middle of the fitted line, in the curve's
    colour."""
    margin = expected_exponent(column, group.runs)
    if margin is None:
        return
    middle = math.sqrt(exponent.fit_range[0] * exponent.fit_range[1])
    through = math.exp(exponent.log_constant) * middle**exponent.slope
    wedge(ax, exponent.fit_range, (middle, through), margin, colour)


def _label(label: str, exponent: Exponent | None) -> str:
    if exponent is None:
        return label
    if not exponent.status.ok:
        return f"{label}: no slope"
    low, high = exponent.interval
    text = f"{label}: slope {exponent.slope:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
    return text if exponent.asymptotic else text + " (curved)"
