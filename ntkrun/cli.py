"""The command line: it registers the commands. Each command imports its dependencies when it runs, so that help answers
at once and plots do not need torch."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ntkrun
from ntkrun.commands import list as list_command
from ntkrun.commands.check import check
from ntkrun.commands.claims import claims
from ntkrun.commands.doctor import doctor
from ntkrun.commands.export import export
from ntkrun.commands.kernel import kernel_app
from ntkrun.commands.new import new
from ntkrun.commands.plot import plot
from ntkrun.commands.printing import say
from ntkrun.commands.report import report
from ntkrun.commands.reproduce import reproduce
from ntkrun.commands.schema import schema
from ntkrun.commands.slurm import slurm
from ntkrun.commands.status import status
from ntkrun.commands.sweep import sweep
from ntkrun.commands.validate import validate
from ntkrun.errors import UserError
from ntkrun.text import spell_out_streams

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="ntkrun",
    help="Test the Neural Tangent Kernel theory: train dense networks of many widths and measure their kernel at every "
    "step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the `ntkrun` command. A user's mistake gives a sentence on standard error and an exit code, never a
    traceback."""
    spell_out_streams()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns at length where HOME is not writable
    try:
        _check_current_directory()
        app(prog_name="ntkrun")
    except UserError as error:
        say(error, error=True)
        sys.exit(error.code)
    except OSError as error:
        if "--install-completion" not in sys.argv:
            raise
        say(f"completion cannot be installed ({error}); --show-completion prints the script", error=True)
        sys.exit(UserError.code)


def _check_current_directory() -> None:
    """Check that the current directory exists: torch does not load without one. Raises UserError where it was
    removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the current directory no longer exists; change to one that does") from None


def _version(is_set: bool) -> None:
    if is_set:
        say(f"ntkrun {ntkrun.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None: ...


_COMMANDS: "tuple[Callable[..., None], ...]" = (
    *(sweep, new, validate, reproduce),
    *(status, claims, plot, check, report, export),
    *(slurm, doctor, schema),
)
for _command in _COMMANDS:
    app.command()(_command)
app.command("list")(list_command.list_)
app.add_typer(kernel_app, name="kernel")
