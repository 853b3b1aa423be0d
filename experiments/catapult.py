"""[Lw]: beyond the edge of stability, up to twice its step, training comes back with a flatter kernel."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ntkrun.evidence.estimates.intervals import level
from ntkrun.evidence.estimates.per_run import done, per_run
from ntkrun.evidence.figures.pieces import log_scale
from ntkrun.experiments.drawing import canvas, lost, shown_verdicts
from ntkrun.experiments.framework import Drawn, Experiment, Found, Row
from ntkrun.experiments.shared import LARGE_STEP

EDGE, END = 2.0, 4.0  # of r = ηλ_max(K̂_0): where the loss first rises; where the networks that [Lw] solves diverge
REGIONS = ((0.0, EDGE, "r < 2: lazy"), (EDGE, END, "2 < r < 4: catapult"), (END, np.inf, "r > 4"))


def _runs(found: Found) -> pd.DataFrame:
    """Of each trained run: r = ηλ_max(K̂_0), the same at the end, and the loss at its largest and at the end over that
    at the start."""
    table = per_run(found.only.runs, found.only.steps, found.only.layers)
    losses = found.only.steps.sort_values("step").groupby("run_id")["loss"].agg(["first", "max"])
    highest = (losses["max"] / losses["first"]).rename("highest")
    return table.assign(
        r=table["step_size"] * table["lambda_max_0"], r_end=table["step_size"] * table["lambda_max_end"]
    ).join(highest, on="run_id")


def _figures(found: Found) -> Iterator[Drawn]:
    table, first = _runs(found), found.only.runs.iloc[0]
    ended = done(table)
    shape = f"L = {first['network.depth']}, {first['network.activation']}, width {first['network.width']}"
    figure, (axes,) = canvas(f"{shape}, {first['training.steps']} steps; a dot a network", across=2)
    _losses(axes[0], ended)
    _eigenvalues(axes[1], ended)
    for ax in axes:
        lost(ax, table[table["status"] == "diverged"]["r"])
        ax.set_xlim(0, max(END + 1, 1.05 * table["r"].max()))
        ax.set_xlabel(r"$r = \eta\,\lambda_{max}(\hat K_0)$ at the start")
        _mark_regions(ax)
    named = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5)
    yield (
        "catapult",
        figure,
        "Training loss and the kernel's largest eigenvalue after training, against the step size in units of the "
        "latter at the start, r = ηλ_max. Below 2 the loss never rises. Between 2 and 4 it grows at first (hollow: its "
        "largest), until λ_max has fallen below 2/η; then training goes on: the catapult. Beyond 4 the networks that "
        "[Lw] solves diverge; others may still come back for a while. Crosses at the rim: runs that diverged.",
    )
    yield from shown_verdicts(found)


def _losses(ax: Axes, ended: pd.DataFrame) -> None:
    ax.plot(ended["r"], ended["highest"], "o", color="C1", markerfacecolor="none", label="largest")
    ax.plot(ended["r"], ended["loss_ratio"], "o", color="C0", markeredgewidth=0, label="after training")
    ax.set_ylabel("training loss over its start")
    log_scale(ax)
    ax.margins(y=0.12)  # room for the crosses


def _eigenvalues(ax: Axes, ended: pd.DataFrame) -> None:
    ax.plot(ended["r"], ended["r_end"], "o", color="C0", markeredgewidth=0, label="after training")
    ax.plot([0, END], [0, END], "--", color="0.4", linewidth=0.9, label="were the kernel frozen")
    ax.axhline(EDGE, color="0.4", linestyle=":", linewidth=0.9, label="edge of stability")
    ax.set_ylabel(r"$\eta\,\lambda_{max}(\hat K_T)$ after training")
    ax.set_ylim(0, END)


def _mark_regions(ax: Axes) -> None:
    """r < 2, 2 < r < 4 and r > 4, shaded and named above the axes."""
    right = ax.get_xlim()[1]
    for shade, (low, high, name) in zip(("1.0", "0.92", "0.84"), REGIONS, strict=True):
        ax.axvspan(low, min(high, right), color=shade, linewidth=0, zorder=-1)
        ax.text((low + min(high, right)) / 2, 1.02, name, ha="center", fontsize=6, transform=ax.get_xaxis_transform())
    ax.grid(False)


def _rows(found: Found) -> Iterator[Row]:
    for _, at in _runs(found).groupby("step_size"):
        ended, start = done(at), at["r"].mean()
        note = f"{len(at) - len(ended)} of {len(at)} diverged" if len(ended) < len(at) else ""
        for column, what in (("r_end", "ηλ_max(K̂) after training"), ("highest", "largest loss over the first")):
            found_level = level(ended[column])
            yield Row(f"{what}, r = {start:.2f}", found_level.mean, found_level.interval, note=note)


EXPERIMENT = Experiment(
    name="catapult",
    statement="Training is stable while ηλ_max of the kernel is below 2. From there to about 4 the loss grows at first "
    "and the kernel gives way, until its λ_max suits the step, and training goes on; far beyond it diverges.",
    references="[Lw] Lewkowycz et al. 2020",
    sweeps=(LARGE_STEP,),
    figures=_figures,
    rows=_rows,
    claims=("stability-edge",),
)
