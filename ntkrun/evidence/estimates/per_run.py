"""What each run gives: one row a run of the numbers that estimates are made of."""

from typing import Any, Protocol

import numpy as np
import pandas as pd

RISE = 1 + 1e-3  # a loss that is larger by this factor has risen
ROUNDING = 1e-10  # of the first loss: a float32 network cannot tell losses below from zero

# Columns of steps.parquet and layers.parquet by what is taken of them. What a table does not have is left out.
LAST = ("loss", "test_loss", "flow_gap", "lambda_max")
FIRST = ("distance_to_limit", "off_diagonal", "lambda_min", "lambda_max", "descent_residual", "test_descent_residual")
SUPREMA = ("kernel_drift", "weight_drift", "output_drift", "linear_gap", "test_linear_gap")
LAYER_FIRST = ("weight_operator", "activation_norm", "backprop_norm", "subnetwork_kernel_norm")
LAYER_SUPREMA = ("weight_drift", "weight_drift_operator", "activation_drift", "subnetwork_kernel_drift")


class Tables(Protocol):
    """The tables of a sweep as the lab leaves them (docs/tables.md); `plan` holds every planned run, the others what
    there is of them."""

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
    """One row a run that was trained, diverged ones too: its columns of `runs`, and

    * at the last step `loss`, `test_loss`, `loss_ratio` (last over first), `late_ratio` (last over the middle of the
      steps), `flow_gap`, `lambda_max_end`;
    * at the first, as `<column>_0`: FIRST;
    * the largest over the steps: SUPREMA; `growth`, sup |A(t) - A(0)|; `bound_excess`, how far log ‖ε‖ rises above the
      bound of a frozen kernel;
    * `rises`, whether the loss rises from one probed step to the next by RISE while it is above ROUNDING of its start;
      and `sharpness`, λ_max(K̂_t) when it first does, else the largest of all steps;
    * of each layer l, as `<column>.<l>` and `<column>_0.<l>`: LAYER_SUPREMA and LAYER_FIRST.
    """
    trained = runs[runs["status"].isin(["done", "diverged"])]
    of_runs = _of(steps, trained).sort_values("step", kind="stable")
    statistics = pd.concat([_of_steps(of_runs), _of_layers(_of(layers, trained))], axis=1)
    return trained.merge(statistics, left_on="run_id", right_index=True, how="left")


def done(statistics: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs that reached their last step."""
    return statistics[statistics["status"] == "done"]


def last_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last step in a table of runs and steps."""
    return table[table["step"] == table.groupby("run_id")["step"].transform("max")]


def _of(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    return table[table["run_id"].isin(runs["run_id"])]


def _of_steps(steps: pd.DataFrame) -> pd.DataFrame:
    by_run: Any = steps.groupby("run_id")
    found = by_run[_there(steps, LAST)].last().rename(columns={"lambda_max": "lambda_max_end"})
    found = found.join(by_run[_there(steps, FIRST)].first().add_suffix("_0"))
    found = found.join(by_run[_there(steps, SUPREMA)].max())
    found["loss_ratio"] = found["loss"] / by_run["loss"].first()
    middle = steps[steps["step"] <= by_run["step"].transform("max") / 2].groupby("run_id")["loss"].last()
    found["late_ratio"] = found["loss"] / middle
    found = found.join(_edges(steps, by_run))
    found["bound_excess"] = _bound_excess(steps, by_run)
    if "growth" in steps:
        found["growth"] = (steps["growth"] - by_run["growth"].transform("first")).abs().groupby(steps["run_id"]).max()
    return pd.DataFrame(found)


def _edges(steps: pd.DataFrame, by_run: Any) -> pd.DataFrame:
    """`rises` and `sharpness` of each run."""
    resolved = steps["loss"] > ROUNDING * by_run["loss"].transform("first")
    up = (by_run["loss"].shift(-1) > RISE * steps["loss"]) & resolved
    first = up & (up.groupby(steps["run_id"]).cumsum() == 1)
    found = pd.DataFrame({"rises": up.groupby(steps["run_id"]).any()})
    if "lambda_max" in steps:
        at_rise = steps["lambda_max"].where(first).groupby(steps["run_id"]).max()
        found["sharpness"] = at_rise.fillna(by_run["lambda_max"].max())
    return found


def _bound_excess(steps: pd.DataFrame, by_run: Any) -> pd.Series:
    """sup_k log(‖ε_k‖/‖ε_0‖) - k log ρ, ρ = max(|1 - ηλ_min|, |1 - ηλ_max|) of K̂_0: not above 0 under a frozen kernel
    and squared error. η = time/step. Only while the loss is above ROUNDING of its start."""
    if not {"lambda_min", "lambda_max", "time"} <= set(steps):
        return pd.Series(np.nan, index=by_run.size().index)
    eta = (steps["time"] / steps["step"].where(steps["step"] > 0)).groupby(steps["run_id"]).transform("max")
    low, high = by_run["lambda_min"].transform("first").clip(lower=0), by_run["lambda_max"].transform("first")
    rate = np.maximum((1 - eta * low).abs(), (1 - eta * high).abs())
    relative = steps["loss"] / by_run["loss"].transform("first")
    excess = 0.5 * np.log(relative.where(relative > ROUNDING)) - steps["step"] * np.log(rate)
    return excess.where(steps["step"] > 0).groupby(steps["run_id"]).max()


def _of_layers(layers: pd.DataFrame) -> pd.DataFrame:
    by_layer: Any = layers.groupby(["run_id", "layer"])
    first = by_layer[_there(layers, LAYER_FIRST)].first().add_suffix("_0")
    found = by_layer[_there(layers, LAYER_SUPREMA)].max().join(first).unstack("layer")
    found.columns = [f"{name}.{int(layer)}" for name, layer in found.columns]
    return pd.DataFrame(found)


def _there(table: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in table]
