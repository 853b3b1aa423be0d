"""Commands about configs: start one, check it, and say what it may name."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import WHAT, ConfigFile, Overrides, one_of, print_json
from ntkrun.errors import UserError


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep; the file is NAME.yaml")],
) -> None:
    """Write a commented config to start from: every key with its default and what it means.

    Example: ntkrun new my-sweep
    """
    from ntkrun.lab.files import write_text
    from ntkrun.lab.template import commented

    path = Path(f"{name}.yaml")
    text = commented(name)
    if path.exists():
        raise UserError(f"{path}: is there already; choose another name")
    write_text(path, text)
    print(f"{path} written; try it: ntkrun sweep {path} --dry-run")


def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config: every error at once, each with its line.

    Example: ntkrun validate configs/width.yaml network.depth=3
    """
    from ntkrun.lab.config import load_config
    from ntkrun.lab.plan import plan

    checked = load_config(config, overrides or [])
    runs, points = len(plan(checked)), len(checked.points)
    print(f"{config}: fine; {runs} run{'s' * (runs > 1)} at {points} grid point{'s' * (points > 1)}")


def list_(
    what: Annotated[str, typer.Argument(metavar="|".join(WHAT), help="What to list", autocompletion=one_of(*WHAT))],
) -> None:
    """What a config may name, a line each.

    Example: ntkrun list activations
    """
    from ntkrun.listing import rows_of

    rows = rows_of(what)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {statement}" for name, statement in rows))


def schema() -> None:
    """The config's JSON Schema, for editors.

    Example: ntkrun schema > ntkrun.schema.json
    """
    from ntkrun.lab.sections import Config

    print_json(Config.model_json_schema())
