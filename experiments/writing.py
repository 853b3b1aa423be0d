"""Writing of results/experiments/<name>/: figures first, then result.json, each file completely or not at all."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from ntkrun.evidence.figures.pieces import settle
from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, STYLE, saved
from ntkrun.evidence.records import ExperimentResult
from ntkrun.evidence.report.gather import RESULT, swept
from ntkrun.experiments.framework import Evidence, Experiment
from ntkrun.files.writing import write_bytes, write_text
from ntkrun.text import json_text


def write_experiment(
    root: Path, experiment: Experiment, evidence: Evidence, preset: str, more: Sequence[str] = ()
) -> ExperimentResult:
    """Draw and store an experiment under `root`, figures also in the formats of `more`. Return what result.json
    holds."""
    folder = root / "experiments" / experiment.name
    captions = _write_figures(folder, experiment, evidence, (*ALWAYS, *more))
    result = ExperimentResult(
        name=experiment.name,
        statement=experiment.statement,
        references=experiment.references,
        departures=experiment.departures,
        preset=preset,
        sweeps={name: swept(results, evidence.judgements[name].runs) for name, results in evidence.results.items()},
        claims=tuple(evidence.verdicts),
        rows=tuple(experiment.rows(evidence)),
        figures=captions,
    )
    write_text(folder / RESULT, json_text(result.model_dump()) + "\n")
    return result


def _write_figures(folder: Path, experiment: Experiment, evidence: Evidence, formats: Sequence[str]) -> dict[str, str]:
    """Draw the figures and return their captions by file stem. Files of other formats from an earlier run are removed:
    they show other results."""
    captions = {}
    with mpl.rc_context(fname=STYLE):
        for stem, figure, caption in experiment.figures(evidence):
            for ending, raw in saved(settle(figure), formats).items():
                write_bytes(folder / f"{stem}.{ending}", raw)
            for ending in set(ON_REQUEST).difference(formats):
                (folder / f"{stem}.{ending}").unlink(missing_ok=True)
            captions[stem] = caption
    return captions
