"""The door: thin commands. Each imports what it needs when it runs, so that help answers at once and plots need no
torch."""

import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ntkrun
from ntkrun.closing import closed, draw, shard_closed
from ntkrun.commands import cluster, configs, kernels, tables
from ntkrun.commands.arguments import ConfigFile, Device, DryRun, Json, Overrides, Quiet, one_of
from ntkrun.commands.cluster import Engine, Jobs, RayAddress, ShardNumber
from ntkrun.commands.doctor import doctor
from ntkrun.commands.report import report
from ntkrun.errors import UserError
from ntkrun.listing import experiments
from ntkrun.saying import print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNFINISHED = 1  # exit code when some runs failed or diverged

app = typer.Typer(
    name="ntkrun",
    help="Put the Neural Tangent Kernel theory to the test: train dense networks of every width and measure the kernel "
    "at every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="What a stack of networks may take; three quarters of what is free if not given",
        show_default=False,
    ),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before")]


def main() -> None:
    """The `ntkrun` command. A user's mistake is a sentence on standard error and an exit code, never a traceback."""
    try:
        app()
    except UserError as error:
        say(error, error=True)
        sys.exit(error.code)


@contextmanager
def _interruptible(kept: Path) -> "Iterator[None]":
    """Ctrl-C and SIGTERM end what runs within, with a sentence that says where the finished runs are."""

    def stop(*_: object) -> None:
        # Not by way of SIGINT, which a shell's background jobs ignore.
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; finished runs are kept in {kept}. The same command goes on.", error=True)
        raise


def _version(wanted: bool) -> None:
    if wanted:
        say(f"ntkrun {ntkrun.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None: ...


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
    recorded with why, and the others go on; exit code 1.

    Example: ntkrun sweep configs/width.yaml network.activation=erf name=width-erf
    """
    from rich.console import Console

    from ntkrun.lab.config import load_config
    from ntkrun.lab.devices import resolve_device
    from ntkrun.lab.engines.opening import Asked
    from ntkrun.lab.execute import outlook, run_shard
    from ntkrun.lab.plan import plan
    from ntkrun.lab.profile import Profile
    from ntkrun.lab.shards import WHOLE_SWEEP, shard_named
    from ntkrun.lab.store import Store
    from ntkrun.lab.tasks import notes_on
    from ntkrun.terminal import Failures, SweepProgress, plan_lines

    the_sweep, part, on = load_config(config, overrides or []), shard_named(shard), Asked(engine, jobs, ray_address)
    if dry_run:
        ahead = outlook(the_sweep, results, device, memory, retry_failed, part)
        print_json(ahead.as_json()) if json else say("\n".join(plan_lines(ahead)))
        return
    where, profiled = resolve_device("auto" if ray_address else device), Profile() if profile else None
    console = Console(stderr=True, highlight=False)
    progress = Failures(console) if quiet else SweepProgress(console, where)
    if not quiet:
        for note in notes_on(plan(the_sweep)):
            say(f"note: {note}", error=True)
    with _interruptible(results / the_sweep.name):
        try:
            how = (progress, memory, profiled, retry_failed, fail_fast, on)
            to_come = run_shard(part, the_sweep, results, device, *how)
        finally:
            progress.close()
        store = Store(results / the_sweep.name)
        if to_come and part != WHOLE_SWEEP:
            document, shown, as_expected = shard_closed(store, the_sweep, part, to_come)
        else:
            found = store.read()
            if not no_plots and not found.figures_are_current():
                draw(found)
            document, shown, as_expected = closed(found, profiled)
    if json:
        print_json(document)
    elif not quiet:
        print_table(*shown)
        say(f"results in {store.root}")
    if not as_expected:
        raise typer.Exit(UNFINISHED)


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="`ntkrun list experiments`; none: all of them")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            metavar="smoke|laptop|paper",
            help="How large, and how long",
            autocompletion=one_of("smoke", "laptop", "paper"),
        ),
    ] = "laptop",
    results: Annotated[Path, typer.Option(help="Where results go; smoke and paper into folders within")] = Path(
        "results"
    ),
    device: Device = "auto",
    retry_failed: RetryFailed = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the experiments: each claim with its verdict, the papers' figures with their numbers beside ours.

    Running it again resumes; sweeps that experiments share run once. Exits by the verdicts, as claims does; in the
    smoke preset, which is too small to settle every claim, inconclusive is reported and exits 0.

    Example: ntkrun reproduce jacot-1 --preset smoke
    """
    from rich.console import Console

    from ntkrun.lab.devices import resolve_device

    chosen, presets = experiments("table").chosen(names or []), experiments("framework").PRESETS
    if preset not in presets:
        raise UserError(f"--preset {preset}: choose {', '.join(presets)}")
    runner = experiments("runner")
    root = runner.root_of(results, preset)
    console = Console(stderr=True, highlight=False, quiet=quiet)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    where = resolve_device(device)
    expected = runner.ahead(chosen, preset, root, device, retry_failed)
    for line in runner.lines(expected):
        say(line)
    if dry_run:
        if json:
            print_json({"preset": preset, "sweeps": [runner.as_json(*each) for each in expected]})
        return
    runner.check(expected)
    from ntkrun.terminal import SweepProgress

    with _interruptible(root):
        documents, code = runner.reproduce(
            chosen, preset, root, device, lambda: SweepProgress(console, where), say, retry_failed
        )
    if json:
        print_json({"preset": preset, "experiments": documents})
    raise typer.Exit(code)


_COMMANDS: "tuple[Callable[..., None], ...]" = (
    *(sweep, configs.new, configs.validate, reproduce),
    *(tables.status, tables.claims, tables.plot, tables.check, report, tables.export),
    *(cluster.slurm, doctor, configs.schema),
)
for _command in _COMMANDS:
    app.command()(_command)
app.command("list")(configs.list_)
app.add_typer(kernels.kernel_app, name="kernel")
