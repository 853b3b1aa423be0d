"""The columns of a sweep's tables: their names for the engine, which measures them, and for those that read the tables,
who need no torch; and what each means, for the reference."""

from typing import NamedTuple


class Columns(NamedTuple):
    """One column, or a few with a common meaning, by their names with spaces between. `detail`: measured at detail
    steps (`probes.detail`), nan at others."""

    names: str
    meaning: str
    detail: bool = False


RUN_ID = Columns("run_id", "the run: 16 hexadecimal digits of what its numbers depend on")

TABLES: dict[str, tuple[Columns, ...]] = {
    "runs": (
        RUN_ID,
        Columns("seed", "of the initial weights and of the batches"),
        Columns("status reason last_step", "done, diverged or failed; why; the last step that has a row"),
        Columns("step_size", "η as a number"),
        Columns("smooth", "whether σ has no kinks"),
        Columns("parameters", "P, how many parameters the network has"),
        Columns(
            "seconds",
            "of training and probes: the stack's time divided by its runs; 0 for those that failed, which have no rows "
            "in the other tables",
        ),
        Columns(
            "threads",
            "of torch, chosen by the size of the stack's largest product: their number has a say in the last digits; 0 "
            "for runs that failed, nan for those of earlier versions",
        ),
        Columns("device torch ntkrun commit", "what made the run"),
        Columns(
            "predicted_kernel_variance predicted_kurtosis predicted_square_correlation",
            "the finite-width formulas of relu without biases; nan for other networks",
        ),
    ),
    "steps": (
        RUN_ID,
        Columns("step time", "steps taken so far; t = η·step"),
        Columns(
            "loss test_loss",
            "(1/N) Σ_i ℓ(F(x_i), y_i) over all inputs, also where training takes batches; ℓ by `training.loss`, for "
            "squared ½ Σ_o (F_o - y_o)². `test_loss` is nan without test inputs, or test targets (`data.between`)",
        ),
        Columns(
            "kernel_drift kernel_drift_absolute",
            "‖K_t - K_0‖_F/‖K_0‖_F; ‖K_t - K_0‖_F, over all training inputs and outputs",
        ),
        Columns("kernel_norm", "‖K_t‖_F"),
        Columns("lambda_min lambda_max", "extreme eigenvalues of K_t/N, as an (N·O) x (N·O) matrix"),
        Columns("weight_drift", "‖W_t - W_0‖/‖W_0‖ over all parameters, biases too"),
        Columns("output_drift", "sqrt((1/N) Σ_i ‖F_t(x_i) - F_0(x_i)‖²)"),
        Columns(
            "distance_to_limit",
            "‖K_t - K_inf‖_F/‖K_inf‖_F, K_inf the infinite-width kernel, the same for each output and 0 between two; "
            "in other parametrisations than `ntk` the kernel to expect at the run's own widths stands for K_inf, here "
            "and in `limit_*`",
        ),
        Columns(
            "off_diagonal",
            "‖K_ij, i≠j‖_F/‖K_t‖_F, the part of the kernel between different outputs; nan with one output",
        ),
        Columns(
            "linear_gap test_linear_gap",
            "max_x ‖F_t(x) - F_t^lin(x)‖ over training inputs, over test inputs; F^lin = F_0 + J·(W - W_0), trained by "
            "the same steps, batches and momentum",
        ),
        Columns("linear_rms_gap test_linear_rms_gap", "the root mean square over inputs of the same distance"),
        Columns(
            "linear_weight_drift",
            "‖W_t^lin - W_0‖/‖W_0‖ of the linearised network, over all parameters as in `weight_drift`",
        ),
        Columns("flow_gap test_flow_gap", "the largest distance from gradient flow with K_0"),
        Columns("limit_gap test_limit_gap", "the largest distance from gradient flow with K_inf from the same F_0"),
        Columns(
            "linear_loss test_linear_loss flow_loss test_flow_loss limit_loss test_limit_loss",
            "the losses of these three predictions themselves",
        ),
        Columns(
            "growth",
            "A(t) = Σ_l ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖a^(l)‖_Ê/√n_l, from the columns of layers; F itself is not in it",
            detail=True,
        ),
        Columns(
            "descent_residual test_descent_residual",
            "‖ΔF + η K_t (s ∘ ∂ℓ/∂F)‖/‖ΔF‖ over training inputs, over test inputs; ΔF = F_{t+1} - F_t by the step that "
            "was taken, s the shares of the inputs in the loss it descends (1/N, or the batch's). nan with momentum, "
            "at a run's last row, and where ΔF = 0",
            detail=True,
        ),
    ),
    "layers": (
        RUN_ID,
        Columns("step layer", "steps taken so far; l, from 0 to L-1"),
        Columns("weight_drift", "‖w_t - w_0‖_F/‖w_0‖_F"),
        Columns(
            "weight_operator weight_drift_operator",
            "‖w_t‖_op/√m; ‖w_t - w_0‖_op/√m; in units of the weights' initial deviation; at most 1e-4 of itself too "
            "small",
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
        Columns("kernel_part", "‖·‖_F of the layer's summand of K_t; the summands add up to K_t", detail=True),
        Columns(
            "subnetwork_kernel_norm subnetwork_kernel_drift",
            "‖K^(l+1)_11(t)‖_F; ‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F; K^(l+1) the kernel of the first "
            "l+1 layers as a network with outputs z^(l+1), on the training inputs, of its first neuron",
            detail=True,
        ),
    ),
    "modes": (
        RUN_ID,
        Columns("step time", "detail steps, where the loss is squared; t = η·step"),
        Columns("mode", "0 for the largest eigenvalue; at most 64, evenly spaced by rank, the first and the last too"),
        Columns("eigenvalue", "λ_i of K̂_0 = K_0/N, from the float64 kernel of the initial weights"),
        Columns(
            "residual",
            "u_i·(F_t - y)/√(N·O), u_i the unit eigenvector that points to where the residual was at the start, so "
            "that it is not negative at step 0. Where all modes are kept, their squares add up to 2·`loss`/O",
        ),
    ),
    "outputs": (
        RUN_ID,
        Columns("step", "of `probes.outputs`"),
        Columns("part input output", "train or test; the input, from 0 in each part; i, from 0"),
        Columns("value", "F_i(x)"),
        Columns(
            "variance",
            "the variance of F_i(x) over the last layer's weights and biases, the hidden layers given: "
            "σ_w²/n ‖a^(L-1)(x)‖² + β². Of the initial distribution, so at step 0; nan later",
        ),
        Columns("covariance", "the same between x and the first input of its part"),
        Columns("kernel", "K_ii(x, x) of this step"),
        Columns("kernel_row", "K_ii(x, x') of this step, x' the first test input; nan without test inputs"),
        Columns("limit_kernel limit_kernel_row", "K_inf(x, x); K_inf(x, x')"),
        Columns(
            "limit_mean limit_variance limit_covariance",
            "mean and variance of F_i(x), and covariance with F_i of the first input of its part, over infinitely wide "
            "networks trained by the same steps (η, momentum). At step 0 for any training; later for squared loss on "
            "all inputs, else nan",
        ),
    ),
}


def names(table: str) -> tuple[str, ...]:
    """Every column of a table; those of `runs` that are a config's values left out."""
    return tuple(name for columns in TABLES[table] for name in columns.names.split())


# Of layers.parquet, at detail steps: engine/detail.py has the formulas.
LAYER_DETAIL = tuple(name for columns in TABLES["layers"] if columns.detail for name in columns.names.split())
# Of steps.parquet, at detail steps: engine/detail.py.
DESCENT = ("descent_residual", "test_descent_residual")
