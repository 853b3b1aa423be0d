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
from ntkrun.report.conclusion import NONE_DIVERGED, draw_figures, shard_conclusion, sweep_conclusion

if TYPE_CHECKING:
    from ntkrun.config.reader import Sweep
    from ntkrun.plan.stacks import Shard
    from ntkrun.run.progress import ProgressListener
    from ntkrun.run.sweep import RunOptions

Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="What a stack of networks may take; three quarters of what is free if not given",
        show_default=False,
    ),
]


def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    results: Annotated[Path, typer.Option(help="Where results go, in a folder of the sweep's name")] = Path("results"),
    device: Device = "auto",
    memory: Memory = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went")] = False,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first run that fails")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw no figures")] = False,
    engine: Engine = "local",
    jobs: Jobs = None,
    ray_address: RayAddress = None,
    shard: ShardNumber = "1/1",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run what is missing of a sweep, store it, draw it, and print what came out.

    Running it again resumes: finished runs are never run twice. Ctrl-C keeps what is finished. A run that fails is
    recorded with why, and the others go on; exit code 1, or 3 where runs were to diverge and none did.

    Example: ntkrun sweep configs/width.yaml network.activation=erf name=width-erf
    """
    from ntkrun.config.reader import load_config

    the_sweep = load_config(config, overrides or [])
    with loading_torch(quiet):
        from ntkrun.commands.progress import progress_for
        from ntkrun.evidence.claims.verdicts import REFUTATION
        from ntkrun.plan.stacks import parse_shard
        from ntkrun.run.engines import EngineSelection
        from ntkrun.run.progress import Profile
        from ntkrun.run.sweep import RunOptions

    part, selection = parse_shard(shard), EngineSelection(engine, jobs, ray_address)
    how = RunOptions(device, memory, Profile() if profile else None, retry_failed, fail_fast, selection)
    if dry_run:
        _say_what_would_run(the_sweep, part, results, how, json, quiet)
        return
    watch = progress_for("auto" if ray_address else device, quiet)
    _say_notes(the_sweep, quiet)
    with interruptible(kept_in(results / the_sweep.name)):
        document, tables, code = _swept(the_sweep, part, results, how, watch, not no_plots, quiet)
    if json:
        print_json(document)
    elif not quiet:
        print_table(*tables)
        say(f"results in {results / the_sweep.name}")
    if code == REFUTATION:
        say(f"{results / the_sweep.name}: {NONE_DIVERGED}", error=True)
    raise typer.Exit(code)


def _say_what_would_run(
    the_sweep: "Sweep", part: "Shard", results: Path, how: "RunOptions", json: bool, quiet: bool
) -> None:
    from ntkrun.commands.progress import plan_lines
    from ntkrun.run.forecast import dry_run_of

    with under_way("estimating what the sweep will take", quiet):
        ahead = dry_run_of(the_sweep, results, how.device, how.memory, how.retry_failed, part, how.engine)
    if json:
        print_json(ahead.as_json())
    elif not quiet:
        say("\n".join(plan_lines(ahead)))


def _say_notes(the_sweep: "Sweep", quiet: bool) -> None:
    """What the data have to say comes first."""
    from ntkrun.plan.problem import notes_on
    from ntkrun.plan.runs import plan

    if quiet:
        return
    with under_way("computing the kernels of infinite width"):
        notes = notes_on(plan(the_sweep))
    for note in notes:
        say(f"note: {note}", error=True)


def _swept(
    the_sweep: "Sweep",
    part: "Shard",
    results: Path,
    how: "RunOptions",
    watch: "ProgressListener",
    draws: bool,
    quiet: bool,
) -> tuple[dict[str, Any], list[Any], int]:
    """The sweep, or the part of it, run, drawn and judged: what there is to say of it, for machines and for people, and
    an exit code by how its runs ended."""
    from ntkrun.plan.stacks import WHOLE_SWEEP
    from ntkrun.run.sweep import run_shard
    from ntkrun.store.directory import Store

    try:
        remaining = run_shard(part, the_sweep, results, how, watch)
    finally:
        watch.close()
    store = Store(results / the_sweep.name)
    if remaining and part != WHOLE_SWEEP:
        return shard_conclusion(store, the_sweep, part, remaining, how.profile)
    found = store.read()
    if draws and not found.figures_are_current():
        with under_way("drawing figures", quiet):
            draw_figures(found)
    return sweep_conclusion(found, how.profile)
