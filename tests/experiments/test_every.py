"""Every experiment, in small: it says what it is about, its sweeps run, its figures draw and its table is whole."""

import math
import re
from collections.abc import Callable

import matplotlib as mpl
import pytest

from ntkrun.config.reader import load_config
from ntkrun.evidence.figures.pieces import settle
from ntkrun.evidence.figures.saving import STYLE
from ntkrun.evidence.records import Row
from ntkrun.evidence.report.conclusion import judge_claims
from ntkrun.experiments.framework import PRESETS, Drawn, Planned
from ntkrun.experiments.table import EXPERIMENTS
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Results

every = pytest.mark.parametrize("name", EXPERIMENTS)

# The numbers that stand in the papers; the others draw curves alone.
OF_PAPERS = {"lee-1": [-0.80, -0.52, -1.0, -0.55]}
WITH_THEORY = {"jacot-1", "jacot-2", "jacot-3", "lee-2", "lee-3", "initialisation", "depth-against-width"}
SHORTER = {  # what of the smoke preset takes longest, in smaller still
    "width": ("training.steps=20", "training.dtype=float32"),
    "initialisation": ("sweep.seeds=20",),
    "around/depth": ("sweep.seeds=20",),
    "losses": ("training.steps=10",),
    "controls/mean-field": ("training.steps=20",),
    "controls/large-step": ("network.width=64", "training.steps=30"),
    "controls/conflicting-labels": ("training.steps=20",),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Planned], Results]:
    """A sweep of the smoke preset, run when it is first asked for."""
    root, done = tmp_path_factory.mktemp("every"), {}

    def ran(planned: Planned) -> Results:
        if planned.config not in done:
            overrides = (*planned.overrides("smoke"), *SHORTER.get(planned.config, ()))
            done[planned.config] = run_sweep(load_config(planned.file, overrides), root, "cpu")
        return done[planned.config]

    return ran


@every
def test_it_says_what_and_where_from_in_words(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    assert re.fullmatch(r"[A-Z].{40,}\.", experiment.statement)
    assert re.search(r"\[\w+\]|docs/theory\.md", experiment.references)
    assert not experiment.departures or experiment.departures.endswith(".")
    assert name.startswith(("jacot", "lee")) == bool(experiment.departures)


@every
@pytest.mark.parametrize("preset", PRESETS)
def test_it_loads_in_each_preset(name: str, preset: str) -> None:
    assert all(planned.load(preset).points for planned in EXPERIMENTS[name].sweeps)


@every
def test_its_figures_are_drawn_and_its_table_is_whole(name: str, tables: Callable[[Planned], Results]) -> None:
    experiment = EXPERIMENTS[name]
    results = {planned.config: tables(planned) for planned in experiment.sweeps}
    found = experiment.evidence(results, {config: judge_claims(each) for config, each in results.items()})
    with mpl.rc_context(fname=STYLE):
        _check_figures(list(experiment.figures(found)))
    _check_rows(name, list(experiment.rows(found)))


def _check_figures(drawn: list[Drawn]) -> None:
    """Each with something on it, labels and a caption."""
    assert len({stem for stem, _, _ in drawn}) == len(drawn) > 0
    for stem, figure, caption in drawn:
        settle(figure)
        assert re.fullmatch(r"[a-z_]+(-[a-z]+)?", stem)
        assert re.fullmatch(r"[A-Z].{40,}\.", caption), stem
        axes = [ax for ax in figure.axes if ax.get_visible()]
        assert any(ax.lines for ax in axes), stem
        if stem != "verdicts":  # its ticks say it all
            assert axes[0].get_ylabel(), stem
            assert all(ax.get_xlabel() for ax in axes), stem


def _check_rows(name: str, rows: list[Row]) -> None:
    """The paper's numbers and the theory's, ours with intervals, and a note where there is none."""
    assert len({row.what for row in rows}) == len(rows)
    assert [row.paper for row in rows if row.paper is not None] == OF_PAPERS.get(name, [])
    assert any(row.theory is not None for row in rows) == (name in WITH_THEORY)
    for row in rows:
        assert row.interval is not None, row.what  # nan where there are too few runs
        low, high = row.interval
        assert row.note if math.isnan(row.ours) else (math.isnan(low) or low <= row.ours <= high), row.what
