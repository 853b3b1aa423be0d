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
    * `rate_over_bound`: the smallest ε·K̂_t ε/‖ε‖² over λ_min(K̂_t), over steps whose loss is above ROUNDING times its
      start. It is at least 1, so that ‖ε‖ falls at least as fast as e^{-λ_min t}.
    * `drift_ratio`: the last weight_drift over that of the linearised network.
    * `growth_rate`: the largest |ΔA/Δt| between two detail steps.
    * `eigenvalue_share`: λ_min/λ_max of K̂_0. `eigenvalue_ratio`: λ_min of K̂_0 over that of K_inf/N.
    * `recovered_sharpness`: the last ηλ_max(K̂_t) of a run whose loss rose and ended below its start.
    * `noise_ratio`: the squared distance of the outputs from gradient flow over what theory expects of batches.
    * `rises`: whether the loss rises by the factor RISE from one probed step to the next while it is above ROUNDING
      times its start.
    * `sharpness`: λ_max(K̂_t) when the loss first rises, otherwise the largest over all steps.
    """
    trained = runs[runs["status"].isin(["done", "diverged"])]
    trained_steps = _rows_of(steps, trained).sort_values("step", kind="stable")
    statistics = pd.concat([_step_statistics(trained_steps), _layer_statistics(_rows_of(layers, trained))], axis=1)
    return _ratios(trained.merge(statistics, left_on="run_id", right_index=True, how="left"))


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
    statistics["growth_rate"] = _growth_rate(steps)
    if {"residual_rate", "lambda_min", "lambda_max"} <= set(steps):
        resolved = steps["loss"] > ROUNDING * by_run["loss"].transform("first")
        smallest = steps["lambda_min"].clip(lower=ROUNDING * steps["lambda_max"])  # no bound where it is rounding
        rate = (steps["residual_rate"] / smallest).where(resolved)
        statistics["rate_over_bound"] = rate.groupby(steps["run_id"]).min()
    return statistics


def _growth_rate(steps: pd.DataFrame) -> pd.Series:
    """Return sup |ΔA/Δt| of each run, over consecutive rows that have A."""
    if not {"growth", "time"} <= set(steps):
        return pd.Series(np.nan, index=steps["run_id"].unique())
    rows = steps[steps["growth"].notna()]
    changes = rows.groupby("run_id")[["growth", "time"]].diff()
    return (changes["growth"] / changes["time"]).abs().groupby(rows["run_id"]).max()


def _ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics with those that are ratios of two others."""
    ratios = {
        "drift_ratio": ("weight_drift_end", "linear_weight_drift_end"),
        "eigenvalue_share": ("lambda_min_0", "lambda_max_0"),
        "eigenvalue_ratio": ("lambda_min_0", "limit_lambda_min"),
        "noise_ratio": ("flow_rms_gap", "predicted_flow_rms_gap"),
    }
    known = {name: pair for name, pair in ratios.items() if set(pair) <= set(table)}
    table = table.assign(**{name: table[above] / table[below] for name, (above, below) in known.items()})
    if "eigenvalue_ratio" in table:  # unknown where the limit's eigenvalue is 0 up to rounding
        resolved = table["limit_lambda_min"] > ROUNDING * table["lambda_max_0"]
        table["eigenvalue_ratio"] = table["eigenvalue_ratio"].where(resolved)
    if "noise_ratio" in table:
        table["noise_ratio"] **= 2
    if {"lambda_max_end", "step_size"} <= set(table):
        recovered = table["rises"].astype(bool) & (table["status"] == "done") & (table["loss_ratio"] < 1)
        table["recovered_sharpness"] = (table["step_size"] * table["lambda_max_end"]).where(recovered)
    return table


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
