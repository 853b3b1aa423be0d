"""results/summary.md: claims and verdicts, and the papers' numbers beside ours, from the result.json files alone."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ntkrun.evidence.cases import label
from ntkrun.evidence.claims_table import measured, span
from ntkrun.evidence.judging import SUPPORTED, Estimate
from ntkrun.lab.files import write_text

MADE_BY = ("system", "cpu", "gpu", "cores", "threads", "commit")


def write_summary(root: Path) -> Path:
    """Assemble summary.md from the experiments that there are under `root`."""
    path = root / "summary.md"
    write_text(path, summary(_stored(root)))
    return path


def _stored(root: Path) -> list[dict[str, Any]]:
    """The result.json of every experiment of the table that has one, in the table's order."""
    from experiments.table import EXPERIMENTS

    paths = [root / "experiments" / name / "result.json" for name in EXPERIMENTS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def summary(documents: Sequence[dict[str, Any]]) -> str:
    """The page as Markdown."""
    claims = [_claim(document, claim) for document in documents for claim in document["claims"]]
    rows = [_row(document, row) for document in documents for row in document["rows"]]
    parts = [
        "# What came out",
        _preamble(documents),
        "## Claims",
        "95 % intervals; the part of a claim that decides its verdict.",
        _table(("experiment", "claim", "of", "verdict", "measured", "expected", "why"), claims),
        "## The papers' and the theory's numbers beside ours",
        _table(("experiment", "what", "paper", "theory", "ours", "95 %", "note"), rows),
        "## Experiments",
        *[_experiment(document) for document in documents],
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _preamble(documents: Sequence[dict[str, Any]]) -> str:
    """Preset, machines, versions and commits, each said once."""
    sweeps = {sweep["results"]: sweep for document in documents for sweep in document["sweeps"].values()}
    made = list(dict.fromkeys(_made_by(sweep["made_by"]) for sweep in sweeps.values()))
    presets = ", ".join(dict.fromkeys(document["preset"] for document in documents))
    minutes = sum(sweep["seconds"] for sweep in sweeps.values()) / 60
    runs = sum(sweep["done"] + sweep["diverged"] for sweep in sweeps.values())
    return "\n".join([f"Preset {presets}; {runs} runs, {minutes:.1f} minutes of training.", *(f"- {m}" for m in made)])


def _made_by(made_by: dict[str, Any]) -> str:
    known = [f"{key} {made_by[key]}" for key in MADE_BY if made_by.get(key)]
    dirty = " (with changes)" if made_by.get("dirty") else ""
    return "; ".join(known) + dirty + "; " + ", ".join(f"{k} {v}" for k, v in made_by["versions"].items())


def _claim(document: dict[str, Any], claim: dict[str, Any]) -> tuple[str, ...]:
    verdict = claim["verdict"]
    if claim["expect"] != SUPPORTED:
        verdict += ", as expected" if claim["as_expected"] else f", expected {claim['expect']}"
    part = f", {claim['part']}" if claim["part"] else ""
    estimate = Estimate(_number(claim["estimate"]), _interval(claim["interval"]))
    where = ", ".join(text for text in (claim["sweep"], label(claim["settings"])) if text)
    expected = span(_ends(claim["expected"]))
    return document["name"], claim["name"] + part, where, verdict, measured(estimate), expected, claim["why"]


def _row(document: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["interval"] or (None, None)
    interval = "" if None in (low, high) else f"[{_shown(low)}, {_shown(high)}]"
    numbers = [_shown(row[key]) for key in ("paper", "theory", "ours")]
    return document["name"], row["what"], *numbers, interval, row["note"]


def _experiment(document: dict[str, Any]) -> str:
    lines = [f"### {document['name']}", document["statement"], f"*{document['references']}*"]
    if document["departures"]:
        lines.append(f"Otherwise than there: {document['departures']}")
    lines += [
        f"![{stem}](experiments/{document['name']}/{stem}.png)\n\n{caption}"
        for stem, caption in document["figures"].items()
    ]
    return "\n\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; '' without rows."""
    found = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *found]) if found else ""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _interval(ends: Sequence[float | None]) -> tuple[float, float]:
    return _number(ends[0]), _number(ends[1])


def _ends(ends: Sequence[float | None]) -> tuple[float, float]:
    """A margin: null is an open end."""
    low, high = ends
    return (-math.inf if low is None else low, math.inf if high is None else high)
