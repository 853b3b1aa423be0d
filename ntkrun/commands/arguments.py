"""What several commands take: arguments and options, with their completions."""

from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT = ("activations", "data", "losses", "claims", "experiments")


def yaml_files(incomplete: str) -> list[str]:
    """YAML files that begin so, down to two folders below, for the shell. Whole paths: a shell would put a space after
    a folder."""
    at = incomplete.rfind("/") + 1
    folder, start = Path(incomplete[:at] or "."), escape(incomplete[at:])
    found = (path for below in ("", "/*", "/*/*") for path in folder.glob(f"{start}*{below}.yaml"))
    return sorted(incomplete[:at] + path.relative_to(folder).as_posix() for path in found)


def one_of(*words: str) -> Any:
    """The completion of an argument that is one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


ConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/width.yaml", autocompletion=yaml_files),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as network.depth=3 or sweep.seeds=5"),
]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A sweep's results, such as results/width")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:K", autocompletion=one_of("auto", "cpu", "cuda", "cuda:0"))
]
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="png,svg,pdf", help="PNG and SVG always, and PDF where it is among them", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors")]

Engine = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        help="Where to compute: in this process, or with Ray, on several cores, GPUs or machines",
        autocompletion=one_of("local", "ray"),
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="So many stacks at once; more than 1 needs --engine ray, which takes all cores or GPUs if not told",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The Ray cluster to run on, or auto for the one that this machine is part of; this machine if not given",
        show_default=False,
    ),
]
ShardNumber = Annotated[
    str,
    typer.Option("--shard", metavar="I/K", help="Run the I-th of K parts that take about as long; for job arrays"),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before")]
