"""Trained networks as a Gaussian process."""

from collections.abc import Iterator

from experiments.drawing import canvas, shown_verdicts, sizes, with_runs
from experiments.framework import Drawn, Experiment, Found, Planned
from ntkrun.evidence.ensembles import over_seeds
from ntkrun.evidence.estimates import WIDTH


def _figures(found: Found) -> Iterator[Drawn]:
    table = with_runs(found.only.outputs, found.only.runs)
    table = table[(table["part"] == "test") & (table["step"] == table["step"].max())]
    figure, (axes,) = canvas("", across=2)
    for k, width in enumerate(sizes(table)):
        at = over_seeds(table[table[WIDTH] == width])
        axes[0].plot(at["limit_mean"], at["mean"], "osD^v"[k % 5], color=f"C{k}", label=str(width))
        axes[1].plot(at["limit_variance"] ** 0.5, at["std"], "osD^v"[k % 5], color=f"C{k}")
    for ax, title in zip(axes, ("mean", "standard deviation"), strict=True):
        low, high = ax.get_xlim()
        ax.plot([low, high], [low, high], "k--", linewidth=0.8)
        ax.set_title(f"{title} over networks, test inputs")
        ax.set_xlabel("infinite width")
    axes[0].set_ylabel("networks")
    axes[0].legend(title="width", title_fontsize=6, fontsize=6)
    yield (
        "ensemble",
        figure,
        "Mean and standard deviation, over initialisations, of the trained networks' outputs on each test input, "
        "against those that infinite width predicts at the same time.",
    )
    yield from shown_verdicts(found)


EXPERIMENT = Experiment(
    name="limit-ensemble",
    statement="Networks trained from many initialisations are, as the width grows, the Gaussian process that infinite "
    "width predicts, in mean and covariance, at any time.",
    references="[L] equations 13 to 16; [J] figure 2",
    sweeps=(
        Planned("ensemble", smoke=("sweep={grid: {network.width: [48, 96, 192]}, seeds: 20}", "training.steps=40")),
    ),
    figures=_figures,
)
