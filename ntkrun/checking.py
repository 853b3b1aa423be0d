"""`ntkrun check`: a sweep's numbers against a baseline file, judged and drawn; or the file written anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ntkrun.errors import UserError
from ntkrun.evidence.baseline import Baseline, RunRecord, changes, differing_keys, read_baseline, records, written
from ntkrun.evidence.check_figure import check_figure
from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, saved
from ntkrun.evidence.regression import Check, compare
from ntkrun.lab.files import write_text
from ntkrun.lab.store import Results, Store


def check(run_dir: Path, path: Path) -> tuple[Check, Baseline, Path]:
    """The check of a sweep's results against the baseline in a file, and its figure. Raises UserError where the
    baseline is of another config."""
    store = Store(run_dir)
    results, description, known = store.read(), store.description(), read_baseline(path)
    if description["config_hash"] != known.config_hash:
        _same_config(description, known, path)
    judged = compare(_records(store, results), known.runs)
    files = saved(check_figure(judged), ALWAYS)
    drawn = [results.write_figure(f"check.{ending}", raw) for ending, raw in files.items()]
    results.remove_figure("check", ON_REQUEST)  # one that an earlier version drew
    return judged, known, drawn[0]


def update(run_dir: Path, path: Path) -> tuple[int, list[str]]:
    """Write the baseline from a sweep's results: how many runs it holds, and what changed of it, a line each."""
    store = Store(run_dir)
    found = _records(store, store.read())
    before = read_baseline(path) if path.exists() else None
    write_text(path, written(store.description(), found))
    return len(found), changes(before, read_baseline(path)) if before else ["new"]


def _records(store: Store, results: Results) -> Sequence[RunRecord]:
    return records(store.plan(), results.runs, results.steps, results.layers)


def _same_config(description: dict[str, Any], known: Baseline, path: Path) -> None:
    """Raises UserError where the baseline is of another config, but for name, seeds and claims."""

    def completed(config: Mapping[str, Any]) -> dict[str, Any]:
        from ntkrun.lab import sections  # imports torch: only where the configs are of two versions

        return sections.completed(config)

    if differing := differing_keys(description["config"], known.config, completed):
        raise UserError(f"{path}: a baseline of another config: {', '.join(differing)}")
