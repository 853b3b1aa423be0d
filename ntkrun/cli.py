"""The door: thin commands. Each imports what it needs when it runs, so that help answers at once and plots need no
torch."""

import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ntkrun
from ntkrun.closing import closed, draw, json_text, judge, shard_closed
from ntkrun.commands.report import report
from ntkrun.errors import UserError
from ntkrun.listing import experiments, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ntkrun.lab.config import Sweep
    from ntkrun.lab.kernels import Arrays

    MakeArrays = Callable[[Sweep, str], tuple[Arrays, str]]

UNFINISHED = 1  # exit code when some runs failed or diverged

app = typer.Typer(
    name="ntkrun",
    help="Put the Neural Tangent Kernel theory to the test: train dense networks of every width and measure the kernel "
    "at every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

kernel_app = typer.Typer(no_args_is_help=True, help="Write kernel matrices of a config's network on its data.")
app.add_typer(kernel_app, name="kernel")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/width.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as network.depth=3 or sweep.seeds=5"),
]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A sweep's results, such as results/width")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:K")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="The file to write, replaced if it is there")]
Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="What a stack of networks may take; three quarters of what is free if not given",
        show_default=False,
    ),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before")]
Engine = Annotated[str, typer.Option(metavar="local|ray", help="Where to compute: in this process, or with Ray")]
Jobs = Annotated[
    int | None,
    typer.Option(metavar="N", help="So many at once; more than 1 needs --engine ray, where all cores are the default"),
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A running Ray cluster, or auto; none: this machine alone")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else")]


def main() -> None:
    """The `ntkrun` command. A user's mistake is a sentence on standard error and an exit code, never a traceback."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
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
        print(f"interrupted; finished runs are kept in {kept}. The same command goes on.", file=sys.stderr)
        raise


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ntkrun {ntkrun.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None: ...


@app.command()
def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    results: Annotated[Path, typer.Option(help="Where results go, in a folder of the sweep's name")] = Path("results"),
    device: Device = "auto",
    memory: Memory = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing")] = False,
    retry_failed: RetryFailed = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End at the first run that fails")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw no figures")] = False,
    engine: Engine = "local",
    jobs: Jobs = None,
    ray_address: RayAddress = None,
    shard: Annotated[str, typer.Option(metavar="I/K", help="Run the I-th of K shards, for job arrays")] = "1/1",
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors")] = False,
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
        _print_json(ahead.as_json()) if json else print("\n".join(plan_lines(ahead)))
        return
    where, profiled = resolve_device("auto" if ray_address else device), Profile() if profile else None
    console = Console(stderr=True, highlight=False)
    progress = Failures(console) if quiet else SweepProgress(console, where)
    if not quiet:
        for note in notes_on(plan(the_sweep)):
            console.print(f"note: {note}")
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
        _print_json(document)
    elif not quiet:
        _print_table(*shown)
        print(f"results in {store.root}")
    if not as_expected:
        raise typer.Exit(UNFINISHED)


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config: every error at once, each with its line."""
    from ntkrun.lab.config import load_config
    from ntkrun.lab.plan import plan

    checked = load_config(config, overrides or [])
    runs, points = len(plan(checked)), len(checked.points)
    print(f"{config}: fine; {runs} run{'s' * (runs > 1)} at {points} grid point{'s' * (points > 1)}")


@app.command()
def status(run_dir: RunDirectory, json: Json = False) -> None:
    """Planned, done, diverged, failed, missing runs; where the time went; what failed and why."""
    from ntkrun.evidence.tables import failure_lines, status_document, status_table
    from ntkrun.lab.store import Store

    store = Store(run_dir)
    document = status_document(store.plan(), store.read().runs, store.writers(), store.failed())
    _print_json(document) if json else _print_table(status_table(document), *failure_lines(document))


@app.command()
def claims(run_dir: RunDirectory, json: Json = False) -> None:
    """Judge the claims that the sweep's config names, from the stored tables alone.

    Exits 0 when each turned out as expected, 3 when one did not, 5 when one is inconclusive, 1 when runs failed.
    """
    from ntkrun.evidence.claims_table import claims_tables
    from ntkrun.evidence.verdicts import exit_code
    from ntkrun.lab.store import read_results

    results = read_results(run_dir)
    verdicts, document, expect = judge(results)
    if json:
        _print_json(document)
    elif verdicts:
        _print_table(*claims_tables(verdicts))
    else:
        print(f"{run_dir}: its config names no claims; add `claims: [frozen-kernel, ...]` and sweep again")
    raise typer.Exit(exit_code(verdicts, results, expect))


