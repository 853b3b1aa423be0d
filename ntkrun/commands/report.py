"""`ntkrun report`, which needs no torch."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import Json
from ntkrun.commands.printing import print_json, say, under_way
from ntkrun.errors import UserError


def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="Sweeps, such as results/width, or results after `ntkrun reproduce`"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write it: .html, .md or .json; report.html in the folder of them all if not given",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Say what moved since, as check does; results/baseline/smoke.json"),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A summary for pull requests on standard output, and nothing else")
    ] = False,
    json: Json = False,
) -> None:
    """One page of what came out: each claim with its verdict, the figures, the papers' numbers beside ours, how it was
    made. From the stored tables alone, in one file that loads nothing from anywhere.

    Example: ntkrun report results/width results/erf --out width-and-erf.html

    Example: ntkrun report results/smoke/width --baseline results/baseline/smoke.json --markdown
    """
    from ntkrun.experiments.table import EXPERIMENTS
    from ntkrun.report import gather

    if markdown and json:
        raise UserError("--markdown and --json: standard output takes one of them; --out writes another")
    with under_way("gathering results"):
        page = gather.gather_page(run_dirs, baseline, list(EXPERIMENTS))
    if markdown:
        print(gather.page_text(page, ".md"), end="")
    if json:
        print_json(gather.document(page))
    if out or not (markdown or json):
        path = gather.write_page(page, out or gather.default_path(run_dirs))
        if not (markdown or json):
            say(path)
