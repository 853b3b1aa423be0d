"""`ntkrun report`. It does not need torch."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import Json
from ntkrun.commands.printing import print_json, say, under_way
from ntkrun.errors import UserError


def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...",
            help="Results directories of sweeps, such as results/width; or results itself, after `ntkrun reproduce`",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write, .html, .md or .json; default: report.html in the folder that holds all RUN_DIRs",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare with this baseline, as `ntkrun check` does; such as results/baseline/smoke.json",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a summary for pull requests on standard output, and nothing else")
    ] = False,
    json: Json = False,
) -> None:
    """Write a report of the results: the verdict on each claim, the figures, measured values beside those of the
    papers, configs and versions. It is made from the stored tables alone, as one file that loads no external resources.

    Example: ntkrun report results/width results/erf --out width-and-erf.html

    Example: ntkrun report results/smoke/width --baseline results/baseline/smoke.json --markdown
    """
    from ntkrun.evidence.report import gather

    if markdown and json:
        raise UserError("--markdown and --json cannot be combined; write one of them to a file with --out")
    with under_way("gathering results"):
        page = gather.gather_page(run_dirs, baseline, _order(run_dirs))
    if markdown:
        print(gather.page_text(page, ".md"), end="")
    if json:
        print_json(gather.document(page))
    if out or not (markdown or json):
        path = gather.write_page(page, out or gather.default_path(run_dirs))
        if not (markdown or json):
            say(path)


def _order(run_dirs: list[Path]) -> list[str]:
    """Return the names of the experiments in the order in which they run; [] without experiments, whose modules take
    longer to import than a sweep's report takes."""
    if not any((path / "experiments").is_dir() for path in run_dirs):
        return []
    from ntkrun.experiments.table import EXPERIMENTS

    return list(EXPERIMENTS)
