"""All figures of a sweep. They show tables and estimates that are computed elsewhere; nothing is fitted or judged here.

Every function returns a new matplotlib Figure, without pyplot's hidden state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.evidence.estimates.summary import Group, groups
from ntkrun.evidence.figures.against_width import kernel_drift, loss, weight_drift
from ntkrun.evidence.figures.matrices import Kernels, kernel_matrices, kernels_to_show
from ntkrun.evidence.figures.over_time import flows_over_time, layers_over_time, losses_over_time, over_time
from ntkrun.evidence.figures.pieces import KERNEL, settle, width_colours
from ntkrun.evidence.figures.saving import STYLE, Saved, saved
from ntkrun.processes import in_processes, usable_cores

Drawn = tuple[str, Figure, str]
# Settings for each worker process, at least: a worker takes as long to start as four figures take, and a setting has
# eight (docs/decisions.md).
SETTINGS_PER_WORKER = 2
LEVELS = "Faint dots: seeds; markers: means with 95 % t intervals."
DOTS = LEVELS[:-1] + "; lines: fitted power laws, slopes with 95 % intervals; wedges: slopes that the theory expects."
MEANS = ": mean over seeds, one line per width; the shading spans all seeds. Only runs that are done are shown."


@dataclass(frozen=True)
class Setting:
    """All that the figures of one group of runs need, so that another process can draw them. The group's runs differ
    only in width and seed; `suffix` tells the group's files from those of others; `kernels` are those to show."""

    group: Group
    suffix: str
    steps: pd.DataFrame
    layers: pd.DataFrame
    kernels: Sequence[tuple[Any, int, Mapping[str, np.ndarray]]]
    colours: Mapping[Any, Any]


def draw_all(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels) -> Iterator[Drawn]:
    """Yield every figure that the tables allow, as (file stem, figure, caption). There is one set for each group of
    runs that differ only in width and seed."""
    for setting in _settings(runs, steps, layers, kernels):
        yield from _figures(setting)


def save_all(
    runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels, formats: Sequence[str]
) -> list[tuple[str, Saved, str]]:
    """Return the files of every figure that the tables allow, as (file stem, bytes by format, caption). The settings of
    a sweep are shared between the cores where there are many; the files do not depend on it."""
    settings = _settings(runs, steps, layers, kernels)
    workers = min(usable_cores() - 1, len(settings) // SETTINGS_PER_WORKER)
    return list(chain.from_iterable(in_processes(partial(_files, formats=formats), settings, workers)))


def _settings(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame, kernels: Kernels) -> list[Setting]:
    colours = width_colours(runs[WIDTH]) if len(runs) else {}
    settings, all_groups = [], groups(runs, steps, layers)
    for number, group in enumerate(all_groups):
        own_steps, own_layers = (
            table.merge(group.runs[["run_id", WIDTH, "seed"]], on="run_id") for table in (steps, layers)
        )
        suffix = "" if len(all_groups) == 1 else f"_{number}"
        settings.append(Setting(group, suffix, own_steps, own_layers, kernels_to_show(group, kernels), colours))
    return settings


def _files(setting: Setting, formats: Sequence[str]) -> list[tuple[str, Saved, str]]:
    return [(stem, saved(figure, formats), caption) for stem, figure, caption in _figures(setting)]


def _figures(setting: Setting) -> Iterator[Drawn]:
    with mpl.rc_context(fname=STYLE):
        for stem, figure, caption in _unsettled(setting):
            yield stem + setting.suffix, settle(figure), caption


def _unsettled(setting: Setting) -> Iterator[Drawn]:
    group, steps, layers, colours = setting.group, setting.steps, setting.layers, setting.colours
    weights_changed = len(steps) > 0 and bool((steps["weight_drift"] > 0).any())  # a drift of 0 has no logarithm
    if group.has_widths and weights_changed and len(group.statistics):
        yield (
            "kernel_drift",
            kernel_drift(group),
            "Largest relative change of the kernel during training, against the width. " + DOTS,
        )
        yield (
            "weight_drift",
            weight_drift(group),
            "Largest relative change of each weight matrix during training, against the width. " + DOTS,
        )
    if group.has_widths and len(group.statistics):
        yield "loss", loss(group), "Loss at the last step, against the width. " + LEVELS
    if weights_changed:
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
    if weights_changed and "linear_loss" in steps and steps["linear_loss"].notna().any():
        yield (
            "flows_time",
            flows_over_time(group, steps),
            "Loss over time of the network and of three predictions with frozen kernels: the linearised network with "
            "the same steps, gradient flow with the initial kernel, and gradient flow with the kernel of infinite "
            "width, from the same initial outputs. Mean over seeds (runs that are done), for the narrowest and the "
            "widest network.",
        )
    if setting.kernels:
        yield (
            "kernel",
            kernel_matrices(group, setting.kernels),
            "The first and the last recorded kernel on the training inputs, in the order of the data, and their "
            "difference, for seed " + str(setting.kernels[0][1]) + " of the narrowest and the widest network.",
        )
