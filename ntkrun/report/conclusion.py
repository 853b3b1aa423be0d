"""What is made of a sweep's tables once its runs are done: figures and verdicts, and what is said of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntkrun.errors import UserError
from ntkrun.text import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from matplotlib.figure import Figure

    from ntkrun.config.reader import Sweep
    from ntkrun.evidence.claims.verdicts import Verdict
    from ntkrun.plan.stacks import Shard
    from ntkrun.run.progress import Profile
    from ntkrun.store.directory import Results, Store

NONE_DIVERGED = "expect: diverged, but none of the runs did"  # beside exit code 3


def draw_figures(results: "Results", more: "Iterable[str]" = ()) -> list[Path]:
    """Every figure of the results with its caption, as PNG and SVG, and in the formats of `more`; what an earlier
    drawing left in another format, which would show other tables, is removed."""
    from ntkrun.evidence.figures.draw import draw_all
    from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, all_saved

    wanted = (*ALWAYS, *more)
    paths, captions = [], dict[str, str]()

    def figures() -> "Iterator[Figure]":
        for stem, figure, caption in draw_all(results.runs, results.steps, results.layers, results.kernels):
            captions[stem] = caption
            yield figure

    files = list(all_saved(figures(), wanted))
    for stem, by_format in zip(captions, files, strict=True):
        paths += [results.write_figure(f"{stem}.{ending}", raw) for ending, raw in by_format.items()]
        results.remove_figure(stem, [ending for ending in ON_REQUEST if ending not in wanted])
    results.write_captions(captions)
    return paths


def extra_formats(text: str) -> list[str]:
    """The formats of `--format png,svg,pdf` that are not drawn in any case. Raises UserError for one that there is
    not."""
    from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST

    asked = [part.strip().lower() for part in text.split(",") if part.strip()]
    wrong = [part for part in asked if part not in (*ALWAYS, *ON_REQUEST)]
    if wrong:
        raise UserError(f"--format {wrong[0]}: choose {', '.join((*ALWAYS, *ON_REQUEST))}")
    return [part for part in ON_REQUEST if part in asked]


def judge_claims(results: "Results") -> "tuple[list[Verdict], dict[str, Any], str | None]":
    """The verdicts on the claims of the sweep's config, stored as claims.json; and what the config expects of the
    runs."""
    from ntkrun.config.claims import stored_claims
    from ntkrun.evidence.claims import verdicts

    wanted, expect = stored_claims(results.config(), results.path / "sweep.yaml")
    found = verdicts.judge(results, verdicts.claim_requests(wanted))
    document = verdicts.document(found, results, expect)
    results.write_claims(json_text(document) + "\n")
    return found, document, expect


def sweep_conclusion(results: "Results", profile: "Profile | None") -> tuple[dict[str, Any], list[Any], int]:
    """What a sweep says when it has run, for machines and as tables for people: levels, exponents, verdicts, where the
    time went if asked for; and an exit code by how its runs ended, whatever the verdicts."""
    from ntkrun.evidence.claims.verdicts import runs_code
    from ntkrun.evidence.estimates.summary import groups
    from ntkrun.report.tables import claims_tables, closing_document, closing_tables

    found = groups(results.runs, results.steps, results.layers)
    verdicts, judged, expect = judge_claims(results)
    document = {"results": str(results.path), "groups": closing_document(found), **judged}
    tables = [*closing_tables(found), *claims_tables(verdicts), *_profiled(document, profile)]
    return document, tables, runs_code(judged["runs"], expect)


def shard_conclusion(
    store: "Store", sweep: "Sweep", shard: "Shard", remaining: int, profile: "Profile | None"
) -> tuple[dict[str, Any], list[str], int]:
    """What a shard says when it has run while other shards have not: how its own runs ended, how many of the sweep's
    are to come, where the shard's time went if asked for; and an exit code by how its own ended: whether any diverges,
    the last shard says."""
    from ntkrun.evidence.claims.verdicts import runs_code
    from ntkrun.plan.runs import plan
    from ntkrun.plan.stacks import runs_in_shard

    runs = store.runs()
    own = runs[runs["run_id"].isin([run.run_id for run in runs_in_shard(shard, plan(sweep))])]
    ended = {str(status): int(count) for status, count in own["status"].value_counts().items()}
    document = {"results": str(store.root), "shard": list(shard), **ended, "to_come": remaining}
    said = ", ".join(f"{count} runs {status}" for status, count in ended.items()) or "no runs"
    line = f"shard {shard}: {said}; {remaining} runs of other shards are to come"
    lines = [line, *_profiled(document, profile)]
    counts = {"failed": 0, "diverged": 0, **ended, "missing": remaining}
    return document, lines, runs_code(counts, sweep.resolved.get("expect"))


def _profiled(document: dict[str, Any], profile: "Profile | None") -> list[str]:
    """Where the time went, for people, and put into the document; nothing where nobody asked for it."""
    if profile is None:
        return []
    document["profile"] = profile.document()
    return profile.lines()
