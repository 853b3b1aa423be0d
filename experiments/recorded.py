"""The committed results in docs/results/, and the comparison of new verdicts on the main claims with them.

`python -m ntkrun.experiments.recorded results` records a finished laptop run there: summary.md, its figures as PNG, and
the verdicts. `... results/smoke` records only the verdicts of the smoke preset.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ntkrun
from ntkrun.evidence.estimates.cases import settings_text
from ntkrun.experiments.shared import WIDTH_SWEEP
from ntkrun.files.writing import write_text

COMMITTED = Path(ntkrun.__file__).parents[1] / "docs" / "results"  # exists only in a checkout
VERDICTS = "verdicts.json"  # preset -> claim of the main sweep -> verdict
SUPPORTED = "supported"


def lost(preset: str, verdicts: Iterable[tuple[str, str]], committed: Path = COMMITTED) -> list[str]:
    """Return a sentence for each claim of the main sweep, given as (name, verdict), that is supported in the committed
    results of this preset and no longer is; none outside a checkout."""
    recorded = _recorded(committed).get(preset, {})
    return [
        f"{name}: {verdict} now, but {SUPPORTED} in the committed results of this preset in docs/results"
        for name, verdict in verdicts
        if recorded.get(name) == SUPPORTED and verdict != SUPPORTED
    ]


def titled(claim: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a claim with the case that a verdict is about."""
    return ", ".join(filter(None, (claim, settings_text(dict(settings)))))


def record(root: Path, committed: Path = COMMITTED) -> str:
    """Record the results of a preset in `root` as the committed ones. Return the preset."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("experiments/*/result.json")]
    (preset,) = {document["preset"] for document in documents}
    main = [claim for document in documents for claim in document["claims"] if claim["sweep"] == WIDTH_SWEEP.config]
    verdicts = {titled(claim["name"], claim["settings"]): claim["verdict"] for claim in main}
    recorded = {**_recorded(committed), preset: verdicts}
    write_text(committed / VERDICTS, json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    if preset == "laptop":
        shutil.copy(root / "summary.md", committed / "summary.md")
        shutil.rmtree(committed / "experiments", ignore_errors=True)
        for figure in root.glob("experiments/*/*.png"):
            copy = committed / figure.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(figure, copy)
    return str(preset)


def _recorded(committed: Path) -> Mapping[str, Mapping[str, str]]:
    file = committed / VERDICTS
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def main(root: Path) -> None:
    """Record `root`. Exits with a sentence where the result of an experiment is missing, because an incomplete run
    would replace a complete earlier one."""
    from ntkrun.experiments.table import EXPERIMENTS

    missing = [name for name in EXPERIMENTS if not (root / "experiments" / name / "result.json").exists()]
    if missing:
        raise SystemExit(f"{root}: no results of {', '.join(missing)}; let `make reproduce` finish first")
    print(f"{COMMITTED}: the results of the {record(root)} preset are recorded")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
