"""What a config or a command may name: the rows of `ntkrun list`, and the way to experiments/."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import ntkrun
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
        return [(each.name, each.statement) for each in experiments("table").EXPERIMENTS.values()]
    raise UserError(f"list {what}: choose activations, data, losses, claims or experiments")


def experiments(module: str) -> Any:
    """A module of experiments/, which imports ntkrun and which nothing else of ntkrun imports."""
    home = Path(ntkrun.__file__).parents[1]
    if (home / "experiments" / "table.py").exists() and str(home) not in sys.path:
        sys.path.append(str(home))  # a checkout whose installation is older than its experiments
    try:
        return import_module(f"experiments.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("experiments", f"experiments.{module}"):
            raise
        raise UserError(
            "the experiments are not installed here: run this in a checkout of ntkrun, or install it with them"
        ) from None
