"""The conclusion of a sweep whose runs have ended: its figures, its verdicts, and the document and tables of both."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntkrun.errors import UserError
from ntkrun.text import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ntkrun.config.reader import Sweep
    from ntkrun.evidence.records import Judgement
    from ntkrun.plan.stacks import Shard
    from ntkrun.run.progress import Profile
    from ntkrun.store.results_directory import Results, Store

NONE_DIVERGED = "expect: diverged, but none of the runs did"  # printed with exit code 3


def draw_figures(results: "Results", more: "Iterable[str]" = ()) -> list[Path]:
    """Draw every figure of the results with its caption, as PNG and SVG and in the formats of `more`. Return the paths.
    Files of other formats from an earlier drawing, which may show older tables, are removed."""
    from ntkrun.evidence.figures.draw import save_all
    from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST

    formats = (*ALWAYS, *more)
    figures = save_all(results.runs, results.steps, results.layers, results.kernels, formats)
    paths = []
    for stem, files, _ in figures:
        paths += [results.write_figure(f"{stem}.{ending}", raw) for ending, raw in files.items()]
        results.remove_figure(stem, [ending for ending in ON_REQUEST if ending not in formats])
    results.write_captions({stem: caption for stem, _, caption in figures})
    return paths


def extra_formats(text: str) -> list[str]:
    """Return the formats of `--format png,svg,pdf` beyond those that are always drawn. Raises UserError for an unknown
    format."""
    from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST

    requested = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [part for part in requested if part not in (*ALWAYS, *ON_REQUEST)]
    if unknown:
        raise UserError(f"--format {unknown[0]}: choose {', '.join((*ALWAYS, *ON_REQUEST))}")
    return [part for part in ON_REQUEST if part in requested]


def judge_claims(results: "Results") -> "Judgement":
    """Judge the claims of the sweep's config, and store and return the judgement (claims.json)."""
    from ntkrun.evidence.claims.entry import stored_claims
    from ntkrun.evidence.claims.judge import judgement

    judged = judgement(results, *stored_claims(results.config(), results.path / "sweep.yaml"))
    results.write_claims(json_text(judged.model_dump()) + "\n")
    return judged


def sweep_conclusion(results: "Results", profile: "Profile | None") -> tuple[dict[str, Any], list[Any], int]:
    """Return the conclusion of a finished sweep, as a document and as tables: levels, exponents, verdicts, and with a
    profile the time of each phase; and an exit code by how its runs ended, whatever the verdicts."""
    from ntkrun.evidence.estimates.summary import groups
    from ntkrun.evidence.report.tables import claims_tables, closing_document, closing_tables

    all_groups = groups(results.runs, results.steps, results.layers)
    judged = judge_claims(results)
    document = {"results": str(results.path), "groups": closing_document(all_groups), **judged.model_dump()}
    tables = [*closing_tables(all_groups), *claims_tables(judged.claims), *_profiled(document, profile)]
    return document, tables, judged.runs.code(judged.expect)


def shard_conclusion(
    store: "Store", sweep: "Sweep", shard: "Shard", remaining: int, profile: "Profile | None"
) -> tuple[dict[str, Any], list[str], int]:
    """Return the conclusion of a shard that has finished before the others: how its runs ended, how many runs of the
    sweep are missing, with a profile the time of each phase; and an exit code by how its own runs ended. Whether any
    run diverged as expected is only known after the last shard."""
    from ntkrun.evidence.records import RunCounts
    from ntkrun.plan.runs import plan
    from ntkrun.plan.stacks import runs_in_shard

    runs = store.runs()
    own = runs[runs["run_id"].isin([run.run_id for run in runs_in_shard(shard, plan(sweep))])]
    ended = {str(status): int(count) for status, count in own["status"].value_counts().items()}
    document = {"results": str(store.root), "shard": list(shard), **ended, "to_come": remaining}
    counts_text = ", ".join(f"{count} runs {status}" for status, count in ended.items()) or "no runs"
    line = f"shard {shard}: {counts_text}; {remaining} runs of other shards are missing"
    lines = [line, *_profiled(document, profile)]
    counts = RunCounts.model_validate({"planned": 0, "done": 0, "diverged": 0, **ended, "missing": remaining})
    return document, lines, counts.code(sweep.resolved.get("expect"))


def _profiled(document: dict[str, Any], profile: "Profile | None") -> list[str]:
    """Add the profile to the document and return its lines; none without a profile."""
    if profile is None:
        return []
    document["profile"] = profile.document()
    return profile.lines()
