"""`ntkrun doctor`: what is odd with this machine or a results directory, and what can be put right."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.printing import print_json, say
from ntkrun.errors import StoreBusy, UserError

WRONG = 1  # exit code when something is left to put right


def doctor(
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="[RUN_DIR]", help="A sweep's results, such as results/width")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Put right what can be, in RUN_DIR; no result is deleted")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output")] = False,
) -> None:
    """Versions, devices, threads and memory; and in a results directory stray, torn and foreign files, a line each.

    Exits 0 when nothing is wrong, or all was put right; 1 when something is; 4 when --fix meets a running sweep.

    Example: ntkrun doctor results/width --fix
    """
    from ntkrun.doctor.directory import examine, repair
    from ntkrun.doctor.machine import lines, machine, odd
    from ntkrun.store.directory import Store

    if fix and run_dir is None:
        raise UserError("doctor --fix: name the results directory to put right, as in results/width")
    found = examine(run_dir) if run_dir else []
    if fix and run_dir and Store(run_dir).writers():
        raise StoreBusy(f"{run_dir}: a process is writing here; --fix waits for no one: run it when that has ended")
    left = repair(run_dir, found) if fix and run_dir else found
    mended = [finding for finding in found if finding.wrong and finding not in left]
    facts = machine(run_dir)
    notes = list(odd(facts))
    if json:
        print_json(
            {
                "machine": facts,
                "findings": [finding.as_json() for finding in notes + left],
                "mended": [finding.as_json() for finding in mended],
            }
        )
    else:
        say("\n".join([*lines(facts), *(finding.line() for finding in notes)]))
        for finding in mended:
            say(f"{run_dir}/{finding.where}: {finding.what}; put right")
        for finding in left:
            say(f"{run_dir}/{finding.line()}")
    if any(finding.wrong for finding in left):
        raise typer.Exit(WRONG)
