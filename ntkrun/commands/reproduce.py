"""`ntkrun reproduce`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import (
    Device,
    DryRun,
    Format,
    Json,
    Quiet,
    RetryFailed,
    one_of,
)
from ntkrun.commands.printing import interruptible, kept_in, loading_torch, print_json, say, under_way
from ntkrun.errors import UserError
from ntkrun.report.conclusion import extra_formats

Experiments = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="`ntkrun list experiments`; none: all of them")
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="smoke|laptop|paper",
        help="How large, and how long",
        autocompletion=one_of("smoke", "laptop", "paper"),
    ),
]


def reproduce(
    names: Experiments = None,
    preset: Preset = "laptop",
    results: Annotated[Path, typer.Option(help="Where results go; smoke and paper into folders within")] = Path(
        "results"
    ),
    device: Device = "auto",
    retry_failed: RetryFailed = False,
    format_: Format = "png,svg",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 where a verdict stays open")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the experiments: each claim with its verdict, the papers' figures with their numbers beside ours.

    Running it again resumes; sweeps that experiments share run once. Exits 0 when everything ran and nothing came out
    against its expectation, and lists the verdicts that stay open (inconclusive); 1 when runs failed or diverged; 3
    when a verdict came out otherwise than expected or, in a checkout, a main claim that is supported in the committed
    results of the preset is not any more.

    Example: ntkrun reproduce jacot-1 --preset smoke
    """
    more = extra_formats(format_)
    with loading_torch(quiet):
        from ntkrun.commands.progress import progress_for
        from ntkrun.experiments import runner
    from ntkrun.experiments.framework import PRESETS
    from ntkrun.experiments.table import chosen

    wanted = chosen(names or [])
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose {', '.join(PRESETS)}")
    root = runner.root_of(results, preset)
    tell = _nothing if quiet else partial(say, error=True)
    with under_way("estimating what the sweeps will take", quiet):
        expected = runner.ahead(wanted, preset, root, device, retry_failed)
    tell("\n".join(runner.lines(expected)))
    if dry_run:
        if json:
            print_json({"preset": preset, "sweeps": [runner.as_json(*each) for each in expected]})
        return
    runner.check(expected)
    with interruptible(kept_in(root)):
        watch = partial(progress_for, device, quiet)
        left = runner.reproduce(wanted, preset, root, device, watch, tell, retry_failed, more)
    if left.open:
        tell("\n  ".join([f"{len(left.open)} of the verdicts stay open:", *left.open]))
    for line in left.lost:
        say(line, error=True)
    if json:
        print_json({"preset": preset, "experiments": left.documents, "open": left.open, "lost": left.lost})
    raise typer.Exit(left.code(strict))


def _nothing(line: object) -> None: ...
