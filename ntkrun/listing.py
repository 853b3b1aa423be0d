"""What a config or a command may name: the rows of `ntkrun list`."""

from ntkrun.errors import UserError


def rows_of(what: str) -> list[tuple[str, str]]:
    """Name and statement of each. Each registry is imported when it is asked for. Raises UserError for what is none."""
    if what == "activations":
        from ntkrun.theory.activations import ACTIVATIONS

        return [(a.name, a.statement) for a in ACTIVATIONS.values()]
    if what == "data":
        from ntkrun.engine.data import describe

        return describe()
    if what == "losses":
        from ntkrun.theory.losses import LOSSES

        return [(loss.name, loss.statement) for loss in LOSSES.values()]
    if what == "claims":
        from ntkrun.evidence.claims import CLAIMS

        return [(claim.name, claim.statement) for claim in CLAIMS.values()]
    if what == "experiments":
        from ntkrun.experiments.table import EXPERIMENTS

        return [(each.name, each.statement) for each in EXPERIMENTS.values()]
    raise UserError(f"list {what}: choose activations, data, losses, claims or experiments")
