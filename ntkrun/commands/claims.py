"""`ntkrun claims`."""

import typer

from ntkrun.commands.arguments import Json, RunDirectory
from ntkrun.commands.printing import print_json, print_table, say, under_way
from ntkrun.evidence.report.conclusion import NONE_DIVERGED, judge_claims


def claims(run_dir: RunDirectory, json: Json = False) -> None:
    """Judge the claims that the sweep's config names, from the stored tables alone.

    Exit codes: 0 all verdicts are as expected; 1 runs failed, or diverged unexpectedly; 3 a verdict is not as expected,
    or the config expects runs to diverge and none did; 5 a verdict is inconclusive, or runs are missing.

    Example: ntkrun claims results/width --json
    """
    with under_way("judging claims"):
        from ntkrun.evidence.records import REFUTATION
        from ntkrun.evidence.report.tables import claims_tables
        from ntkrun.store.results_directory import read_results

        results = read_results(run_dir)
        judged = judge_claims(results)
    if json:
        print_json(judged.model_dump())
    elif judged.claims:
        print_table(*claims_tables(judged.claims))
    else:
        say(f"{run_dir}: the config names no claims; add `claims: [frozen-kernel, ...]` to it and run the sweep again")
    if judged.runs.code(judged.expect) == REFUTATION:
        say(f"{run_dir}: {NONE_DIVERGED}", error=True)
    raise typer.Exit(judged.code)
