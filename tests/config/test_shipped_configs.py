"""The configs of the repository are valid, and the controls are what they say."""

from pathlib import Path

import pytest

from ntkrun.config.reader import load_config
from ntkrun.plan.runs import plan
from ntkrun.run.sweep import notes_on

CONFIGS = Path(__file__).parents[2] / "configs"
CONTROLS = {"mean-field", "standard", "large-step", "small-scale", "large-targets", "conflicting-labels"}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    sweep = load_config(path)
    assert sweep.name == (f"control-{path.stem}" if path.parent.name == "controls" else path.stem)
    assert len(plan(sweep)) > 1


def test_the_controls_are_all_there() -> None:
    assert {path.stem for path in (CONFIGS / "controls").glob("*.yaml")} >= CONTROLS


def test_conflicting_labels_are_announced() -> None:
    assert (
        "the loss cannot reach zero" in notes_on(plan(load_config(CONFIGS / "controls" / "conflicting-labels.yaml")))[1]
    )
