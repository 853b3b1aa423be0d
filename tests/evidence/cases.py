"""A case made of an outputs table alone, for the statistics that need nothing else."""

from types import SimpleNamespace
from typing import Any

import pandas as pd

from ntkrun.evidence.estimates.cases import AXES, Case


def case_of(outputs: pd.DataFrame) -> Case:
    """The case of an outputs table with the columns seed and width, all of whose runs are done."""
    outputs = outputs.assign(run_id=outputs["width"].astype(str) + "-" + outputs["seed"].astype(str))
    runs = outputs[["run_id", "seed", "width"]].drop_duplicates().rename(columns={"width": "at"})
    runs = runs.assign(status="done").astype({"at": float})
    tables: Any = SimpleNamespace(outputs=outputs.drop(columns=["seed", "width"]))
    return Case(AXES["width"], {}, runs, runs, runs, tables)
