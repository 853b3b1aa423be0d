"""The results that are committed, docs/results/: what a checkout says of the main claims, and whether a run still does.

`python -m ntkrun.experiments.recorded results` records a finished laptop run there: summary.md, its figures as PNG, and
the verdicts. `... results/smoke` records the verdicts of the smoke preset alone.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import ntkrun
from ntkrun.experiments.shared import WIDTH_SWEEP
from ntkrun.files.writing import write_text

COMMITTED = Path(ntkrun.__file__).parents[1] / "docs" / "results"  # only a checkout has it
VERDICTS = "verdicts.json"  # preset -> claim of the main sweep -> verdict
SUPPORTED = "supported"


def lost(preset: str, verdicts: Iterable[tuple[str, str]], committed: Path = COMMITTED) -> list[str]:
    """A sentence for each claim of the main sweep, given as (name, verdict), that was supported in the results of this
    preset as they are committed and is not any more; none outside a checkout."""
    known = _known(committed).get(preset, {})
    return [
        f"{name}: {verdict} now, but {SUPPORTED} in the results of this preset that are committed in docs/results"
        for name, verdict in verdicts
        if known.get(name) == SUPPORTED and verdict != SUPPORTED
    ]


def record(root: Path, committed: Path = COMMITTED) -> str:
    """Record the results of a preset in `root` as the committed ones; returns the preset."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("experiments/*/result.json")]
    (preset,) = {document["preset"] for document in documents}
    main = [claim for document in documents for claim in document["claims"] if claim["sweep"] == WIDTH_SWEEP.config]
    verdicts = {claim["name"]: claim["verdict"] for claim in sorted(main, key=lambda claim: claim["name"])}
    known = {**_known(committed), preset: verdicts}
    write_text(committed / VERDICTS, json.dumps(known, indent=1, sort_keys=True) + "\n")
    if preset == "laptop":
        shutil.copy(root / "summary.md", committed / "summary.md")
        shutil.rmtree(committed / "experiments", ignore_errors=True)
        for figure in root.glob("experiments/*/*.png"):
            copy = committed / figure.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(figure, copy)
    return str(preset)


def _known(committed: Path) -> Mapping[str, Mapping[str, str]]:
    file = committed / VERDICTS
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def main(root: Path) -> None:
    """Record `root`; ends with a sentence where an experiment has not left its result there, since a part of a run
    would replace the whole of an earlier one."""
    from ntkrun.experiments.table import EXPERIMENTS

    missing = [name for name in EXPERIMENTS if not (root / "experiments" / name / "result.json").exists()]
    if missing:
        raise SystemExit(f"{root}: no results of {', '.join(missing)}; let `make reproduce` run to its end first")
    print(f"{COMMITTED}: the results of the {record(root)} preset are recorded")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
