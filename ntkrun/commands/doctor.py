"""`ntkrun doctor`: finds problems of this machine or of a results directory, and repairs what can be repaired."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.printing import print_json, say
from ntkrun.errors import StoreBusy, UserError

WRONG = 1  # exit code when a problem remains


def doctor(
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="[RUN_DIR]", help="The results directory of a sweep, such as results/width")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Repair what can be repaired in RUN_DIR; no result is deleted")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output")] = False,
) -> None:
    """Print versions, devices, threads and memory, and the stray, torn and foreign files of a results directory.

    Exit codes: 0 no problem, or all were repaired; 1 a problem remains; 4 --fix while a sweep is running there.

    Example: ntkrun doctor results/width --fix
    """
    from ntkrun.doctor.machine import lines, machine, odd
    from ntkrun.doctor.results_directory import examine, repair
    from ntkrun.store.results_directory import Store

    if fix and run_dir is None:
        raise UserError("doctor --fix: name the results directory to repair, such as results/width")
    findings = examine(run_dir) if run_dir else []
    if fix and run_dir and Store(run_dir).writers():
        raise StoreBusy(f"{run_dir}: another process is writing here; run --fix again when it has ended")
    remaining = repair(run_dir, findings) if fix and run_dir else findings
    repaired = [finding for finding in findings if finding.wrong and finding not in remaining]
    facts = machine(run_dir)
    notes = list(odd(facts))
    if json:
        print_json(
            {
                "machine": facts,
                "findings": [finding.as_json() for finding in notes + remaining],
                "mended": [finding.as_json() for finding in repaired],
            }
        )
    else:
        say("\n".join([*lines(facts), *(finding.line() for finding in notes)]))
        for finding in repaired:
            say(f"{run_dir}/{finding.where}: {finding.what}; repaired")
        for finding in remaining:
            say(f"{run_dir}/{finding.line()}")
    if any(finding.wrong for finding in remaining):
        raise typer.Exit(WRONG)
