"""The one writer of results/experiments/<name>/: figures, then result.json, each whole or not at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from ntkrun.evidence.claims.verdicts import document
from ntkrun.evidence.figures.pieces import settle
from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, STYLE, saved
from ntkrun.experiments.framework import Experiment, Found, as_json
from ntkrun.files.writing import write_bytes, write_text
from ntkrun.store.directory import Results, Store
from ntkrun.text import json_text

RESULT = "result.json"


def write_experiment(
    root: Path, experiment: Experiment, found: Found, preset: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Draw and store an experiment under `root`, figures in the formats of `more` as well; returns what result.json
    holds."""
    folder = root / "experiments" / experiment.name
    captions = _write_figures(folder, experiment, found, (*ALWAYS, *more))
    said = {
        "name": experiment.name,
        "statement": experiment.statement,
        "references": experiment.references,
        "departures": experiment.departures,
        "preset": preset,
        "sweeps": {name: _sweep(results) for name, results in found.results.items()},
        "claims": [
            {"sweep": name, **entry}
            for name, verdicts in found.verdicts.items()
            for entry in document(verdicts, found.results[name], None)["claims"]
        ],
        "rows": [as_json(row) for row in experiment.rows(found)],
        "figures": captions,
    }
    write_text(folder / RESULT, json_text(said) + "\n")
    return said


def _write_figures(folder: Path, experiment: Experiment, found: Found, formats: Sequence[str]) -> dict[str, str]:
    """The captions by file stem. What an earlier run drew in another format is removed: it shows other results."""
    captions = {}
    with mpl.rc_context(fname=STYLE):
        for stem, figure, caption in experiment.figures(found):
            for ending, raw in saved(settle(figure), formats).items():
                write_bytes(folder / f"{stem}.{ending}", raw)
            for ending in set(ON_REQUEST).difference(formats):
                (folder / f"{stem}.{ending}").unlink(missing_ok=True)
            captions[stem] = caption
    return captions


def _sweep(results: Results) -> dict[str, Any]:
    """What a reader must know of a sweep: where it is, how many runs there are, and what made it."""
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
