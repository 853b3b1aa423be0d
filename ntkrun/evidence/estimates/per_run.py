"""Statistics of single runs: one row per run, with the numbers that estimates are computed from."""

from typing import Any, Protocol

import numpy as np
import pandas as pd

from ntkrun.columns import LARGEST_CHANGE, REDUCTIONS, TABLES, Reduction

RISE = 1 + 1e-3  # a loss that is larger by this factor has risen
ROUNDING = 1e-10  # relative to the first loss: in a float32 network, smaller losses are zero to rounding


class Tables(Protocol):
    """The tables of a sweep (docs/tables.md). `plan` holds every planned run, the other tables what has been recorded
    so far."""

    @property
    def plan(self) -> pd.DataFrame: ...
    @property
    def runs(self) -> pd.DataFrame: ...
    @property
    def steps(self) -> pd.DataFrame: ...
    @property
    def layers(self) -> pd.DataFrame: ...
    @property
    def modes(self) -> pd.DataFrame: ...
    @property
    def outputs(self) -> pd.DataFrame: ...


def per_run(runs: pd.DataFrame, steps: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each trained run, diverged runs included: its columns of `runs` and these statistics.

    * For each column of `steps`, and for each layer's of `layers` as `<statistic>.<l>`: the reductions that
      ntkrun/columns.py declares. Columns that a table lacks are left out.
    * `loss_ratio`: the last loss over the first. `late_ratio`: the last loss over that in the middle of the steps.
    * `bound_excess`: how far log ‖ε‖ rises above the bound of a frozen kernel.
    * `rises`: whether the loss rises by the factor RISE from one probed step to the next while it is above ROUNDING
      times its start.
    * `sharpness`: λ_max(K̂_t) when the loss first rises, otherwise the largest over all steps.
    """
    trained = runs[runs["status"].isin(["done", "diverged"])]
    trained_steps = _rows_of(steps, trained).sort_values("step", kind="stable")
    statistics = pd.concat([_step_statistics(trained_steps), _layer_statistics(_rows_of(layers, trained))], axis=1)
    return trained.merge(statistics, left_on="run_id", right_index=True, how="left")


def done(statistics: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs that reached their last step."""
    return statistics[statistics["status"] == "done"]


def last_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each run's last step in a table of runs and steps."""
    return table[table["step"] == table.groupby("run_id")["step"].transform("max")]


def _rows_of(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    return table[table["run_id"].isin(runs["run_id"])]


def _step_statistics(steps: pd.DataFrame) -> pd.DataFrame:
    by_run: Any = steps.groupby("run_id")
    statistics = _reductions(steps, "steps")
    statistics["loss_ratio"] = statistics["loss"] / by_run["loss"].first()
    middle = steps[steps["step"] <= by_run["step"].transform("max") / 2].groupby("run_id")["loss"].last()
    statistics["late_ratio"] = statistics["loss"] / middle
    statistics = statistics.join(_rises_and_sharpness(steps, by_run))
    statistics["bound_excess"] = _bound_excess(steps, by_run)
    return statistics


def _rises_and_sharpness(steps: pd.DataFrame, by_run: Any) -> pd.DataFrame:
    """Return `rises` and `sharpness` of each run."""
    resolved = steps["loss"] > ROUNDING * by_run["loss"].transform("first")
    up = (by_run["loss"].shift(-1) > RISE * steps["loss"]) & resolved
    first = up & (up.groupby(steps["run_id"]).cumsum() == 1)
    table = pd.DataFrame({"rises": up.groupby(steps["run_id"]).any()})
    if "lambda_max" in steps:
        at_rise = steps["lambda_max"].where(first).groupby(steps["run_id"]).max()
        table["sharpness"] = at_rise.fillna(by_run["lambda_max"].max())
    return table


def _bound_excess(steps: pd.DataFrame, by_run: Any) -> pd.Series:
    """Return sup_k log(‖ε_k‖/‖ε_0‖) - k log ρ for each run, with ρ = max(|1 - ηλ_min|, |1 - ηλ_max|) of K̂_0 and
    η = time/step. Only steps whose loss is above ROUNDING times its start count. Under a frozen kernel and squared
    error the value is not above 0."""
    if not {"lambda_min", "lambda_max", "time"} <= set(steps):
        return pd.Series(np.nan, index=by_run.size().index)
    eta = (steps["time"] / steps["step"].where(steps["step"] > 0)).groupby(steps["run_id"]).transform("max")
    low, high = by_run["lambda_min"].transform("first").clip(lower=0), by_run["lambda_max"].transform("first")
    rate = np.maximum((1 - eta * low).abs(), (1 - eta * high).abs())
    relative = steps["loss"] / by_run["loss"].transform("first")
    excess = 0.5 * np.log(relative.where(relative > ROUNDING)) - steps["step"] * np.log(rate)
    return excess.where(steps["step"] > 0).groupby(steps["run_id"]).max()


def _layer_statistics(layers: pd.DataFrame) -> pd.DataFrame:
    statistics = _reductions(layers, "layers").unstack("layer")
    statistics.columns = [f"{name}.{int(layer)}" for name, layer in statistics.columns]
    return pd.DataFrame(statistics)


def _reductions(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the declared statistics of a table's columns over the steps: one row per run, or per run and layer."""
    columns, parts = TABLES[table], []
    by = [name for name, column in columns.items() if column.key and name != "step"]
    for reduction in REDUCTIONS:
        names = [name for name, column in columns.items() if reduction in column.reductions and name in rows]
        if names:
            parts.append(_reduced(rows, names, by, reduction).add_suffix(reduction.suffix))
    return pd.concat(parts, axis=1)


def _reduced(rows: pd.DataFrame, names: list[str], by: list[str], reduction: Reduction) -> pd.DataFrame:
    groups: Any = rows.groupby(by)[names]
    if reduction is LARGEST_CHANGE:
        return (rows[names] - groups.transform("first")).abs().groupby([rows[key] for key in by]).max()
    return {"first": groups.first, "last": groups.last, "largest": groups.max}[reduction.how]()
