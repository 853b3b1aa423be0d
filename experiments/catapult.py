"""[Lw]: between the edge of stability and twice its step size, training recovers with a smaller largest eigenvalue."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ntkrun.evidence.estimates.intervals import level
from ntkrun.evidence.estimates.per_run import done, per_run
from ntkrun.evidence.figures.pieces import log_scale
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, lost, shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment
from ntkrun.experiments.shared import LARGE_STEP

# Values of r = ηλ_max(K̂_0): above EDGE the loss rises at first, above END the networks that [Lw] solves diverge.
EDGE, END = 2.0, 4.0
REGIONS = ((0.0, EDGE, "r < 2: lazy"), (EDGE, END, "2 < r < 4: catapult"), (END, np.inf, "r > 4"))


def _runs(evidence: Evidence) -> pd.DataFrame:
    """Return for each trained run r = ηλ_max(K̂_0), the same at the end, and the largest and the last loss relative to
    the first."""
    table = per_run(evidence.only.runs, evidence.only.steps, evidence.only.layers)
    losses = evidence.only.steps.sort_values("step").groupby("run_id")["loss"].agg(["first", "max"])
    highest = (losses["max"] / losses["first"]).rename("highest")
    return table.assign(
        r=table["step_size"] * table["lambda_max_0"], r_end=table["step_size"] * table["lambda_max_end"]
    ).join(highest, on="run_id")


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table, first = _runs(evidence), evidence.only.runs.iloc[0]
    ended = done(table)
    shape = f"L = {first['network.depth']}, {first['network.activation']}, width {first['network.width']}"
    figure, (axes,) = canvas(f"{shape}, {first['training.steps']} steps; one dot per network", across=2)
    _losses(axes[0], ended)
    _eigenvalues(axes[1], ended)
    for ax in axes:
        lost(ax, table[table["status"] == "diverged"]["r"])
        ax.set_xlim(0, max(END + 1, 1.05 * table["r"].max()))
        ax.set_xlabel(r"$r = \eta\,\lambda_{max}(\hat K_0)$ at the start")
        _mark_regions(ax)
    legend = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5)
    yield (
        "catapult",
        figure,
        "Training loss and the largest eigenvalue of the kernel after training, against r = ηλ_max, the step size in "
        "units of 1/λ_max at the start. Below r = 2 the loss never rises. Beyond, λ_max falls below 2/η: slightly "
        "beyond 2 before the loss has risen, further on after it has (hollow: its largest value), and then training "
        "continues: the catapult. Beyond 4 the networks that [Lw] solves diverge; others may still recover. Crosses at "
        "the top: runs that diverged.",
    )
    yield from shown_verdicts(evidence)


def _losses(ax: Axes, ended: pd.DataFrame) -> None:
    ax.plot(ended["r"], ended["highest"], "o", color="C1", markerfacecolor="none", label="largest")
    ax.plot(ended["r"], ended["loss_ratio"], "o", color="C0", markeredgewidth=0, label="after training")
    ax.set_ylabel("training loss / initial loss")
    log_scale(ax)
    ax.margins(y=0.12)  # room for the crosses


def _eigenvalues(ax: Axes, ended: pd.DataFrame) -> None:
    ax.plot(ended["r"], ended["r_end"], "o", color="C0", markeredgewidth=0, label="after training")
    ax.plot([0, END], [0, END], "--", color="0.4", linewidth=0.9, label="frozen kernel")
    ax.axhline(EDGE, color="0.4", linestyle=":", linewidth=0.9, label="edge of stability")
    ax.set_ylabel(r"$\eta\,\lambda_{max}(\hat K_T)$ after training")
    ax.set_ylim(0, END)


def _mark_regions(ax: Axes) -> None:
    """Shade the regions r < 2, 2 < r < 4 and r > 4 and name them above the axes."""
    right = ax.get_xlim()[1]
    for shade, (low, high, name) in zip(("1.0", "0.92", "0.84"), REGIONS, strict=True):
        ax.axvspan(low, min(high, right), color=shade, linewidth=0, zorder=-1)
        ax.text((low + min(high, right)) / 2, 1.02, name, ha="center", fontsize=6, transform=ax.get_xaxis_transform())
    ax.grid(False)


def _rows(evidence: Evidence) -> Iterator[Row]:
    for _, runs in _runs(evidence).groupby("step_size"):
        ended, start = done(runs), runs["r"].mean()
        note = f"{len(runs) - len(ended)} of {len(runs)} diverged" if len(ended) < len(runs) else ""
        for column, name in (("r_end", "ηλ_max(K̂) after training"), ("highest", "largest loss / initial loss")):
            mean = level(ended[column])
            yield Row(f"{name}, r = {start:.2f}", mean.mean, mean.interval, note=note)


EXPERIMENT = Experiment(
    name="catapult",
    statement="Training is stable while ηλ_max of the kernel is below 2. Beyond, up to about 4, the kernel changes "
    "until its λ_max is small enough for the step size, after the loss has risen or before it can; then training "
    "continues. Far beyond 4 training diverges.",
    references="[Lw] Lewkowycz et al. 2020",
    sweeps=(LARGE_STEP,),
    figures=_figures,
    rows=_rows,
    claims=("stability-edge", "catapult"),
)
