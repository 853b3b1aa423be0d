"""A small results directory, written by the store as a sweep would have it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.columns import TABLES
from ntkrun.store.results_directory import Store

DESCRIPTION = {"config": {"name": "test", "claims": []}, "config_hash": "0" * 16, "made_by": {"commit": None}}
SETTINGS = {
    "network.depth": 2,
    "network.activation": "relu",
    "network.beta": 0.1,
    "network.weight_scale": 1.0,
    "data.name": "digits",
    "data.samples": 4,
    "training.loss": "squared",
    "training.step_size": 1.0,
    "training.steps": 1,
    "training.batch": "full",
    "training.momentum": 0.0,
    "training.dtype": "float32",
}
OF_A_RUN = {"status": "done", "reason": "", "last_step": 1, "step_size": 1.0, "parameters": 9, "seconds": 0.1}
OF_A_RUN |= {"device": "cpu", "torch": "2", "ntkrun": "0", "commit": ""}


def plan_of(*ids: str) -> list[dict[str, Any]]:
    return [{"run_id": run_id, "network.width": 8 * (k + 1), "seed": k, **SETTINGS} for k, run_id in enumerate(ids)]


def frames_of(*ids: str) -> dict[str, pd.DataFrame]:
    runs = pd.DataFrame({"run_id": list(ids), **OF_A_RUN})
    rows = pd.DataFrame({"run_id": np.repeat(ids, 2), "step": [0, 1] * len(ids)})
    measured = [name for name, column in TABLES["steps"].items() if not column.key and not column.since]
    steps = rows.assign(**dict.fromkeys(measured, 0.5))  # as a version before all others has written it
    layers = rows.assign(layer=0, weight_drift=0.1)
    return {"runs": runs, "steps": steps, "layers": layers}


def filled(root: Path, planned: list[str], finished: list[str]) -> Store:
    """A store with these runs planned, and some of them finished, a stack each."""
    store = Store(root)
    with store.writing():
        store.begin(DESCRIPTION, plan_of(*planned))
        for run_id in finished:
            store.commit(frames_of(run_id), {run_id: {0: np.eye(2)[:, :, None, None], 7: np.ones((2, 2, 1, 1))}})
        store.write_tables()
    return store
