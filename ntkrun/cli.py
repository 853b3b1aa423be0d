"""The door: thin commands. Each imports what it needs when it runs, so that help answers at once and plots need no
torch."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

import ntkrun
from ntkrun.commands import cluster, configs, kernels, running, tables
from ntkrun.commands.doctor import doctor
from ntkrun.commands.report import report
from ntkrun.errors import UserError
from ntkrun.saying import say

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="ntkrun",
    help="Put the Neural Tangent Kernel theory to the test: train dense networks of every width and measure the kernel "
    "at every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The `ntkrun` command. A user's mistake is a sentence on standard error and an exit code, never a traceback."""
    try:
        app(prog_name="ntkrun")
    except UserError as error:
        say(error, error=True)
        sys.exit(error.code)


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


_COMMANDS: "tuple[Callable[..., None], ...]" = (
    *(running.sweep, configs.new, configs.validate, running.reproduce),
    *(tables.status, tables.claims, tables.plot, tables.check, report, tables.export),
    *(cluster.slurm, doctor, configs.schema),
)
for _command in _COMMANDS:
    app.command()(_command)
app.command("list")(configs.list_)
app.add_typer(kernels.kernel_app, name="kernel")
