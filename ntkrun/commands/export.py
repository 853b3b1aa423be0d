"""`ntkrun export`."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import RunDirectory, one_of
from ntkrun.commands.printing import say


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
    from ntkrun.report.export import export as export_to
    from ntkrun.store.directory import read_results

    folder = out or run_dir / to
    say(f"{folder}: {export_to(read_results(run_dir), to, folder)}")
