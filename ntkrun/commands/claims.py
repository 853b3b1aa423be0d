"""`ntkrun claims`."""

import typer

from ntkrun.commands.arguments import Json, RunDirectory
from ntkrun.commands.printing import print_json, print_table, say, under_way
from ntkrun.report.conclusion import NONE_DIVERGED, judge_claims


def claims(run_dir: RunDirectory, json: Json = False) -> None:
    """Judge the claims that the sweep's config names, from the stored tables alone.

    Exits 0 when each turned out as expected, 3 when one did not (or no run diverged and the config expects it), 5 when
    one is inconclusive, 1 when runs failed.

    Example: ntkrun claims results/width --json
    """
    with under_way("judging"):
        from ntkrun.evidence.claims.verdicts import REFUTATION, exit_code, runs_code
        from ntkrun.report.tables import claims_tables
        from ntkrun.store.directory import read_results

        results = read_results(run_dir)
        verdicts, document, expect = judge_claims(results)
    if json:
        print_json(document)
    elif verdicts:
        print_table(*claims_tables(verdicts))
    else:
        say(f"{run_dir}: its config names no claims; add `claims: [frozen-kernel, ...]` and sweep again")
    if runs_code(document["runs"], expect) == REFUTATION:
        say(f"{run_dir}: {NONE_DIVERGED}", error=True)
    raise typer.Exit(exit_code(verdicts, results, expect))
