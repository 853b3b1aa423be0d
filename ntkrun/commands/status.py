"""`ntkrun status`."""

from ntkrun.commands.arguments import Json, RunDirectory
from ntkrun.commands.printing import print_json, print_table


def status(run_dir: RunDirectory, json: Json = False) -> None:
    """Planned, done, diverged, failed, missing runs; where the time went; what failed and why.

    Example: ntkrun status results/width
    """
    from ntkrun.report.tables import failure_lines, status_document, status_table
    from ntkrun.store.directory import Store

    store = Store(run_dir)
    document = status_document(store.plan(), store.runs(), store.writers(), store.failed())
    print_json(document) if json else print_table(status_table(document), *failure_lines(document))
