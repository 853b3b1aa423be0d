"""Whole kernels as images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.summary import Group
from ntkrun.evidence.figures.pieces import PAGE, new_figure

BAR = (1.06, 0.075, 0.05, 0.85)  # a colour bar's left, bottom, width and height, in its image's axes
Kernels = Callable[[str], Mapping[str, np.ndarray] | None]


def kernel_matrices(group: Group, chosen: Sequence[tuple[Any, int, Mapping[str, np.ndarray]]]) -> Figure:
    """Draw K_first, K_last and their difference on the training inputs, one row per network, for output 0 with itself.
    `chosen` holds (width, seed, kernels)."""
    figure = new_figure(group, PAGE, 2.0 * len(chosen) + 0.3)
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, (width, seed, kernels) in zip(axes, chosen, strict=True):
        first, last = (kernels["ntk"][k][:, :, 0, 0] for k in (0, -1))
        scale = Normalize(min(first.min(), last.min()), max(first.max(), last.max()))
        change = float(np.abs(last - first).max()) or 1.0
        for ax, matrix, title in (
            (row[0], first, f"step {kernels['steps'][0]}"),
            (row[1], last, f"step {kernels['steps'][-1]}"),
        ):
            image = ax.imshow(matrix, norm=scale, cmap="viridis")
            ax.set_title(f"K at {title}")
        figure.colorbar(image, cax=row[1].inset_axes(BAR), label="K")
        image = row[2].imshow(last - first, norm=Normalize(-change, change), cmap="RdBu_r")
        row[2].set_title("difference")
        figure.colorbar(image, cax=row[2].inset_axes(BAR), label="change of K")
        row[0].set_ylabel(f"width {width}, seed {seed}\ntraining input")
        for ax in row:
            ax.grid(False)
            ax.set_xlabel("training input")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(4, integer=True))
    return figure


def kernels_to_show(group: Group, kernels: Kernels) -> list[tuple[Any, int, Mapping[str, np.ndarray]]]:
    """Return (width, seed, kernels) of the first seed of the narrowest and of the widest network, among those whose
    first seed has at least two recorded kernels."""
    chosen = []
    for _, part in group.runs.groupby(WIDTH, sort=True):
        first = part.iloc[0]
        recorded = kernels(first["run_id"])
        if recorded is not None and len(recorded["steps"]) > 1:
            chosen.append((first[WIDTH], int(first["seed"]), recorded))
    return chosen if len(chosen) < 2 else [chosen[0], chosen[-1]]
