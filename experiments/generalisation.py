"""A question that the theory leaves open: does a network or its own kernel have the lower test loss?"""

from collections.abc import Iterator

import pandas as pd

from ntkrun.evidence.estimates.intervals import WIDTH, level
from ntkrun.evidence.estimates.per_run import last_steps
from ntkrun.evidence.figures.pieces import width_axis
from ntkrun.evidence.records import Row
from ntkrun.experiments.drawing import canvas, sizes, with_runs
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned

PREDICTORS = {
    "test_loss": "trained network",
    "test_linear_loss": "its linearisation",
    "test_flow_loss": "flow with $K_0$",
    "test_limit_loss": "flow with $K_∞$",
}


def _last(evidence: Evidence) -> pd.DataFrame:
    return with_runs(last_steps(evidence.only.steps), evidence.only.runs)


def _figures(evidence: Evidence) -> Iterator[Drawn]:
    table, first = _last(evidence), evidence.only.runs.iloc[0]
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
        "Test loss at the end of training against the width: of the network, of its linearisation under the same "
        "steps, and of gradient flow with its initial kernel and with the infinite-width kernel. All start from the "
        "network's initial function. Dots: seeds; markers: means.",
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    table = _last(evidence)
    for width in sizes(table):
        rows = table[table[WIDTH] == width]
        for column, name in list(PREDICTORS.items())[1:]:
            ratio = level(rows["test_loss"] / rows[column])
            plain = name.replace("$", "")
            quantity = f"test loss: network / {plain}, width {width}"
            yield Row(quantity, ratio.mean, ratio.interval, note="below 1: the network is better")


EXPERIMENT = Experiment(
    name="generalisation",
    statement="The theory explains convergence. It does not say whether a finite network generalises better than its "
    "own kernel. This experiment compares their test losses on digits, against the width; no claim is judged.",
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
