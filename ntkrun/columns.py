"""Names of columns that the engine measures and the tables hold, for both floors; readers of tables need no torch."""

# Of layers.parquet, at detail steps: engine/detail.py has the formulas.
LAYER_DETAIL = (
    "weight_operator",
    "weight_drift_operator",
    "activation_norm",
    "activation_drift",
    "backprop_norm",
    "kernel_part",
    "subnetwork_kernel_norm",
    "subnetwork_kernel_drift",
)
# Of steps.parquet, at detail steps: engine/descent.py.
DESCENT = ("descent_residual", "test_descent_residual")
