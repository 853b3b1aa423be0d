"""[L] figure 2: the ensemble of trained networks between two training inputs."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.ensembles import mean_bias, over_seeds
from ntkrun.evidence.estimates.intervals import level, pooled
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import band, canvas, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned


def _on_the_path(evidence: Evidence) -> pd.DataFrame:
    """Return the outputs of each network on the path at each stored step."""
    outputs = with_runs(evidence.only.outputs, evidence.only.runs)
    return outputs[outputs["part"] == "test"]


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table, first = over_seeds(_on_the_path(evidence)), evidence.only.runs.iloc[0]
    table = table.assign(alpha=table["input"] / table["input"].max())
    steps = sorted(table["step"].unique())
    title = (
        f"{len(evidence.only.runs)} networks, L = 4, tanh, width {first['network.width']}, N = {first['data.samples']}"
    )
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
        "Mean and two standard deviations over initialisations of the outputs on the line between two training inputs, "
        "for the networks and for the Gaussian process of the infinite-width limit at the same time.",
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    for step, at in _on_the_path(evidence).groupby("step"):
        ratio, interval = pooled(at.set_index("seed"), _deviation)
        yield Row(f"standard deviation over networks / that of the limit, step {step}", ratio, interval, theory=1.0)
        bias = level(mean_bias(at))
        quantity = f"squared bias of the mean over networks / variance of the limit, step {step}"
        yield Row(quantity, bias.mean, bias.interval, theory=0.0, note="the variance of the mean is subtracted")


def _deviation(outputs: pd.DataFrame) -> float:
    """Return the standard deviation over networks relative to that of the limit, root mean square along the path."""
    table = over_seeds(outputs)
    return float(np.sqrt((table["std"] ** 2).mean() / table["limit_variance"].mean()))


EXPERIMENT = Experiment(
    name="lee-2",
    statement="On the line between two training inputs, mean and standard deviation of the outputs of a hundred "
    "trained networks are those of the Gaussian process of the infinite-width limit, at every time.",
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
    departures="digits instead of images of objects; width 256 (the paper preset uses the paper's 8192); 256 steps, "
    "because the paper does not give their number. Everything else is as in the paper: 100 networks, L = 4, σ_w² = "
    "1.5, no biases, η = 0.5, 128 inputs.",
)