@app.command()
def plot(run_dir: RunDirectory) -> None:
    """Draw the figures again from the stored tables alone."""
    from ntkrun.lab.store import read_results

    paths = draw(read_results(run_dir))
    if not paths:
        print(f"{run_dir}: nothing to draw yet; no run is finished", file=sys.stderr)
    for path in paths:
        print(path)


app.command()(report)


@app.command()
def check(
    run_dir: RunDirectory,
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="The baseline, such as results/baseline/smoke.json")],
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline from the results, and judge nothing")
    ] = False,
    json: Json = False,
) -> None:
    """Have the numbers moved since the baseline was written? Exit code 0 no, 3 yes, 5 too few seeds to tell.

    Example: ntkrun check results/smoke/width --baseline results/baseline/smoke.json
    """
    from ntkrun import checking
    from ntkrun.evidence.check_tables import check_document, check_lines, check_table

    if update:
        runs, changed = checking.update(run_dir, baseline)
        if json:
            _print_json({"baseline": str(baseline), "runs": runs, "changes": changed})
        else:
            print("\n".join([f"{baseline}: {runs} runs", *(f"  {line}" for line in changed or ["nothing changed"])]))
        return
    judged, known, figure = checking.check(run_dir, baseline)
    if json:
        _print_json(check_document(judged, known))
    else:
        _print_table(check_table(judged))
        print("\n".join([*check_lines(judged, known), f"figure in {figure}"]))
    raise typer.Exit(judged.code)


@kernel_app.command("limit")
def kernel_limit(config: ConfigFile, out: Out, overrides: Overrides = None, device: Device = "auto") -> None:
    """The kernels of infinite width on the training inputs: ntk and nngp, (N, N) float64, and the inputs x.

    Example: ntkrun kernel limit configs/width.yaml network.activation=tanh --out limit.npz
    """
    from ntkrun.lab.kernels import limit_arrays

    _write_kernel(config, overrides, out, device, limit_arrays)


@kernel_app.command("empirical")
def kernel_empirical(config: ConfigFile, out: Out, overrides: Overrides = None, device: Device = "auto") -> None:
    """The kernels of the initial networks on the training inputs: ntk, (seeds, N, N, O, O), and the inputs x.

    Example: ntkrun kernel empirical configs/width.yaml 'sweep={grid: {network.width: [256]}, seeds: 3}' --out k.npz
    """
    from ntkrun.lab.kernels import empirical_arrays

    _write_kernel(config, overrides, out, device, empirical_arrays)


def _write_kernel(config: Path, overrides: list[str] | None, out: Path, device: str, make: "MakeArrays") -> None:
    from ntkrun.lab.config import load_config
    from ntkrun.lab.files import write_arrays

    if out.suffix != ".npz":
        raise UserError(f"--out {out}: the file must end in .npz")
    arrays, how = make(load_config(config, overrides or []), device)
    write_arrays(out, arrays)
    print(f"{out}: " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) + f"; {how}")


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="`ntkrun list experiments`; none: all of them")
    ] = None,
    preset: Annotated[str, typer.Option(metavar="smoke|laptop|paper", help="How large, and how long")] = "laptop",
    results: Annotated[Path, typer.Option(help="Where results go; smoke and paper into folders within")] = Path(
        "results"
    ),
    device: Device = "auto",
    retry_failed: RetryFailed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing")] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors")] = False,
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
            _print_json({"preset": preset, "sweeps": [runner.as_json(*each) for each in expected]})
        return
    runner.check(expected)
    from ntkrun.terminal import SweepProgress

    with _interruptible(root):
        documents, code = runner.reproduce(
            chosen, preset, root, device, lambda: SweepProgress(console, where), say, retry_failed
        )
    if json:
        _print_json({"preset": preset, "experiments": documents})
    raise typer.Exit(code)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="activations|data|losses|claims|experiments", help="What to list")],
) -> None:
    """What a config may name, a line each."""
    rows = rows_of(what)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {statement}" for name, statement in rows))


@app.command()
def schema() -> None:
    """The config's JSON Schema, for editors."""
    from ntkrun.lab.sections import Config

    _print_json(Config.model_json_schema())


def _print_table(*tables: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in tables:
        console.print(table, markup=False)  # a config's text is no markup


def _print_json(document: Any) -> None:
    """Strict JSON: what is not a number is null."""
    print(json_text(document))
