"""`ntkrun status`."""

from ntkrun.commands.arguments import Json, RunDirectory
from ntkrun.commands.printing import print_json, print_table


def status(run_dir: RunDirectory, json: Json = False) -> None:
    """Show planned, done, diverged, failed and missing runs by width, the time spent and left, and why runs failed.

    Example: ntkrun status results/width
    """
    from ntkrun.evidence.report.status import failure_lines, status_document, status_table
    from ntkrun.store.progress import read_progress
    from ntkrun.store.results_directory import Store

    store = Store(run_dir)
    document = status_document(store.plan(), store.runs(), store.writers(), store.failed(), read_progress(run_dir))
    print_json(document) if json else print_table(status_table(document), *failure_lines(document))
