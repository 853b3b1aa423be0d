"""`ntkrun reproduce`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from ntkrun.evidence.report.conclusion import extra_formats

if TYPE_CHECKING:
    from ntkrun.experiments.runner import Reproduced, Say

Experiments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Experiments to run, see `ntkrun list experiments`; default: all of them"),
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="smoke|laptop|paper",
        help="Size of the experiments: smoke is the smallest, paper the largest",
        autocompletion=one_of("smoke", "laptop", "paper"),
    ),
]


def reproduce(
    names: Experiments = None,
    preset: Preset = "laptop",
    results: Annotated[
        Path, typer.Option(help="Folder for the results; smoke and paper write into a subfolder of it")
    ] = Path("results"),
    device: Device = "auto",
    retry_failed: RetryFailed = False,
    format_: Format = "png,svg",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 if a verdict is inconclusive")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the experiments: judge their claims and draw the papers' figures, with measured values beside the papers'.

    Running it again resumes. Sweeps that experiments share run once. Inconclusive verdicts are listed at the end.

    Exit codes: 0 everything ran and no verdict contradicts its expectation; 1 runs failed or diverged; 3 a verdict is
    not as expected or, in a checkout, a main claim that is supported in the committed results of the preset no longer
    is; 5 with --strict, a verdict is inconclusive.

    Example: ntkrun reproduce jacot-1 --preset smoke
    """
    more = extra_formats(format_)
    with loading_torch(quiet):
        from ntkrun.commands.progress_bar import progress_for
        from ntkrun.experiments import runner
    from ntkrun.experiments.framework import PRESETS
    from ntkrun.experiments.table import chosen

    experiments = chosen(names or [])
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose {', '.join(PRESETS)}")
    root = runner.root_of(results, preset)
    report = _nothing if quiet else partial(say, error=True)
    with under_way("timing a few steps of each sweep", quiet):
        forecasts = runner.ahead(experiments, preset, root, device, retry_failed)
    report("\n".join(runner.lines(forecasts)))
    if dry_run:
        if json:
            print_json({"preset": preset, "sweeps": [runner.as_json(*forecast) for forecast in forecasts]})
        return
    runner.check(forecasts)
    with interruptible(kept_in(root)):
        watch = partial(progress_for, quiet)
        outcome = runner.reproduce(experiments, preset, root, device, watch, report, retry_failed, more)
    _print_outcome(outcome, preset, report, json)
    raise typer.Exit(outcome.code(strict))


def _print_outcome(outcome: "Reproduced", preset: str, report: "Say", json: bool) -> None:
    if outcome.open:
        report("\n  ".join([f"inconclusive verdicts: {len(outcome.open)}", *outcome.open]))
    for line in outcome.lost:
        say(line, error=True)
    if json:
        experiments = [result.model_dump() for result in outcome.experiments]
        print_json({"preset": preset, "experiments": experiments, "open": outcome.open, "lost": outcome.lost})


def _nothing(line: object) -> None: ...
