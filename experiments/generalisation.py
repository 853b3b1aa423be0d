"""What the theory leaves open: the network against its own kernels, on test inputs."""

from collections.abc import Iterator

import pandas as pd

from ntkrun.evidence.estimates.intervals import WIDTH, level
from ntkrun.evidence.estimates.per_run import last_steps
from ntkrun.evidence.figures.pieces import width_axis
from ntkrun.experiments.drawing import canvas, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Experiment, Found, Planned, Row

PREDICTORS = {
    "test_loss": "trained network",
    "test_linear_loss": "its linearisation",
    "test_flow_loss": "flow with $K_0$",
    "test_limit_loss": "flow with $K_∞$",
}


def _last(found: Found) -> pd.DataFrame:
    return with_runs(last_steps(found.only.steps), found.only.runs)


def _figures(found: Found) -> Iterator[Drawn]:
    table, first = _last(found), found.only.runs.iloc[0]
    title = f"digits, L = {first['network.depth']}, N = {first['data.samples']}, M = {first['data.test_samples']}"
    figure, axes = canvas(title)
    ax = axes[0, 0]
    for k, (column, name) in enumerate(PREDICTORS.items()):
        mean = table.groupby(WIDTH)[column].mean()
        ax.plot(table[WIDTH] * 2 ** (0.06 * (k - 1.5)), table[column], ".", color=f"C{k}", alpha=0.4, markeredgewidth=0)
        ax.plot(mean.index, mean, "osD^"[k] + "-", color=f"C{k}", label=name)
    width_axis(ax, table[WIDTH])
    ax.set_ylabel("test loss")
    ax.legend()
    yield (
        "test_loss",
        figure,
        "Test loss at the end of the training against the width: of the network, of its linearisation under the same "
        "steps, and of gradient flow with its kernel at the start and with the infinite-width kernel, all from the "
        "network's own start. Dots: seeds; markers: means.",
    )


def _rows(found: Found) -> Iterator[Row]:
    table = _last(found)
    for width in sizes(table):
        at = table[table[WIDTH] == width]
        for column, name in list(PREDICTORS.items())[1:]:
            ratio = level(at["test_loss"] / at[column])
            plain = name.replace("$", "")
            what = f"test loss of the network over that of {plain}, width {width}"
            yield Row(what, ratio.mean, ratio.interval, note="below 1: the network is better")


EXPERIMENT = Experiment(
    name="generalisation",
    statement="The theory explains convergence, not whether a finite network is better than its own kernel: here is "
    "the test loss of both, on digits, against the width. No claim is judged.",
    references="docs/theory.md, what the theory leaves open",
    sweeps=(
        Planned(
            "around/generalisation",
            smoke=(
                "data={name: digits, samples: 32, test_samples: 64}",
                "sweep={grid: {network.width: [32, 64, 128]}, seeds: 3}",
                "training.steps=60",
            ),
        ),
    ),
    figures=_figures,
    rows=_rows,
)
