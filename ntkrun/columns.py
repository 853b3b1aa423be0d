"""The columns of a sweep's tables: their names, shared by the engine and by code that reads the tables without torch,
and their meanings for the reference."""

from typing import NamedTuple


class Columns(NamedTuple):
    """One column, or several that share a meaning, with their names separated by spaces. `detail` columns are measured
    at detail steps (`probes.detail`) and nan at other steps."""

    names: str
    meaning: str
    detail: bool = False


RUN_ID = Columns("run_id", "identifier of the run: 16 hexadecimal digits, a hash of everything its numbers depend on")

TABLES: dict[str, tuple[Columns, ...]] = {
    "runs": (
        RUN_ID,
        Columns("seed", "seed of the initial weights and the batches"),
        Columns("status reason last_step", "`done`, `diverged` or `failed`; the reason; the last step that has a row"),
        Columns("step_size", "η as a number"),
        Columns("smooth", "true if σ has no kinks"),
        Columns("parameters", "P, the number of parameters of the network"),
        Columns(
            "seconds",
            "time for training and probes: the stack's time divided by its number of runs. 0 for failed runs, which "
            "have no rows in the other tables",
        ),
        Columns(
            "threads",
            "number of torch threads, chosen by the size of the stack's largest matrix product; it affects the last "
            "digits of the results. 0 for failed runs, nan for runs of earlier versions",
        ),
        Columns("device torch ntkrun commit", "hardware and software versions that the run used"),
        Columns(
            "predicted_kernel_variance predicted_kurtosis predicted_square_correlation",
            "predictions of the finite-width formulas for relu without biases; nan for other networks",
        ),
    ),
    "steps": (
        RUN_ID,
        Columns("step time", "number of steps taken; t = η·step"),
        Columns(
            "loss test_loss",
            "(1/N) Σ_i ℓ(F(x_i), y_i) over all inputs, even if training uses batches. ℓ is `training.loss`, for "
            "squared ½ Σ_o (F_o - y_o)². `test_loss` is nan without test inputs or test targets (`data.between`)",
        ),
        Columns(
            "kernel_drift kernel_drift_absolute",
            "‖K_t - K_0‖_F/‖K_0‖_F; ‖K_t - K_0‖_F, over all training inputs and outputs",
        ),
        Columns("kernel_norm", "‖K_t‖_F"),
        Columns("lambda_min lambda_max", "smallest and largest eigenvalue of K_t/N, as an (N·O) x (N·O) matrix"),
        Columns("weight_drift", "‖W_t - W_0‖/‖W_0‖ over all parameters, including biases"),
        Columns("output_drift", "sqrt((1/N) Σ_i ‖F_t(x_i) - F_0(x_i)‖²)"),
        Columns(
            "distance_to_limit",
            "‖K_t - K_inf‖_F/‖K_inf‖_F, K_inf the infinite-width kernel, which is the same for each output and 0 "
            "between different outputs. In parametrizations other than `ntk`, K_inf is replaced by the expected kernel "
            "at the run's own widths, here and in `limit_*`",
        ),
        Columns(
            "off_diagonal",
            "‖K_ij, i≠j‖_F/‖K_t‖_F, the part of the kernel between different outputs; nan with one output",
        ),
        Columns(
            "linear_gap test_linear_gap",
            "max_x ‖F_t(x) - F_t^lin(x)‖ over training inputs; over test inputs. F^lin = F_0 + J·(W - W_0) is trained "
            "by the same steps, batches and momentum",
        ),
        Columns(
            "linear_rms_gap test_linear_rms_gap",
            "root mean square of ‖F_t(x) - F_t^lin(x)‖ over training inputs; over test inputs",
        ),
        Columns(
            "linear_weight_drift",
            "‖W_t^lin - W_0‖/‖W_0‖ of the linearised network, over all parameters as in `weight_drift`",
        ),
        Columns("flow_gap test_flow_gap", "largest distance of an output from gradient flow with K_0"),
        Columns(
            "limit_gap test_limit_gap",
            "largest distance of an output from gradient flow with K_inf that starts from the same F_0",
        ),
        Columns(
            "linear_loss test_linear_loss flow_loss test_flow_loss limit_loss test_limit_loss",
            "losses of these three predictions",
        ),
        Columns(
            "growth",
            "A(t) = Σ_l ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖a^(l)‖_Ê/√n_l, computed from the layers table; F is not "
            "included, nor are weights that are no matrices",
            detail=True,
        ),
        Columns(
            "descent_residual test_descent_residual",
            "‖ΔF + η K_t (s ∘ ∂ℓ/∂F)‖/‖ΔF‖ over training inputs; over test inputs. ΔF = F_{t+1} - F_t is the change by "
            "the step taken, s the weights of the inputs in the minimised loss (1/N, or those of the batch). nan with "
            "momentum, in a run's last row, and where ΔF = 0",
            detail=True,
        ),
    ),
    "layers": (
        RUN_ID,
        Columns("step layer", "number of steps taken; l, from 0 to L-1"),
        Columns(
            "name",
            "the layer's name in its network: `input`, `hidden 1`, ..., `output`; empty in results of earlier versions",
        ),
        Columns("weight_drift", "‖w_t - w_0‖_F/‖w_0‖_F"),
        Columns(
            "weight_operator weight_drift_operator",
            "‖w_t‖_op/√m; ‖w_t - w_0‖_op/√m. The unit is the standard deviation of the initial weights. Values are "
            "underestimated by at most a fraction 1e-4. nan for a weight that is no matrix",
            detail=True,
        ),
        Columns(
            "activation_norm activation_drift",
            "‖a^(l+1)_t‖_Ê/√n_{l+1}; ‖a^(l+1)_t - a^(l+1)_0‖_Ê/√n_{l+1}",
            detail=True,
        ),
        Columns(
            "backprop_norm",
            "root mean square of ‖∂F_i/∂z^(l+1)‖ over training inputs and outputs i",
            detail=True,
        ),
        Columns("kernel_part", "‖·‖_F of the layer's contribution to K_t; the contributions sum to K_t", detail=True),
        Columns(
            "subnetwork_kernel_norm subnetwork_kernel_drift",
            "‖K^(l+1)_11(t)‖_F; ‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F. K^(l+1) is the kernel of the "
            "first l+1 layers as a network with outputs z^(l+1), on the training inputs; K^(l+1)_11 is that of its "
            "first neuron",
            detail=True,
        ),
    ),
    "modes": (
        RUN_ID,
        Columns("step time", "number of steps taken, at detail steps; t = η·step. Only for the squared loss"),
        Columns(
            "mode",
            "rank of the eigenvalue, 0 for the largest. At most 64 modes, evenly spaced by rank, including the first "
            "and the last",
        ),
        Columns("eigenvalue", "λ_i of K̂_0 = K_0/N, from the float64 kernel of the initial weights"),
        Columns(
            "residual",
            "u_i·(F_t - y)/√(N·O), u_i the unit eigenvector with the sign that makes it non-negative at step 0. If all "
            "modes are stored, the squares sum to 2·`loss`/O",
        ),
    ),
    "outputs": (
        RUN_ID,
        Columns("step", "number of steps taken, one of `probes.outputs`"),
        Columns("part input output", "`train` or `test`; index of the input in its part, from 0; i, from 0"),
        Columns("value", "F_i(x)"),
        Columns(
            "variance",
            "variance of F_i(x) over the initial distribution of the last layer's weights and biases, given the hidden "
            "layers: σ_w²/n ‖a^(L-1)(x)‖² + β². nan after step 0",
        ),
        Columns("covariance", "covariance, likewise, between F_i(x) and F_i of the first input of its part"),
        Columns("kernel", "K_ii(x, x) at this step"),
        Columns("kernel_row", "K_ii(x, x') at this step, x' the first test input; nan without test inputs"),
        Columns("limit_kernel limit_kernel_row", "K_inf(x, x); K_inf(x, x')"),
        Columns(
            "limit_mean limit_variance limit_covariance",
            "mean and variance of F_i(x), and covariance with F_i of the first input of its part, over infinitely wide "
            "networks trained by the same steps (η, momentum). Known at step 0 for any training, and later for squared "
            "loss on all inputs; else nan",
        ),
    ),
}


def names(table: str) -> tuple[str, ...]:
    """Return the names of a table's columns. For `runs`, the columns that hold config values are not included."""
    return tuple(name for columns in TABLES[table] for name in columns.names.split())


# Columns of layers.parquet at detail steps. The formulas are in engine/detail_probes.py.
LAYER_DETAIL = tuple(name for columns in TABLES["layers"] if columns.detail for name in columns.names.split())
# Columns of steps.parquet at detail steps. The formulas are in engine/detail_probes.py.
DESCENT = ("descent_residual", "test_descent_residual")
