"""`ntkrun check`."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import Json, RunDirectory
from ntkrun.commands.printing import print_json, print_table, say, under_way


def check(
    run_dir: RunDirectory,
    baseline: Annotated[
        Path, typer.Option(metavar="FILE", help="The baseline file, such as results/baseline/smoke.json")
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline from the results instead of comparing")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the results of a sweep with a baseline. Exit codes: 0 unchanged, 3 changed, 5 too few seeds to decide.

    Example: ntkrun check results/smoke/width --baseline results/baseline/smoke.json
    """
    from ntkrun.evidence.regression import check as checking
    from ntkrun.evidence.regression.check_tables import check_document, check_lines, check_table

    if update:
        runs, changed = checking.update(run_dir, baseline)
        if json:
            print_json({"baseline": str(baseline), "runs": runs, "changes": changed})
        else:
            say("\n".join([f"{baseline}: {runs} runs", *(f"  {line}" for line in changed or ["nothing changed"])]))
        return
    with under_way("comparing with the baseline"):
        comparison, known, figure = checking.check(run_dir, baseline)
    if json:
        print_json(check_document(comparison, known))
    else:
        print_table(check_table(comparison))
        say("\n".join([*check_lines(comparison, known), f"figure: {figure}"]))
    raise typer.Exit(comparison.code)
