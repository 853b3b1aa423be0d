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
        typer.Option(metavar="csv|tensorboard", help="Format to write", autocompletion=one_of("csv", "tensorboard")),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder to write; default: RUN_DIR/csv or RUN_DIR/tensorboard"),
    ] = None,
) -> None:
    """Export the stored tables: one CSV file per table, or TensorBoard event files with one folder per run.

    Example: ntkrun export results/width --to csv --out width-csv
    """
    from ntkrun.store.export import export as export_to
    from ntkrun.store.results_directory import read_results

    folder = out or run_dir / to
    say(f"{folder}: {export_to(read_results(run_dir), to, folder)}")
