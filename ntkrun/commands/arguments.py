"""Arguments and options that several commands share, with their completions."""

from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT = ("architectures", "activations", "data", "losses", "claims", "experiments")


def yaml_files(incomplete: str) -> list[str]:
    """Return the YAML files whose paths begin with `incomplete`, up to two folders deep, for completion in the shell.
    Folders are not offered on their own: a shell would put a space after them."""
    split = incomplete.rfind("/") + 1
    folder, start = Path(incomplete[:split] or "."), escape(incomplete[split:])
    paths = (path for depth in ("", "/*", "/*/*") for path in folder.glob(f"{start}*{depth}.yaml"))
    return sorted(incomplete[:split] + path.relative_to(folder).as_posix() for path in paths)


def one_of(*words: str) -> Any:
    """Return the completion function of an argument that takes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="The config, a YAML file such as configs/width.yaml", autocompletion=yaml_files
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Config values to override, such as network.depth=3 or sweep.seeds=5"
    ),
]
RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="The results directory of a sweep, such as results/width")
]
Device = Annotated[
    str,
    typer.Option(
        help="Device to compute on: auto, cpu, cuda or cuda:K", autocompletion=one_of("auto", "cpu", "cuda", "cuda:0")
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="png,svg,pdf",
        help="Formats of the figures; PNG and SVG are always drawn, PDF only if listed",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would run and how long it would take, and run nothing; times a few steps, ten seconds at most",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors")]

Engine = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        help="Where to compute: local, in this process; or ray, on several cores, GPUs or machines",
        autocompletion=one_of("local", "ray"),
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of stacks to train at once. More than 1 needs --engine ray; its default is all cores or GPUs",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to run on; auto: the cluster that this machine belongs to. Default: this machine alone",
        show_default=False,
    ),
]
ShardNumber = Annotated[
    str,
    typer.Option("--shard", metavar="I/K", help="Run part I of K parts of about equal duration; for job arrays"),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again")]
