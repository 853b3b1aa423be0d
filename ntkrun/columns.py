"""The columns of a sweep's tables, each declared once. The empty tables, the reading and checking of files, the
statistics of runs, the export and the reference all follow these declarations."""

from dataclasses import dataclass
from typing import NamedTuple

DETAIL, STORED, START = "detail", "stored", "start"
LEVELS = "2026-11-28"  # the day since which claims judge levels too

# Kinds of columns, as they are named in messages.
ID, WHOLE, NUMBER, FLAG, TEXT, ANY = "an id", "a whole number", "a number", "true or false", "text", "a value"


class Reduction(NamedTuple):
    """A way to make one number per run (and layer) of a column: `how`, and the end of the statistic's name."""

    how: str
    suffix: str = ""


FIRST = Reduction("first", "_0")
LAST = Reduction("last")
END = Reduction("last", "_end")  # the last value of a column whose own name is no statistic
LARGEST = Reduction("largest")
LARGEST_CHANGE = Reduction("largest change from the first")
REDUCTIONS = (FIRST, LAST, END, LARGEST, LARGEST_CHANGE)


@dataclass(frozen=True)
class Column:
    """A column, or several that share everything but the name, with their names separated by spaces.

    * `unit`: 1 for ratios; empty for what is no number.
    * `reductions`: the statistics that are computed from it over the steps of a run.
    * `when`: the probed steps at which it is measured, with nan at others. Empty for all of them; DETAIL for detail
      steps (`probes.detail`); STORED for steps whose outputs are stored (`probes.outputs`), START for step 0 if it is
      one of these.
    * `key`: whether it identifies the row, with the other key columns.
    * `since`: the day since which results have it, empty if they always had it. In older results it is nan, or a gap
      if it is text.
    """

    names: str
    meaning: str
    unit: str = ""
    reductions: tuple[Reduction, ...] = ()
    kind: str = NUMBER
    when: str = ""
    key: bool = False
    since: str = ""


def _table(*columns: Column) -> dict[str, Column]:
    return {name: column for column in columns for name in column.names.split()}


RUN_ID = Column(
    "run_id",
    "identifier of the run: 16 hexadecimal digits, a hash of everything its numbers depend on",
    kind=ID,
    key=True,
)
STEP = Column("step", "number of steps taken", "steps", kind=WHOLE, key=True)
VALUE = "value of the config"
OF_CONFIG = (
    Column("network.depth data.samples training.steps", VALUE, kind=WHOLE),
    Column("network.activation data.name training.loss training.dtype", VALUE, kind=TEXT),
    Column("network.beta network.weight_scale training.momentum", VALUE, kind=NUMBER),
    Column("network.width training.step_size training.batch", VALUE, kind=ANY),
)

PLAN = _table(
    RUN_ID,
    *OF_CONFIG,
    Column("seed", "seed of the initial weights and the batches", kind=WHOLE),
)

