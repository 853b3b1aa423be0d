"""The plan of a sweep whose plan.parquet is torn or gone, made again from what sweep.yaml says."""

from typing import Any

from ntkrun.errors import UserError
from ntkrun.lab.config import parse_config
from ntkrun.lab.plan import columns, plan
from ntkrun.lab.store import Store
from ntkrun.lab.yaml_reader import dump


def planned(store: Store) -> list[dict[str, Any]]:
    """The rows of plan.parquet, one a run. Raises UserError where sweep.yaml cannot be read, is no config of this
    version, or not the one that its hash and its number of runs are of."""
    said = store.description()
    sweep = parse_config(dump(said["config"]), "sweep.yaml")
    runs = plan(sweep)
    if (sweep.hash, len(runs)) != (said.get("config_hash"), said.get("runs")):
        raise UserError(f"{store.root / 'sweep.yaml'}: its config is not the one that its hash is of")
    return [columns(run) for run in runs]
