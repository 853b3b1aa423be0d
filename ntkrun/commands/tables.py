"""Commands about a sweep's stored tables alone; none of them needs torch."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.closing import NONE_DIVERGED, draw, formats, judge
from ntkrun.commands.arguments import Format, Json, RunDirectory, one_of
from ntkrun.saying import print_json, print_table, say, under_way


def status(run_dir: RunDirectory, json: Json = False) -> None:
    """Planned, done, diverged, failed, missing runs; where the time went; what failed and why.

    Example: ntkrun status results/width
    """
    from ntkrun.evidence.tables import failure_lines, status_document, status_table
    from ntkrun.lab.store import Store

    store = Store(run_dir)
    document = status_document(store.plan(), store.runs(), store.writers(), store.failed())
    print_json(document) if json else print_table(status_table(document), *failure_lines(document))


def claims(run_dir: RunDirectory, json: Json = False) -> None:
    """Judge the claims that the sweep's config names, from the stored tables alone.

    Exits 0 when each turned out as expected, 3 when one did not (or no run diverged and the config expects it), 5 when
    one is inconclusive, 1 when runs failed.

    Example: ntkrun claims results/width --json
    """
    with under_way("judging"):
        from ntkrun.evidence.claims_table import claims_tables
        from ntkrun.evidence.verdicts import REFUTATION, exit_code, runs_code
        from ntkrun.lab.store import read_results

        results = read_results(run_dir)
        verdicts, document, expect = judge(results)
    if json:
        print_json(document)
    elif verdicts:
        print_table(*claims_tables(verdicts))
    else:
        say(f"{run_dir}: its config names no claims; add `claims: [frozen-kernel, ...]` and sweep again")
    if runs_code(document["runs"], expect) == REFUTATION:
        say(f"{run_dir}: {NONE_DIVERGED}", error=True)
    raise typer.Exit(exit_code(verdicts, results, expect))


def plot(run_dir: RunDirectory, format_: Format = "png,svg") -> None:
    """Draw the figures again from the stored tables alone: PNG and SVG, and PDF where it is asked for.

    Example: ntkrun plot results/width --format pdf
    """
    more = formats(format_)
    with under_way("drawing figures"):
        from ntkrun.lab.store import read_results

        paths = draw(read_results(run_dir), more)
    if not paths:
        say(f"{run_dir}: nothing to draw yet; no run is finished", error=True)
    for path in paths:
        say(path)


def check(
    run_dir: RunDirectory,
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="The baseline, such as results/baseline/smoke.json")],
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline from the results, and judge nothing")
    ] = False,
    json: Json = False,
) -> None:
    """Have the numbers moved since the baseline was written? Exit code 0 no, 3 yes, 5 too few seeds to tell.

    Example: ntkrun check results/smoke/width --baseline results/baseline/smoke.json
    """
    from ntkrun import checking
    from ntkrun.evidence.check_tables import check_document, check_lines, check_table

    if update:
        runs, changed = checking.update(run_dir, baseline)
        if json:
            print_json({"baseline": str(baseline), "runs": runs, "changes": changed})
        else:
            say("\n".join([f"{baseline}: {runs} runs", *(f"  {line}" for line in changed or ["nothing changed"])]))
        return
    with under_way("comparing"):
        judged, known, figure = checking.check(run_dir, baseline)
    if json:
        print_json(check_document(judged, known))
    else:
        print_table(check_table(judged))
        say("\n".join([*check_lines(judged, known), f"figure in {figure}"]))
    raise typer.Exit(judged.code)


def export(
    run_dir: RunDirectory,
    to: Annotated[
        str,
        typer.Option(metavar="csv|tensorboard", help="The format", autocompletion=one_of("csv", "tensorboard")),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder to make; RUN_DIR/csv or RUN_DIR/tensorboard if not given"),
    ] = None,
) -> None:
    """The stored tables for other tools: a CSV file each, or TensorBoard's event files with a folder a run.

    Example: ntkrun export results/width --to csv --out width-csv
    """
    from ntkrun.exporting import export as export_to
    from ntkrun.lab.store import read_results

    folder = out or run_dir / to
    say(f"{folder}: {export_to(read_results(run_dir), to, folder)}")
