"""Writing of results/experiments/<name>/: figures first, then result.json, each file completely or not at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from ntkrun.evidence.claims.verdicts import document
from ntkrun.evidence.figures.pieces import settle
from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, STYLE, saved
from ntkrun.experiments.framework import Evidence, Experiment, as_json
from ntkrun.files.writing import write_bytes, write_text
from ntkrun.store.results_directory import Results, Store
from ntkrun.text import json_text

RESULT = "result.json"


def write_experiment(
    root: Path, experiment: Experiment, evidence: Evidence, preset: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Draw and store an experiment under `root`, figures also in the formats of `more`. Return the content of
    result.json."""
    folder = root / "experiments" / experiment.name
    captions = _write_figures(folder, experiment, evidence, (*ALWAYS, *more))
    result = {
        "name": experiment.name,
        "statement": experiment.statement,
        "references": experiment.references,
        "departures": experiment.departures,
        "preset": preset,
        "sweeps": {name: _sweep_document(results) for name, results in evidence.results.items()},
        "claims": [
            {"sweep": name, **entry}
            for name, verdicts in evidence.verdicts.items()
            for entry in document(verdicts, evidence.results[name], None)["claims"]
        ],
        "rows": [as_json(row) for row in experiment.rows(evidence)],
        "figures": captions,
    }
    write_text(folder / RESULT, json_text(result) + "\n")
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


def _sweep_document(results: Results) -> dict[str, Any]:
    """Return the document of a sweep: its folder, the number of runs by status, and what made it."""
    made_by = Store(results.path).description()["made_by"]
    ended = results.runs["status"].value_counts()
    return {
        "results": str(results.path),
        "planned": len(results.plan),
        "done": int(ended.get("done", 0)),
        "diverged": int(ended.get("diverged", 0)),
        "failed": int(ended.get("failed", 0)),
        "seconds": float(results.runs["seconds"].sum()),
        "made_by": made_by,
    }