TABLES = {
    "runs": _table(
        RUN_ID,
        Column("status reason", "`done`, `diverged` or `failed`; the reason", kind=TEXT),
        Column("last_step", "the last step that has a row", "steps"),
        Column("step_size", "η as a number", "t"),
        Column(
            "seconds",
            "time for training and probes: the stack's time divided by its number of runs. 0 for failed runs, which "
            "have no rows in the other tables",
            "s",
        ),
        Column(
            "threads",
            "number of torch threads, chosen by the size of the stack's largest matrix product; it affects the last "
            "digits of the results. 0 for failed runs",
            "threads",
            since="2026-11-27",
        ),
        Column("smooth", "true if σ has no kinks", kind=FLAG, since="2026-11-24"),
        Column(
            "smoothness",
            "`smooth` if σ has no kinks, `C1` if σ' is continuous at all of them, otherwise `kinked`",
            kind=TEXT,
            since=LEVELS,
        ),
        Column("lipschitz", "true if σ is known to be Lipschitz", kind=FLAG, since=LEVELS),
        Column(
            "limit_lambda_min",
            "smallest eigenvalue of K_inf/N on the training inputs; nan where K_inf is not known",
            "K",
            since=LEVELS,
        ),
        Column("parameters", "P, the number of parameters of the network", "parameters"),
        Column("device torch ntkrun commit", "hardware and software versions that the run used", kind=TEXT),
        Column(
            "predicted_kernel_variance predicted_kurtosis predicted_square_correlation",
            "finite-width formulas for relu: Var K_0(x,x)/K_inf² to first order in 1/n, without biases; the excess "
            "kurtosis of F_i(x) and the correlation of F_i(x)², F_j(x)², exact, with biases where all inputs have one "
            "norm. nan for other networks",
            "1",
            since="2026-11-24",
        ),
        Column(
            "predicted_deep_kernel_variance",
            "Var K_0(x,x)/K_inf² of relu networks without biases, at any ratio of depth to width",
            "1",
            since=LEVELS,
        ),
    ),
    "steps": _table(
        RUN_ID,
        STEP,
        Column("time", "t = η·step", "t"),
        Column(
            "loss test_loss",
            "(1/N) Σ_i ℓ(F(x_i), y_i) over all inputs, even if training uses batches. ℓ is `training.loss`, for "
            "squared ½ Σ_o (F_o - y_o)². `test_loss` is nan without test inputs or test targets (`data.between`)",
            "loss",
            (LAST,),
        ),
        Column(
            "clipped_share",
            "share of inputs and outputs with |F - y| beyond the threshold of the loss `huber`, whose pull is clipped; "
            "nan for other losses",
            "1",
            (FIRST,),
            since=LEVELS,
        ),
        Column("kernel_drift", "‖K_t - K_0‖_F/‖K_0‖_F, over all training inputs and outputs", "1", (LARGEST,)),
        Column("kernel_drift_absolute", "‖K_t - K_0‖_F", "K"),
        Column("kernel_norm", "‖K_t‖_F", "K"),
        Column("lambda_min", "smallest eigenvalue of K_t/N, as an (N·O) x (N·O) matrix", "K", (FIRST,)),
        Column("lambda_max", "its largest eigenvalue", "K", (FIRST, END)),
        Column(
            "effective_rank",
            "exp(-Σ_i p_i log p_i), p_i = λ_i/Σ_j λ_j over the eigenvalues of K_t, from 1 to N·O (Roy and Vetterli "
            "2007). Negative eigenvalues, which are rounding, count as 0; nan for K_t = 0",
            "1",
            (FIRST, END),
            since="2026-11-28",
        ),
        Column(
            "residual_rate",
            "ε·K̂_t ε/‖ε‖² with K̂_t = K_t/N and ε = F_t - y, half the rate at which ‖ε‖² falls; nan for other losses "
            "than squared, and where ε = 0",
            "K",
            since=LEVELS,
        ),
        Column(
            "weight_drift",
            "‖W_t - W_0‖/‖W_0‖ over all parameters, including biases",
            "1",
            (LARGEST, END),
        ),
        Column("weight_distance", "‖W_t - W_0‖ over all parameters", "1", (LARGEST,), since=LEVELS),
        Column("output_drift", "sqrt((1/N) Σ_i ‖F_t(x_i) - F_0(x_i)‖²)", "F", (LARGEST,)),
        Column(
            "distance_to_limit",
            "‖K_t - K_inf‖_F/‖K_inf‖_F, K_inf the infinite-width kernel, which is the same for each output and 0 "
            "between different outputs. In parametrizations other than `ntk`, K_inf is replaced by the expected kernel "
            "at the run's own widths, here and in `limit_*`",
            "1",
            (FIRST,),
            since="2026-11-24",
        ),
        Column(
            "limit_projection",
            "Σ (K_t ∘ K_inf)/Σ K_inf², over pairs of training inputs, mean over outputs: how much of K_inf K_t has",
            "1",
            (FIRST,),
            since=LEVELS,
        ),
        Column(
            "off_diagonal",
            "‖K_ij, i≠j‖_F/‖K_t‖_F, the part of the kernel between different outputs; nan with one output",
            "1",
            (FIRST,),
            since="2026-11-24",
        ),
        Column(
            "linear_gap test_linear_gap",
            "max_x ‖F_t(x) - F_t^lin(x)‖ over training inputs; over test inputs. F^lin = F_0 + J·(W - W_0) is trained "
            "by the same steps, batches and momentum",
            "F",
            (LARGEST,),
            since="2026-11-24",
        ),
        Column(
            "linear_rms_gap test_linear_rms_gap",
            "root mean square of ‖F_t(x) - F_t^lin(x)‖ over training inputs; over test inputs",
            "F",
            since="2026-11-24",
        ),
        Column(
            "linear_weight_drift",
            "‖W_t^lin - W_0‖/‖W_0‖ of the linearised network, over all parameters as in `weight_drift`",
            "1",
            (END,),
            since="2026-11-24",
        ),
        Column(
            "flow_gap",
            "largest distance of an output from gradient flow with K_0, over training inputs",
            "F",
            (LAST,),
            since="2026-11-24",
        ),
        Column(
            "flow_rms_gap",
            "root mean square distance of the outputs from gradient flow with K_0, over training inputs",
            "F",
            (LAST,),
            since=LEVELS,
        ),
        Column(
            "predicted_flow_rms_gap",
            "what batches make of it to first order in η, root mean square over batches (docs/theory.md); nan before "
            "the last step, without batches, with momentum, several outputs or another loss than squared",
            "F",
            (LAST,),
            when=STORED,
            since=LEVELS,
        ),
        Column(
            "flow_weight_gap",
            "‖W_t - W_flow(t)‖/‖W_0‖, W_flow = W_0 - J(X)ᵀ ∫ε/N the weights of gradient flow with K_0",
            "1",
            (LAST,),
            when=STORED,
            since=LEVELS,
        ),
        Column("test_flow_gap", "the same over test inputs", "F", since="2026-11-24"),
        Column(
            "limit_gap test_limit_gap",
            "largest distance of an output from gradient flow with K_inf that starts from the same F_0",
            "F",
            since="2026-11-24",
        ),
        Column(
            "linear_loss test_linear_loss flow_loss test_flow_loss limit_loss test_limit_loss",
            "losses of these three predictions",
            "loss",
            since="2026-11-24",
        ),
        Column(
            "growth",
            "A(t) = Σ_l ‖w^(l)‖_op/√m_l + Σ_{0<l<L} ‖z^(l)‖_Ê/√n_l, computed from the layers table; F = z^(L) is not "
            "included, nor are weights that are no matrices. In results before 2026-11-28 with a^(l) in place of z^(l)",
            "1",
            (LARGEST_CHANGE,),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "descent_residual test_descent_residual",
            "‖ΔF + η K_t (s ∘ ∂ℓ/∂F)‖/‖ΔF‖ over training inputs; over test inputs. ΔF = F_{t+1} - F_t is the change by "
            "the step taken, s the weights of the inputs in the minimised loss (1/N, or those of the batch). nan with "
            "momentum after step 0, in a run's last row, and where ΔF = 0",
            "1",
            (FIRST, LARGEST),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "loss_descent_residual",
            "|ΔL + (η/N) Σ g·K_t (s ∘ g)|/|ΔL| of the loss L itself, g its gradient by finite differences",
            "1",
            (FIRST, LARGEST),
            when=DETAIL,
            since=LEVELS,
        ),
        Column(
            "kernel_error",
            "‖K_0 u - J Jᵀu‖/‖K_0 u‖ for a random u: Jᵀu by autograd and J by finite differences of F, in float64, "
            "with weights drawn again from the seed. nan where nothing is trained",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column(
            "last_layer_error",
            "the same for the last layer's parameters alone, whose part of K_ij is δ_ij [s² a·a' + c²]",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
    ),
    "layers": _table(
        RUN_ID,
        STEP,
        Column("layer", "l, from 0 to L-1", kind=WHOLE, key=True),
        Column(
            "name",
            "the layer's name in its network: `input`, `hidden 1`, ..., `output`",
            kind=TEXT,
            since="2026-11-28",
        ),
        Column("weight_drift", "‖w_t - w_0‖_F/‖w_0‖_F", "1", (LARGEST,)),
        Column("weight_distance", "‖w_t - w_0‖_F", "1", (LARGEST,), since=LEVELS),
        Column(
            "weight_operator",
            "‖w_t‖_op/√m, underestimated by at most a fraction 1e-4. nan for a weight that is no matrix",
            "standard deviation of w_0",
            (FIRST,),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "weight_drift_operator",
            "‖w_t - w_0‖_op/√m, likewise",
            "standard deviation of w_0",
            (LARGEST,),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "weight_operator_ratio",
            "‖w_t‖_op over the expectation of ‖w_0‖_op for independent entries, which is near √n_l + √n_{l+1}",
            "1",
            (FIRST,),
            when=DETAIL,
            since=LEVELS,
        ),
        Column(
            "weight_speed",
            "‖∂loss/∂w^(l)‖_op/√m of the loss that training minimises; nan for a weight that is no matrix",
            "1/t",
            (LARGEST,),
            when=DETAIL,
            since=LEVELS,
        ),
        Column("preactivation_norm", "‖z^(l+1)_t‖_Ê/√n_{l+1}", "z", (FIRST,), when=DETAIL, since=LEVELS),
        Column("activation_norm", "‖a^(l+1)_t‖_Ê/√n_{l+1}", "a", (FIRST,), when=DETAIL, since="2026-11-24"),
        Column(
            "activation_drift",
            "‖a^(l+1)_t - a^(l+1)_0‖_Ê/√n_{l+1}",
            "a",
            (LARGEST,),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "backprop_norm",
            "root mean square of ‖∂F_i/∂z^(l+1)‖ over training inputs and outputs i",
            "F/z",
            (FIRST, LARGEST),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "kernel_part",
            "‖·‖_F of the layer's contribution to K_t; the contributions sum to K_t",
            "K",
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "subnetwork_kernel_norm",
            "‖K^(l+1)_11(t)‖_F. K^(l+1) is the kernel of the first l+1 layers as a network with outputs z^(l+1), on "
            "the training inputs; K^(l+1)_11 is that of its first neuron",
            "K",
            (FIRST, LARGEST),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "subnetwork_kernel_drift",
            "‖K^(l+1)_11(t) - K^(l+1)_11(0)‖_F/‖K^(l+1)_11(0)‖_F",
            "1",
            (LARGEST,),
            when=DETAIL,
            since="2026-11-24",
        ),
        Column(
            "descent_residual",
            "‖Δz_1 + η Σ_i K^(l+1)_1·(x, x_i) d_i‖/‖Δz_1‖ of the layer's first neuron over training inputs, d = "
            "∂loss/∂z^(l+1): the layer's outputs move along the kernel of the layers up to it. nan as in the steps "
            "table",
            "1",
            (FIRST, LARGEST),
            when=DETAIL,
            since=LEVELS,
        ),
        Column(
            "covariance_projection",
            "Σ (C ∘ Σ^(l+1))/Σ Σ^(l+1)², C = s² a·a' + c² the covariance of z^(l+1) given the layers below, Σ^(l+1) "
            "its limit: the part of the limit that C has",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column("covariance_distance", "‖C - Σ^(l+1)‖_F/‖Σ^(l+1)‖_F", "1", (FIRST,), when=START, since=LEVELS),
        Column(
            "kernel_projection",
            "the part that K^(l+1)_11 has of its limit K^(l+1)",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column(
            "carried_projection",
            "the part that K^(l+1)_11 - C, carried from below, has of its limit K^(l) Σ'^(l+1); nan at l = 0",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column(
            "subnetwork_off_diagonal",
            "‖K^(l+1)_12‖_F/‖K^(l+1)_11‖_F, between the layer's first two neurons; nan if it has one",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column(
            "neuron_mean",
            "Σ_i z_i/√(n C(x,x)) over the layer's n neurons, mean over training inputs: 0 with deviation 1 or less if, "
            "given the layers below, neurons are independent N(0, C)",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column(
            "neuron_second",
            "mean of z²/C(x,x) over neurons and training inputs",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
        Column("neuron_fourth", "mean of z⁴/3C(x,x)²", "1", (FIRST,), when=START, since=LEVELS),
        Column(
            "neuron_coupling",
            "Σ_{i≠j} z_i z_j/(C(x,x) √(2n(n-1))), mean over training inputs: 0 with deviation 1 or less; nan for one "
            "neuron",
            "1",
            (FIRST,),
            when=START,
            since=LEVELS,
        ),
    ),
    "modes": _table(
        RUN_ID,
        STEP,
        Column("time", "t = η·step", "t", since="2026-11-24"),
        Column(
            "mode",
            "rank of the eigenvalue, 0 for the largest. At most 64 modes, evenly spaced by rank, including the first "
            "and the last",
            kind=WHOLE,
            key=True,
        ),
        Column(
            "eigenvalue",
            "λ_i of K̂_0 = K_0/N, from the float64 kernel of the initial weights",
            "K",
            since="2026-11-24",
        ),
        Column(
            "residual",
            "u_i·(F_t - y)/√(N·O), u_i the unit eigenvector with the sign that makes it non-negative at step 0. If all "
            "modes are stored, the squares sum to 2·`loss`/O",
            "F",
            since="2026-11-24",
        ),
    ),
    "outputs": _table(
        RUN_ID,
        STEP,
        Column("part", "`train` or `test`", kind=TEXT, key=True),
        Column("input", "index of the input in its part, from 0", kind=WHOLE, key=True),
        Column("output", "i, from 0", kind=WHOLE, key=True),
        Column("value", "F_i(x)", "F", since="2026-11-24"),
        Column(
            "variance",
            "variance of F_i(x) over the initial distribution of the last layer's weights and biases, given the hidden "
            "layers: σ_w²/n ‖a^(L-1)(x)‖² + β². nan after step 0",
            "F²",
            since="2026-11-24",
        ),
        Column(
            "covariance",
            "covariance, likewise, between F_i(x) and F_i of the first input of its part",
            "F²",
            since="2026-11-24",
        ),
        Column("kernel", "K_ii(x, x) at this step", "K", since="2026-11-24"),
        Column(
            "kernel_row",
            "K_ii(x, x') at this step, x' the first test input; nan without test inputs",
            "K",
            since="2026-11-24",
        ),
        Column("limit_kernel limit_kernel_row", "K_inf(x, x); K_inf(x, x')", "K", since="2026-11-24"),
        Column(
            "limit_mean",
            "mean of F_i(x) over infinitely wide networks trained by the same steps (η, momentum). Known at step 0 for "
            "any training, and later for squared loss on all inputs; else nan",
            "F",
            since="2026-11-24",
        ),
        Column(
            "limit_variance limit_covariance",
            "likewise, the variance of F_i(x), and its covariance with F_i of the first input of its part",
            "F²",
            since="2026-11-24",
        ),
        Column(
            "nngp_mean",
            "mean of the Gaussian process that the outputs are at step 0, given the targets without noise: of networks "
            "of which only the last layer is trained, for ever. The same at every step; nan without the squared loss, "
            "and where f_0 = 0",
            "F",
            since="2026-11-28",
        ),
        Column(
            "nngp_variance nngp_covariance",
            "likewise, its variance, and its covariance with F_i of the first input of its part",
            "F²",
            since="2026-11-28",
        ),
    ),
}


def pending_columns(table: str) -> tuple[str, ...]:
    """Return the names of the table's columns that are not measured at every probed step."""
    return tuple(name for name, column in TABLES[table].items() if column.when)
