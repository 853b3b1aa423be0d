"""[L] figure 2: the ensemble of trained networks between two training inputs."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.ensembles import mean_bias, over_seeds
from ntkrun.evidence.estimates.intervals import level, pooled
from ntkrun.experiments.drawing import band, canvas, with_runs
from ntkrun.experiments.framework import Drawn, Experiment, Found, Planned, Row


def _on_the_path(found: Found) -> pd.DataFrame:
    """What each network says on the path at each kept step."""
    outputs = with_runs(found.only.outputs, found.only.runs)
    return outputs[outputs["part"] == "test"]


def _figures(found: Found) -> Iterator[Drawn]:
    table, first = over_seeds(_on_the_path(found)), found.only.runs.iloc[0]
    table = table.assign(alpha=table["input"] / table["input"].max())
    steps = sorted(table["step"].unique())
    title = f"{len(found.only.runs)} networks, L = 4, tanh, width {first['network.width']}, N = {first['data.samples']}"
    figure, axes = canvas(title, across=len(steps), share=True)
    for ax, step in zip(axes[0], steps, strict=True):
        at = table[table["step"] == step]
        deviation = 2 * np.sqrt(at["limit_variance"])
        band(ax, at["alpha"], at["limit_mean"] - deviation, at["limit_mean"] + deviation, "C1", "limit, ± 2 std")
        ax.plot(at["alpha"], at["limit_mean"], color="C1", label="limit's mean")
        ax.plot(at["alpha"], at["mean"], "--", color="C0", label="networks' mean")
        for sign in (-1, 1):
            label = "networks, ± 2 std" if sign == 1 else None
            ax.plot(at["alpha"], at["mean"] + sign * 2 * at["std"], ":", color="C0", label=label)
        ax.set_title(f"step {step}")
        ax.set_xlabel("α")
    axes[0, 0].set_ylabel("$F_t(αx_1 + (1-α)x_2)$")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    yield (
        "ensemble",
        figure,
        "Mean and two standard deviations, over initialisations, of the outputs on the line between two training "
        "inputs: those of the networks, and those of the Gaussian process that infinite width predicts at that time.",
    )


def _rows(found: Found) -> Iterator[Row]:
    for step, at in _on_the_path(found).groupby("step"):
        ratio, interval = pooled(at.set_index("seed"), _deviation)
        yield Row(f"standard deviation over networks, over the limit's, step {step}", ratio, interval, theory=1.0)
        off = level(mean_bias(at))
        what = f"mean over networks off the limit's, squared, over the limit's variance, step {step}"
        yield Row(what, off.mean, off.interval, theory=0.0, note="without the scatter's own share")


def _deviation(outputs: pd.DataFrame) -> float:
    """That of the networks over that of the limit, root mean square along the path."""
    table = over_seeds(outputs)
    return float(np.sqrt((table["std"] ** 2).mean() / table["limit_variance"].mean()))


EXPERIMENT = Experiment(
    name="lee-2",
    statement="Mean and deviation, over a hundred trained networks, of what they say between two training inputs are "
    "those of the Gaussian process that infinite width predicts, at every time.",
    references="[L] Lee et al. 2019, figure 2 and equations 13 to 16",
    sweeps=(
        Planned(
            "papers/lee-2",
            smoke=(
                "network.width=32",
                "data.samples=16",
                "sweep.seeds=20",
                "training.steps=32",
                "probes.outputs=[0, 16, 32]",
                "probes.every=8",
            ),
            paper=("network.width=8192",),
        ),
    ),
    figures=_figures,
    rows=_rows,
    departures="digits instead of images of objects; width 256 (the paper preset takes the paper's 8192); 256 steps, "
    "since the paper does not say how many. All else is the paper's: 100 networks, L = 4, σ_w² = 1.5, no biases, "
    "η = 0.5, 128 inputs.",
)
