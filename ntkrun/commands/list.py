"""`ntkrun list`."""

from typing import Annotated

import typer

from ntkrun.commands.arguments import WHAT, one_of
from ntkrun.commands.printing import say
from ntkrun.errors import UserError


def list_(
    what: Annotated[str, typer.Argument(metavar="|".join(WHAT), help="What to list", autocompletion=one_of(*WHAT))],
) -> None:
    """List what a config may name, one line each.

    Example: ntkrun list activations
    """
    rows = rows_of(what)
    width = max(len(name) for name, _ in rows)
    say("\n".join(f"{name:<{width}}  {statement}" for name, statement in rows))


def rows_of(what: str) -> list[tuple[str, str]]:
    """Return the name and the statement of each entry of a list. Its registry is imported on request. Raises UserError
    for an unknown list."""
    if what == "architectures":
        from ntkrun.config.architectures import ARCHITECTURES

        return [(name, network.statement) for name, network in ARCHITECTURES.items()]
    if what == "activations":
        from ntkrun.theory.activations import ACTIVATIONS

        return [(a.name, a.statement) for a in ACTIVATIONS.values()]
    if what == "data":
        from ntkrun.data import describe

        return describe()
    if what == "losses":
        from ntkrun.theory.losses import LOSSES

        return [(loss.name, loss.statement) for loss in LOSSES.values()]
    if what == "claims":
        from ntkrun.evidence.claims.table import CLAIMS

        return [(claim.name, claim.statement) for claim in CLAIMS.values()]
    if what == "experiments":
        from ntkrun.experiments.table import EXPERIMENTS

        return [(experiment.name, experiment.statement) for experiment in EXPERIMENTS.values()]
    raise UserError(f"list {what}: choose architectures, activations, data, losses, claims or experiments")
