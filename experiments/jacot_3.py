"""[J] figure 3: learning along one kernel principal component."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ntkrun.evidence.estimates.ensembles import along_limit
from ntkrun.evidence.estimates.intervals import WIDTH, level
from ntkrun.evidence.figures.pieces import TIME, width_colours
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned

SIZE = 0.5  # of the target along f^(2); the config has the same number


def _split(evidence: Evidence) -> pd.DataFrame:
    """Return for each run and step the remaining target along f^(2), `left`, that of the limit, `theory`, and ‖h_t‖,
    `orthogonal`."""
    runs = evidence.only.runs
    table = with_runs(along_limit(evidence.only.outputs), runs, "step_size")
    return table.assign(
        time=table["step"] * table["step_size"], left=SIZE - table["along"], theory=SIZE - table["limit"]
    )


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table = _split(evidence)
    shades = width_colours(sizes(table))
    figure, axes = canvas(f"L = 4, relu, β = 0.1, N = {evidence.only.runs['data.samples'].iloc[0]}", across=2)
    for (width, seed), run in table.groupby([WIDTH, "seed"]):
        label = f"width {width}" if seed == table["seed"].min() else None
        axes[0, 0].plot(run["time"], run["left"], color=shades[width], linewidth=0.8)
        axes[0, 1].plot(run["time"], run["orthogonal"], color=shades[width], linewidth=0.8, label=label)
    first_run = table[table["run_id"] == table["run_id"].iloc[0]]
    axes[0, 0].plot(first_run["time"], first_run["theory"], "k--", linewidth=1, label=r"$0.5\,e^{-\lambda_2 t}$")
    axes[0, 0].set_ylabel("remaining target along $f^{(2)}$")
    axes[0, 1].set_ylabel(r"orthogonal part $\Vert h_t\Vert$")
    for ax in axes[0]:
        ax.set_xlabel(TIME)
        ax.legend()
    yield (
        "second_component",
        figure,
        "Training from F_0 towards F_0 + 0.5 f^(2), where f^(2) is the second principal component of the "
        "infinite-width kernel. Left: the remaining target along f^(2), and 0.5 e^{-λ_2 t}. Right: the norm of the "
        "part of F_t - F_0 orthogonal to f^(2) over the data. One line per network.",
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    table = _split(evidence)
    near = table[table["step"] == _half_way(table)]
    for width in sizes(near):
        at = near[near[WIDTH] == width]
        remaining = level(at["left"])
        quantity = f"remaining target along f^(2) at t = {at['time'].iloc[0]:.0f}, width {width}"
        theory = float(at["theory"].iloc[0])
        yield Row(quantity, remaining.mean, remaining.interval, None, theory, "theory: 0.5 (1-ηλ_2)^k ≈ 0.5 e^{-λ_2 t}")
    for width in sizes(table):
        largest = level(table[table[WIDTH] == width].groupby("seed")["orthogonal"].max())
        yield Row(
            f"largest ‖h_t‖, width {width}", largest.mean, largest.interval, note="in the paper it decreases with n"
        )


def _half_way(table: pd.DataFrame) -> int:
    """Return the stored step at which about 1/e of the target remains in the limit."""
    by_step = table.groupby("step")["theory"].first()
    return int((by_step - SIZE / np.e).abs().idxmin())


EXPERIMENT = Experiment(
    name="jacot-3",
    statement="With half the second kernel principal component as target, the remaining part of the target along it "
    "decays as 0.5 e^{-λ_2 t}. The network learns little orthogonal to it, and less the wider it is.",
    references="[J] Jacot, Gabriel and Hongler 2018, figure 3",
    sweeps=(
        Planned(
            "papers/jacot-3",
            smoke=(
                "data.samples=64",
                "sweep={grid: {network.width: [32, 64]}, seeds: 3}",
                "training={output_scale: {centred: 1.0}, step_size: {relative: 1.0}, steps: 30}",
                "probes.outputs=[0, 5, 10, 20, 30]",
            ),
            paper=(
                "sweep={grid: {network.width: [100, 1000, 10000]}, seeds: 3}",
                "data={name: openml, dataset: mnist_784, samples: 512, test_samples: 0, "
                "targets: {component: 2, size: 0.5}}",
            ),
        ),
    ),
    figures=_figures,
    rows=_rows,
    departures="digits of 8 x 8 pixels replace MNIST (the paper preset downloads MNIST). The largest width is 1000 "
    "(in the paper 10000). f^(2) belongs to the infinite-width kernel, in the paper to the kernel of a wide network.",
)
