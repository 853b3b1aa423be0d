"""What several commands take and print: arguments with their completions, JSON and tables."""

from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from ntkrun.closing import json_text

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
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors")]


def print_table(*tables: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in tables:
        console.print(table, markup=False)  # a config's text is no markup


def print_json(document: Any) -> None:
    """Strict JSON: what is not a number is null."""
    print(json_text(document))
