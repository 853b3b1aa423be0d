"""Tables of a sweep with known numbers in them, for what experiments make of them."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

Rows = Sequence[Mapping[str, Any]]


def results(runs: Rows, steps: Rows = (), outputs: Rows = ()) -> Any:
    """What a sweep leaves of these runs, steps and outputs; a run is one of width 64 and seed 0 that is done, at step
    size 1, if it says nothing else. One layer, which does not move."""
    usual = {"network.width": 64, "network.depth": 2, "seed": 0, "status": "done", "step_size": 1.0, "smooth": True}
    table = pd.DataFrame([{**usual, **run} for run in runs])
    layers = table[["run_id"]].assign(step=0, layer=0, weight_drift=0.0)
    plan = table.drop(columns=["status", "step_size", "smooth"])
    return SimpleNamespace(
        plan=plan, runs=table, steps=pd.DataFrame(steps), layers=layers, outputs=pd.DataFrame(outputs), modes=None
    )
