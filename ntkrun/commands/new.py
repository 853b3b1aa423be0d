"""`ntkrun new`."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.printing import say
from ntkrun.errors import UserError


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep; the config is written to NAME.yaml")],
) -> None:
    """Write a commented config to start from: every key with its default and its meaning.

    Example: ntkrun new my-sweep
    """
    from ntkrun.config.template import commented
    from ntkrun.files.writing import write_text

    path = Path(f"{name}.yaml")
    text = commented(name)
    if path.exists():
        raise UserError(f"{path}: already exists; choose another name")
    write_text(path, text)
    say(f"{path} written; next: ntkrun sweep {path} --dry-run")
