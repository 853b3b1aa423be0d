"""The table of experiments: what it names is there, fits together, and holds no training and no fit of its own."""

import re
from itertools import chain
from pathlib import Path

import pytest

from ntkrun import experiments
from ntkrun.errors import UserError
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.experiments.framework import PRESETS, sweeps_of
from ntkrun.experiments.table import EXPERIMENTS, chosen
from ntkrun.plan.costs import rough_seconds
from ntkrun.plan.runs import plan, stacks

HOME = Path(experiments.__file__).parent
SWEEPS = sweeps_of(EXPERIMENTS.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_sweep_of_every_preset_is_valid_and_has_a_folder_of_its_own(preset: str) -> None:
    names = [planned.load(preset).name for planned in SWEEPS]
    assert len(set(names)) == len(names)


# What each sweep takes from its paper.
PAPERS = {
    "papers/jacot-1": {
        "network.depth": 4, "network.beta": 0.1, "network.activation": "relu", "network.width": [500, 10000],
        "training.step_size": 1.0, "training.steps": 200, "seeds": 10,
    },
    "papers/jacot-2": {
        "network.depth": 4, "network.beta": 0.1, "network.activation": "relu", "network.width": [50, 1000],
        "data.samples": 4, "training.steps": 1000, "seeds": 10,
    },
    "papers/jacot-3": {
        "network.depth": 4, "network.activation": "relu", "network.width": [100, 1000, 10000], "data.samples": 512,
        "data.dataset": "mnist_784",
    },
    "papers/lee-1": {
        "network.depth": 4, "network.activation": "relu", "network.width": [2**k for k in range(4, 13)],
        "data.samples": 128, "data.dataset": "mnist_784", "training.step_size": 1.0, "training.steps": 2**17,
    },
    "papers/lee-2": {
        "network.depth": 4, "network.activation": "tanh", "network.beta": 0.0, "network.weight_scale": 1.5**0.5,
        "network.width": 8192, "data.samples": 128, "training.step_size": 0.5, "seeds": 100,
    },
    "papers/lee-3": {
        "network.depth": 6, "network.activation": "relu", "network.beta": 0.1**0.5, "network.weight_scale": 2**0.5,
        "network.width": [256, 512, 1024, 2048], "data.samples": 256, "training.step_size": 0.01,
    },
}  # fmt: skip


@pytest.mark.parametrize("config", PAPERS)
def test_the_paper_preset_takes_the_papers_settings(config: str) -> None:
    (planned,) = (each for each in SWEEPS if each.config == config)
    found = planned.load("paper").resolved
    asked = {
        f"{section}.{key}": value
        for section in ("network", "data", "training")
        for key, value in found[section].items()
    }
    asked |= {"seeds": found["sweep"]["seeds"]} | found["sweep"]["grid"]
    assert {key: asked[key] for key in PAPERS[config]} == PAPERS[config]


def test_smoke_is_small_and_paper_is_not() -> None:
    def cost(preset: str) -> float:
        return sum(rough_seconds(stack) for planned in SWEEPS for stack in stacks(plan(planned.load(preset))))

    assert cost("smoke") < 250  # seconds of a core, roughly: five minutes of CI have room for it
    assert cost("laptop") > 10 * cost("smoke")


def test_what_an_experiment_is_about_is_judged_by_its_sweeps() -> None:
    for experiment in EXPERIMENTS.values():
        asked = {
            entry if isinstance(entry, str) else entry["name"]
            for planned in experiment.sweeps
            for entry in planned.load("smoke").resolved["claims"]
        }
        assert set(experiment.claims or ()) <= asked, experiment.name


def test_every_claim_has_an_experiment() -> None:
    asked = chain.from_iterable(planned.load("smoke").resolved["claims"] for planned in SWEEPS)
    assert {entry if isinstance(entry, str) else entry["name"] for entry in asked} == set(CLAIMS)


def test_experiments_are_chosen_by_name_each_once() -> None:
    assert [each.name for each in chosen(["lee-1", "jacot-1", "lee-1"])] == ["lee-1", "jacot-1"]
    assert chosen([]) == list(EXPERIMENTS.values())
    with pytest.raises(UserError, match="jacot-9: no such experiment; choose from jacot-2, jacot-3"):
        chosen(["jacot-9"])


def test_no_experiment_trains_or_fits() -> None:
    """What needs either lies in the package, with a test."""
    forbidden = re.compile(
        r"engine\.(training|update)|backward\(|polyfit|lstsq|curve_fit|linregress|\beigh|torch.optim"
    )
    for path in HOME.glob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path


def test_the_package_does_not_know_the_experiments_but_at_its_door() -> None:
    package = HOME.parent
    sources = (path for path in package.rglob("*.py") if HOME not in path.parents)
    knows = [str(path.relative_to(package)) for path in sources if "ntkrun.experiments" in path.read_text("utf-8")]
    assert sorted(knows) == ["commands/list.py", "commands/report.py", "commands/reproduce.py"]
