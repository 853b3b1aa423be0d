"""The commands that train networks: `ntkrun sweep` and `ntkrun reproduce`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkrun.closing import NONE_DIVERGED, closed, draw, formats, shard_closed
from ntkrun.commands.arguments import ConfigFile, Device, DryRun, Format, Json, Overrides, Quiet, one_of
from ntkrun.commands.cluster import Engine, Jobs, RayAddress, ShardNumber
from ntkrun.commands.interrupts import interruptible
from ntkrun.errors import UserError
from ntkrun.saying import loading_torch, print_json, print_table, say, under_way

if TYPE_CHECKING:
    from ntkrun.lab.config import Sweep
    from ntkrun.lab.execute import How
    from ntkrun.lab.shards import Shard
    from ntkrun.lab.watch import Watch

Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="What a stack of networks may take; three quarters of what is free if not given",
        show_default=False,
    ),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before")]
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
    from ntkrun.lab.config import load_config

    the_sweep = load_config(config, overrides or [])
    with loading_torch(quiet):
        from ntkrun.evidence.verdicts import REFUTATION
        from ntkrun.lab.engines.opening import Asked
        from ntkrun.lab.execute import How
        from ntkrun.lab.profile import Profile
        from ntkrun.lab.shards import shard_named

    part, asked = shard_named(shard), Asked(engine, jobs, ray_address)
    how = How(device, memory, Profile() if profile else None, retry_failed, fail_fast, asked)
    if dry_run:
        _say_what_would_run(the_sweep, part, results, how, json, quiet)
        return
    watch = _watch("auto" if ray_address else device, quiet)
    _say_notes(the_sweep, quiet)
    with interruptible(_kept(results / the_sweep.name)):
        document, tables, code = _swept(the_sweep, part, results, how, watch, not no_plots, quiet)
    if json:
        print_json(document)
    elif not quiet:
        print_table(*tables)
        say(f"results in {results / the_sweep.name}")
    if code == REFUTATION:
        say(f"{results / the_sweep.name}: {NONE_DIVERGED}", error=True)
    raise typer.Exit(code)


def _say_what_would_run(the_sweep: "Sweep", part: "Shard", results: Path, how: "How", json: bool, quiet: bool) -> None:
    from ntkrun.lab.execute import outlook
    from ntkrun.terminal import plan_lines

    with under_way("estimating what the sweep will take", quiet):
        ahead = outlook(the_sweep, results, how.device, how.memory, how.retry_failed, part, how.asked)
    if json:
        print_json(ahead.as_json())
    elif not quiet:
        say("\n".join(plan_lines(ahead)))


def _watch(device: str, quiet: bool) -> "Watch":
    """Who tells of a sweep as it goes: of failures alone, or of all."""
    from ntkrun.console import PlainConsole
    from ntkrun.lab.devices import resolve_device
    from ntkrun.terminal import Failures, SweepProgress

    where, console = resolve_device(device), PlainConsole(stderr=True)
    return Failures(console) if quiet else SweepProgress(console, where)


def _say_notes(the_sweep: "Sweep", quiet: bool) -> None:
    """What the data have to say comes first."""
    from ntkrun.lab.plan import plan
    from ntkrun.lab.tasks import notes_on

    if quiet:
        return
    with under_way("computing the kernels of infinite width"):
        notes = notes_on(plan(the_sweep))
    for note in notes:
        say(f"note: {note}", error=True)


def _swept(
    the_sweep: "Sweep", part: "Shard", results: Path, how: "How", watch: "Watch", draws: bool, quiet: bool
) -> tuple[dict[str, Any], list[Any], int]:
    """The sweep, or the part of it, run, drawn and judged: what there is to say of it, for machines and for people, and
    an exit code by how its runs ended."""
    from ntkrun.lab.execute import run_shard
    from ntkrun.lab.shards import WHOLE_SWEEP
    from ntkrun.lab.store import Store

    try:
        to_come = run_shard(part, the_sweep, results, how, watch)
    finally:
        watch.close()
    store = Store(results / the_sweep.name)
    if to_come and part != WHOLE_SWEEP:
        return shard_closed(store, the_sweep, part, to_come, how.profile)
    found = store.read()
    if draws and not found.figures_are_current():
        with under_way("drawing figures", quiet):
            draw(found)
    return closed(found, how.profile)


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
    more = formats(format_)
    with loading_torch(quiet):
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
    with interruptible(_kept(root)):
        watch = partial(_watch, device, quiet)
        left = runner.reproduce(wanted, preset, root, device, watch, tell, retry_failed, more)
    if left.open:
        tell("\n  ".join([f"{len(left.open)} of the verdicts stay open:", *left.open]))
    for line in left.lost:
        say(line, error=True)
    if json:
        print_json({"preset": preset, "experiments": left.documents, "open": left.open, "lost": left.lost})
    raise typer.Exit(left.code(strict))


def _nothing(line: object) -> None: ...


def _kept(where: Path) -> str:
    return f"finished runs are kept in {where}. The same command goes on."
