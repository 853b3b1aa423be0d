"""`ntkrun sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkrun.commands.arguments import (
    ConfigFile,
    Device,
    DryRun,
    Engine,
    Jobs,
    Json,
    Overrides,
    Quiet,
    RayAddress,
    RetryFailed,
    ShardNumber,
)
from ntkrun.commands.printing import interruptible, kept_in, loading_torch, print_json, print_table, say, under_way
from ntkrun.evidence.report.conclusion import NONE_DIVERGED, draw_figures, shard_conclusion, sweep_conclusion

if TYPE_CHECKING:
    from ntkrun.config.reader import Sweep
    from ntkrun.plan.stacks import Shard
    from ntkrun.run.progress import ProgressListener
    from ntkrun.run.sweep import RunOptions

Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="Memory limit of a stack of networks, in GiB; default: three quarters of the free memory",
        show_default=False,
    ),
]


def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    results: Annotated[
        Path, typer.Option(help="Folder for the results; the sweep writes into a subfolder of its name")
    ] = Path("results"),
    device: Device = "auto",
    memory: Memory = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print how much time each phase took")] = False,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw no figures")] = False,
    engine: Engine = "local",
    jobs: Jobs = None,
    ray_address: RayAddress = None,
    shard: ShardNumber = "1/1",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the missing runs of a sweep, store them, draw the figures and print the results.

    Running it again resumes: finished runs are never run twice, and Ctrl-C keeps them. A run that fails is recorded
    with its reason, and the others continue. Exit codes: 1 runs failed, or diverged unexpectedly; 3 the config expects
    runs to diverge and none did.

    Example: ntkrun sweep configs/width.yaml network.activation=erf name=width-erf
    """
    from ntkrun.config.reader import load_config

    the_sweep = load_config(config, overrides or [])
    with loading_torch(quiet):
        from ntkrun.commands.progress_bar import progress_for
        from ntkrun.plan.stacks import parse_shard
        from ntkrun.run.engines import EngineSelection
        from ntkrun.run.progress import Profile
        from ntkrun.run.sweep import RunOptions

    part, selection = parse_shard(shard), EngineSelection(engine, jobs, ray_address)
    options = RunOptions(device, memory, Profile() if profile else None, retry_failed, fail_fast, selection)
    if dry_run:
        _print_dry_run(the_sweep, part, results, options, json, quiet)
        return
    watch = progress_for(quiet)
    _print_notes(the_sweep, quiet)
    with interruptible(kept_in(results / the_sweep.name)):
        document, tables, code = _run(the_sweep, part, results, options, watch, not no_plots, quiet)
    _print_conclusion(results / the_sweep.name, document, tables, code, json, quiet)
    raise typer.Exit(code)


def _print_conclusion(
    run_dir: Path, document: dict[str, Any], tables: list[Any], code: int, json: bool, quiet: bool
) -> None:
    from ntkrun.evidence.records import REFUTATION

    if json:
        print_json(document)
    elif not quiet:
        print_table(*tables)
        say(f"results in {run_dir}")
    if code == REFUTATION:
        say(f"{run_dir}: {NONE_DIVERGED}", error=True)


def _print_dry_run(
    the_sweep: "Sweep", part: "Shard", results: Path, options: "RunOptions", json: bool, quiet: bool
) -> None:
    from ntkrun.commands.progress_bar import plan_lines
    from ntkrun.run.forecast import dry_run_of

    with under_way("timing a few steps of each grid point", quiet):
        dry_run = dry_run_of(
            the_sweep, results, options.device, options.memory, options.retry_failed, part, options.engine
        )
    if json:
        print_json(dry_run.as_json())
    elif not quiet:
        say("\n".join(plan_lines(dry_run)))


def _print_notes(the_sweep: "Sweep", quiet: bool) -> None:
    """Print the notes on the sweep's data before it starts."""
    from ntkrun.plan.problem import notes_on
    from ntkrun.plan.runs import plan

    if quiet:
        return
    with under_way("computing the infinite-width kernels"):
        notes = notes_on(plan(the_sweep))
    for note in notes:
        say(f"note: {note}", error=True)


def _run(
    the_sweep: "Sweep",
    part: "Shard",
    results: Path,
    options: "RunOptions",
    watch: "ProgressListener",
    plots: bool,
    quiet: bool,
) -> tuple[dict[str, Any], list[Any], int]:
    """Run the sweep, or this part of it, draw and judge it. Return its document, its tables and an exit code by how its
    runs ended."""
    from ntkrun.plan.stacks import WHOLE_SWEEP
    from ntkrun.run.sweep import run_shard
    from ntkrun.store.results_directory import Store

    try:
        remaining = run_shard(part, the_sweep, results, options, watch)
    finally:
        watch.close()
    store = Store(results / the_sweep.name)
    if remaining and part != WHOLE_SWEEP:
        return shard_conclusion(store, the_sweep, part, remaining, options.profile)
    stored = store.read()
    if plots and not stored.figures_are_current():
        with under_way("drawing figures", quiet):
            draw_figures(stored)
    return sweep_conclusion(stored, options.profile)
