"""The claims of the theory, one declaration each. Adding a claim takes one entry in `_TABLE` and a test.

[J] Jacot, Gabriel and Hongler 2018; [L] Lee et al. 2019; [HY] Huang and Yau 2019; [DG] Dyer and Gur-Ari 2019;
[C] Chizat et al. 2019; [Lw] Lewkowycz et al. 2020; [Y] Yaida 2020. docs/claims.md explains the numbers expected at
finite width.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from ntkrun.evidence.claims import conditions as only_if
from ntkrun.evidence.estimates import ensembles, finite_width, initial_outputs, mode_speeds
from ntkrun.evidence.estimates.cases import AXES, Axis, Case
from ntkrun.evidence.estimates.exponents import Pooled, Slope
from ntkrun.evidence.estimates.initial_outputs import GIVEN, LIMIT
from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.evidence.estimates.levels import Ensemble, Height, Limit
from ntkrun.evidence.estimates.parts import (
    OPEN,
    Part,
    clips,
    column_of,
    columns,
    several_outputs,
    smoothness,
    without_hidden_layers,
    without_kinks,
)
from ntkrun.evidence.estimates.ranges import Edge, Extremes, Vanishes
from ntkrun.evidence.reasons import Status

Condition = Callable[[Case], Status]
ENDED = (only_if.complete, only_if.none_diverged)
TRAINED = (*ENDED, only_if.trained)
LAZY = (*TRAINED, only_if.lipschitz)
GENTLY = (*LAZY, only_if.stable)


@dataclass(frozen=True)
class Claim:
    """A claim: its statement in words, its source, its parts with their margins, and the conditions that must hold
    before it can be judged. `alternatives` are the nearest wrong theories, which it refutes at the sizes of the tool's
    own sweeps; the tests show it."""

    name: str
    statement: str
    reference: str
    parts: tuple[Part, ...]
    conditions: tuple[Condition, ...]
    alternatives: tuple[str, ...]
    axis: Axis = AXES["width"]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the claim's margins, which a config may set."""
        return tuple(dict.fromkeys(part.key for part in self.parts))

    def margins(self, case: Case, thresholds: Mapping[str, Interval]) -> dict[str, Interval]:
        """Return the margin of each part for this case: the config's if it sets one, otherwise the claim's own."""
        return {part.key: thresholds.get(part.key, part.margin(case)) for part in self.parts}


def hash_of(margins: Mapping[str, Interval]) -> str:
    """Return 12 hexadecimal digits of a hash of the margins that a claim was judged by."""
    text = json.dumps({key: [repr(edge) for edge in margin] for key, margin in margins.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Widths of the margins. Exponents hold in the limit n -> inf, and at widths up to a few thousand the next order still
# shows. ±0.2 around -1 and ±0.15 around -1/2 leave room for that and do not overlap. "At most" is a one-sided bound,
# with the same room: a faster decay does not contradict it.
LIKE_1_OVER_N = (-1.2, -0.8)
LIKE_1_OVER_ROOT_N = (-0.65, -0.35)
AT_MOST_ROOT_N = (-OPEN, -0.35)
# σ' with kinks (elu) is Lipschitz, so [L] theorem 2.1 holds; its second derivative jumps, which slows the approach to
# -1.
LIKE_1_OVER_N_C1 = (-1.2, -0.75)
GATES = (-1.1, -0.4)  # flipped gates of relu: shallower with n, -0.9 at moderate widths and -1/2 in the limit
FLAT = (-0.2, 0.2)
NOT_GROWING = (-OPEN, 0.1)
LIKE_1_OVER_ALPHA = (-1.15, -0.8)
LIKE_ETA, LIKE_ETA_C1 = (0.9, 1.1), (0.85, 1.15)
LIKE_ROOT_ETA = (0.35, 0.65)
FLIPS = (0.4, 1.1)  # gates that flip within a step add between √η and η to the error of a step
HALF_A_PERCENT = (0.995, 1.005)  # K_inf of another β (0.05, 0.2), depth or σ is off by 1 % or more
# What to do where a part is not measured.
TEST_INPUTS = "set data.test_samples to 1 or more"
KEEP_FIRST = "add `first` to probes.outputs"
KNOWN_LIMIT = "use an activation and a parametrization with a limit kernel"
DEFINITE_LIMIT = f"{KNOWN_LIMIT} that is positive definite on the data"
LAYERS_LIMIT = f"{KEEP_FIRST}, and {KNOWN_LIMIT}"
TWO_OUTPUTS = "use data with two or more outputs, such as `targets: one_hot`"
ENSEMBLE = "use test inputs, the squared loss and full batches, and add `last` to probes.outputs"
FOLLOWED = "no mode starts large enough and falls by a factor of e: use the squared loss, probes.detail and more steps"
SLOWEST = "the slowest mode starts too small, or falls too little: use the squared loss, probes.detail and more steps"
KEEP_LAST = "add `last` to probes.outputs"
BATCHES = f"use the squared loss, one output, batches, and no momentum, and {KEEP_LAST}"

_LAZY = (
    Slope("first", "weight_drift", LIKE_1_OVER_ROOT_N, layers="first"),
    Slope("hidden", "weight_drift", LIKE_1_OVER_N, layers="hidden"),
    Slope("last", "weight_drift", LIKE_1_OVER_ROOT_N, layers="last"),
)

_TABLE = (
    Claim(
        "kernel-gradient-descent",
        "A step of gradient descent changes the network function by -(η/N) Σ_i K_t(x, x_i) ∂ℓ/∂F(x_i), up to a "
        "relative error of O(η), at any width, on training and test inputs, at the first step and later. The outputs "
        "of each hidden layer move likewise along the kernel of the layers up to it, and the loss falls by (η/N²) "
        "g·K_t g, g = ∂ℓ/∂F. Where σ has kinks, gates that flip within a step add an error between √η and η.",
        "[J] section 3.1",
        (
            Slope("train", "descent_residual_0", LIKE_ETA, FLIPS, LIKE_ETA_C1, pooled=True),
            Slope("test", "test_descent_residual_0", LIKE_ETA, FLIPS, LIKE_ETA_C1, needs=TEST_INPUTS, pooled=True),
            Slope("run", "descent_residual", LIKE_ETA, None, LIKE_ETA_C1, applies=without_kinks),
            Slope("hidden", "descent_residual_0", LIKE_ETA, None, LIKE_ETA_C1, layers="hidden", applies=without_kinks),
            Slope("loss", "loss_descent_residual_0", LIKE_ETA, (0.4, 1.3), LIKE_ETA_C1, pooled=True),
        ),
        TRAINED,
        ("a kernel that is off by 1 %", "a layer that ascends", "weights of the inputs 1/N in place of their shares"),
        AXES["step size"],
    ),
    Claim(
        "exact-kernel",
        "The kernel at the start equals J Jᵀ, computed a second way from weights drawn again from the seed; and the "
        "part of the last layer's parameters is δ_ij [σ_w² a·a'/n + β²].",
        "[J] section 4, and theorem 1, proof",
        (
            Extremes("kernel", "kernel_error_0", (-OPEN, 1e-3), needs=KEEP_FIRST),
            Extremes("last_layer", "last_layer_error_0", (-OPEN, 1e-3), needs=KEEP_FIRST),
        ),
        TRAINED,
        ("a kernel of the first step in place of the start", "a kernel without β²"),
    ),
    Claim(
        "gaussian-output",
        "As the width grows, the outputs of untrained networks become Gaussian over initialisations, with covariance "
        "Σ^(L): their excess kurtosis falls like 1/n, and their covariance tends to Σ^(L).",
        "[J] proposition 1; [Y]",
        (
            Pooled(
                "kurtosis",
                LIKE_1_OVER_N,
                ensembles.conditional_variances,
                ensembles.excess_kurtosis,
                KEEP_FIRST,
                ensembles.normality,
            ),
            Height(
                "kurtosis_level",
                (0.9, 1.1),
                finite_width.kurtosis_over_exact,
                applies=finite_width.known,
                where="each",
                pooled=True,
            ),
            Height(
                "covariance",
                (-1.0, 1.0),
                ensembles.covariance_bias,
                needs=f"{KEEP_FIRST}, and {KNOWN_LIMIT}",
                where="narrowest",
            ),
            *(
                Limit(name, margin, statistic, needs=f"{KEEP_FIRST}, and {KNOWN_LIMIT}")
                for name, margin, statistic in (
                    ("first", (-0.05, 0.05), initial_outputs.moment(1, LIMIT)),
                    ("second", (0.97, 1.03), initial_outputs.moment(2, LIMIT)),
                    ("third", (-0.1, 0.1), initial_outputs.moment(3, LIMIT)),
                    ("fourth", (0.92, 1.08), initial_outputs.moment(4, LIMIT)),
                    ("together", (-0.05, 0.05), initial_outputs.joint_moment(1, 1, LIMIT)),
                    ("together_fourth", (0.92, 1.08), initial_outputs.joint_moment(2, 2, LIMIT)),
                )
            ),
        ),
        ENDED,
        (
            "Σ^(L) of another σ or depth, or of twice the β",
            "K_inf in place of Σ^(L)",
            "an excess kurtosis that falls like 1/√n",
        ),
    ),
    Claim(
        "conditional-normality",
        "Given the layers below, the outputs of each layer are independent normal variables with covariance "
        "σ_w² a·a'/n + β², exactly, at every width.",
        "[J] proposition 1, proof",
        (
            *(
                part
                for layers in ("first", "hidden")
                for part in (
                    Height(f"mean_{layers}", (-0.2, 0.2), column_of, layers, "neuron_mean_0", KEEP_FIRST, where="each"),
                    Height(
                        f"second_{layers}", (0.98, 1.02), column_of, layers, "neuron_second_0", KEEP_FIRST, where="each"
                    ),
                    Height(
                        f"fourth_{layers}", (0.95, 1.05), column_of, layers, "neuron_fourth_0", KEEP_FIRST, where="each"
                    ),
                    Height(
                        f"coupling_{layers}",
                        (-0.2, 0.2),
                        column_of,
                        layers,
                        "neuron_coupling_0",
                        KEEP_FIRST,
                        where="each",
                    ),
                )
            ),
            Height("second_output", (0.95, 1.05), initial_outputs.moment(2, GIVEN), needs=KEEP_FIRST, where="each"),
            Height("fourth_output", (0.85, 1.15), initial_outputs.moment(4, GIVEN), needs=KEEP_FIRST, where="each"),
            Height("together", (-0.1, 0.1), initial_outputs.joint_moment(1, 1, GIVEN), needs=KEEP_FIRST, where="each"),
            Height("outputs", (0.85, 1.15), initial_outputs.between_outputs(2), applies=several_outputs, where="each"),
        ),
        ENDED,
        ("weights that two neurons share", "weights of ±1 in place of normal ones", "a factor 1/√n of the wrong layer"),
    ),
    Claim(
        "independent-runs",
        "Networks of different seeds and of different widths share no random numbers, so that intervals over seeds and "
        "fits over widths hold.",
        "docs/claims.md",
        (
            Height("seeds", (-0.03, 0.03), initial_outputs.with_next_seed, needs=KEEP_FIRST, where="each"),
            Height(
                "widths", (-0.03, 0.03), initial_outputs.with_narrower, needs=f"{KEEP_FIRST}, and use several widths"
            ),
            Height("copies", (-0.5, 0.5), initial_outputs.copies, applies=several_outputs, where="each"),
        ),
        ENDED,
        ("seeds that repeat", "widths that share their weights"),
    ),
    Claim(
        "layer-covariance",
        "As the width grows, the covariance σ_w² a·a'/n + β² of each layer's outputs tends to Σ^(l+1) of the "
        "recursion, at the rate 1/√n for a single network.",
        "[J] proposition 1",
        (
            Limit("level", HALF_A_PERCENT, column_of, "all", "covariance_projection_0", LAYERS_LIMIT),
            Slope("distance", "covariance_distance_0", LIKE_1_OVER_ROOT_N, layers="upper", needs=LAYERS_LIMIT),
        ),
        ENDED,
        ("Σ^(l) of another β or σ", "Σ^(l) in place of Σ^(l+1)"),
    ),
    Claim(
        "kernel-recursion",
        "As the width grows, the kernel of the layers up to each layer tends to K^(l+1) = Σ^(l+1) + K^(l) Σ'^(l+1), "
        "the same for each neuron and 0 between different ones, where it falls like 1/√n; the part that is carried "
        "from the layers below tends to K^(l) Σ'^(l+1).",
        "[J] theorem 1, proof by induction over layers",
        (
            Limit("level", HALF_A_PERCENT, column_of, "all", "kernel_projection_0", LAYERS_LIMIT),
            Limit("carried", (0.99, 1.01), column_of, "upper", "carried_projection_0", LAYERS_LIMIT),
            Slope("between", "subnetwork_off_diagonal_0", LIKE_1_OVER_ROOT_N, layers="hidden", needs=LAYERS_LIMIT),
        ),
        ENDED,
        ("K_inf of another depth, β or σ", "Σ' without σ_w²", "K^(l+1) without Σ^(l+1)"),
    ),
    Claim(
        "one-layer",
        "A network without hidden layers has the kernel x·x'/n_0 + β² at any width and seed, and normal outputs.",
        "[J] proposition 1 and theorem 1, L = 1",
        (
            Extremes("kernel", "distance_to_limit_0", (-OPEN, 1e-5), without_hidden_layers, KNOWN_LIMIT),
            Height("mean", (-0.2, 0.2), column_of, "last", "neuron_mean_0", KEEP_FIRST, applies=without_hidden_layers),
            Height(
                "second", (0.95, 1.05), column_of, "last", "neuron_second_0", KEEP_FIRST, applies=without_hidden_layers
            ),
            Height(
                "fourth", (0.9, 1.1), column_of, "last", "neuron_fourth_0", KEEP_FIRST, applies=without_hidden_layers
            ),
        ),
        ENDED,
        ("a kernel without β²", "inputs that are not divided by n_0"),
    ),
    Claim(
        "independent-outputs",
        "As the width grows, the outputs of an untrained network become independent of each other: the correlation of "
        "their squares falls like 1/n, and for relu has the value that is known exactly.",
        "[J] proposition 1",
        (
            Pooled(
                "correlation",
                (-1.3, -0.6),
                ensembles.squares,
                ensembles.square_correlation,
                f"{TWO_OUTPUTS}, and {KEEP_FIRST}",
            ),
            Height(
                "level",
                (0.75, 1.25),
                finite_width.correlation_over_exact,
                needs=f"{TWO_OUTPUTS}, and {KEEP_FIRST}",
                where="narrowest",
                pooled=True,
                applies=finite_width.known,
            ),
        ),
        ENDED,
        ("outputs that share weights", "a correlation that falls like 1/√n"),
    ),
    Claim(
        "deterministic-kernel",
        "As the width grows, the initial kernel becomes deterministic and tends to K_inf: that of a single network "
        "differs from it by O(1/√n), its variance falls like 1/n, and the mean over networks tends to K_inf itself.",
        "[J] theorem 1",
        (
            Slope("distance", "distance_to_limit_0", LIKE_1_OVER_ROOT_N, needs=KNOWN_LIMIT),
            Pooled("variance", (-1.3, -0.7), ensembles.conditional_variances, ensembles.kernel_variance, KEEP_FIRST),
            Limit("level", HALF_A_PERCENT, column_of, column="limit_projection_0", needs=KNOWN_LIMIT),
        ),
        ENDED,
        ("K_inf of another β, σ or depth", "Σ^(L) in place of K_inf", "0.99 or 1.01 times K_inf"),
    ),
    Claim(
        "kernel-variance",
        "The variance of the initial kernel of relu networks without biases follows from depth and width alone: to "
        "first order Var K_0(x,x)/K_inf² = (1/n)(5(L-1) - 4(L²-1)/(3L)).",
        "[HN]; docs/theory.md",
        (
            Pooled("exponent", LIKE_1_OVER_N, ensembles.conditional_variances, ensembles.kernel_variance, KEEP_FIRST),
            Limit(
                "level",
                (0.9, 1.1),
                finite_width.variance_over_first_order,
                needs=f"use relu without biases, and {KEEP_FIRST}",
            ),
        ),
        ENDED,
        ("5L/n", "the formula of one layer more or less"),
    ),
    Claim(
        "depth-over-width",
        "Where the depth grows in proportion to the width, the kernel stays random: the variance of the initial kernel "
        "of relu networks without biases depends on L/n, and does not fall.",
        "[HN] theorem 1",
        (
            Pooled("exponent", (-0.2, OPEN), ensembles.conditional_variances, ensembles.kernel_variance, KEEP_FIRST),
            Height(
                "level",
                (0.85, 1.15),
                finite_width.variance_over_deep,
                needs=f"use relu without biases, and {KEEP_FIRST}",
                where="each",
                pooled=True,
            ),
        ),
        ENDED,
        ("a variance that falls like 1/n", "e^(5L/n) - 1"),
        AXES["depth and width"],
    ),
    Claim(
        "diagonal-kernel",
        "The initial kernel between two different outputs vanishes like 1/√n.",
        "[J] theorem 1",
        (Slope("exponent", "off_diagonal_0", LIKE_1_OVER_ROOT_N, needs=TWO_OUTPUTS),),
        ENDED,
        ("a part between outputs that stays, or falls like 1/n",),
    ),
    Claim(
        "positive-kernel",
        "The kernel is positive definite on the data: λ_min of K_0 is above the rounding error in every run, and tends "
        "to that of K_inf as the width grows. (Not for polynomial σ on many inputs, nor for inputs that repeat.)",
        "[J] proposition 2 (inputs on a sphere, σ not a polynomial)",
        (
            Extremes("positive", "eigenvalue_share", (1e-6, OPEN)),
            Height("level", (0.7, 1.1), column_of, column="eigenvalue_ratio", needs=DEFINITE_LIMIT, drifts=True),
        ),
        ENDED,
        ("inputs that repeat", "half of λ_min", "K without the 1/N"),
    ),
    Claim(
        "frozen-kernel",
        "The wider the network, the less its kernel changes during training: sup_t ‖K_t - K_0‖/‖K_0‖ falls like 1/n "
        "for smooth σ, and at a rate between n^(-1/2) and 1/n for σ with kinks.",
        "[J] theorem 2 (σ twice differentiable with a bounded second derivative); [HY]; [DG]; [L] figure 1 (relu)",
        (Slope("exponent", "kernel_drift", LIKE_1_OVER_N, GATES, LIKE_1_OVER_N_C1),),
        GENTLY,
        ("mean-field networks, whose kernel moves at every width", "1/√n for smooth σ"),
    ),
    Claim(
        "lazy-weights",
        "The wider the network, the less each weight matrix moves relative to its start: sup_t ‖Δw‖/‖w_0‖ falls like "
        "n^(-1/2) in the first and last layer, like 1/n in hidden layers, and at a rate in between for all weights "
        "together, while ‖Δw‖ itself stays the same. The operator norms of Δw/√m fall like n^(-1/2). The distance "
        "tends to that of the linearised network.",
        "[J] theorem 2; [L] figure 1",
        (
            *_LAZY,
            Slope("all", "weight_drift", AT_MOST_ROOT_N),
            Slope("distance_first", "weight_distance", FLAT, layers="first"),
            Slope("distance_hidden", "weight_distance", FLAT, layers="hidden"),
            Slope("distance_last", "weight_distance", FLAT, layers="last"),
            Slope("operator_first", "weight_drift_operator", LIKE_1_OVER_ROOT_N, layers="first"),
            Slope("operator_hidden", "weight_drift_operator", LIKE_1_OVER_ROOT_N, layers="hidden"),
            Slope("operator_last", "weight_drift_operator", LIKE_1_OVER_ROOT_N, layers="last"),
            Height("linearised", (0.97, 1.03), column_of, column="drift_ratio", drifts=True),
        ),
        GENTLY,
        ("mean-field networks", "a distance that grows like √n"),
    ),
    Claim(
        "frozen-activations",
        "The wider the network, the less its activations change during training: sup_t ‖a_t - a_0‖/√n falls like "
        "n^(-1/2) in every hidden layer.",
        "[J] theorem 2",
        (Slope("exponent", "activation_drift", LIKE_1_OVER_ROOT_N, layers="inner"),),
        GENTLY,
        ("mean-field networks", "1/n"),
    ),
    Claim(
        "bounded-initialisation",
        "At initialisation ‖w‖_op/√max(n_l, n_{l+1}) and ‖a‖/√n do not grow with the width; ‖w‖_op is √n_l + √n_{l+1} "
        "but for a correction that vanishes.",
        "[J] theorem 2, proof and footnote 2; [V] theorem 4.4.5",
        (
            Slope("weights_first", "weight_operator_0", NOT_GROWING, layers="first"),
            Slope("weights_hidden", "weight_operator_0", NOT_GROWING, layers="hidden"),
            Slope("weights_last", "weight_operator_0", NOT_GROWING, layers="last"),
            Slope("activations", "activation_norm_0", NOT_GROWING, layers="inner"),
            Height("level_first", (0.985, 1.015), column_of, "first", "weight_operator_ratio_0", where="all"),
            Height("level_hidden", (0.99, 1.01), column_of, "hidden", "weight_operator_ratio_0", where="all"),
            Height("level_last", (0.97, 1.03), column_of, "last", "weight_operator_ratio_0", where="all"),
        ),
        ENDED,
        ("norms that grow like √n", "‖w‖_F in place of ‖w‖_op", "deviations of the weights that are off by 2 %"),
    ),
    Claim(
        "bounded-backpropagation",
        "The norms of the output gradients ∂F_i/∂z^(l) do not grow with the width, at the start and during training.",
        "[J] theorem 2, proof",
        (
            Slope("start", "backprop_norm_0", NOT_GROWING, layers="inner"),
            Slope("run", "backprop_norm", NOT_GROWING, layers="inner"),
        ),
        GENTLY,
        ("gradients that grow like √n",),
    ),
    Claim(
        "subnetwork-kernels",
        "The kernels of the sub-networks that end in a hidden layer stay bounded and also change less in wider "
        "networks: their drift falls like n^(-1/2) or faster.",
        "[J] theorem 2, proof by induction over layers",
        (
            Slope("exponent", "subnetwork_kernel_drift", AT_MOST_ROOT_N, layers="hidden"),
            Slope("norm", "subnetwork_kernel_norm", NOT_GROWING, layers="hidden"),
        ),
        GENTLY,
        ("mean-field networks",),
    ),
    Claim(
        "weight-speed",
        "Weights move slowly at every moment: sup_t ‖∂_t w‖_op/√m falls like n^(-1/2) or faster in every layer, m = "
        "max(n_l, n_{l+1}).",
        "[J] theorem 2, proof",
        (
            Slope("first", "weight_speed", AT_MOST_ROOT_N, layers="first"),
            Slope("hidden", "weight_speed", AT_MOST_ROOT_N, layers="hidden"),
            Slope("last", "weight_speed", AT_MOST_ROOT_N, layers="last"),
        ),
        GENTLY,
        ("mean-field networks", "the speed over √n_0 in the first layer"),
    ),
    Claim(
        "growth-bound",
        "A(t), the sum of the operator norms of the weights over √m and the norms of the hidden pre-activations over "
        "√n, changes by at most O(1/√n) in a fixed time, and at a rate of at most O(1/√n).",
        "[J] theorem 2, proof (polynomial Grönwall inequality)",
        (
            Slope("exponent", "growth", AT_MOST_ROOT_N),
            Slope("rate", "growth_rate", AT_MOST_ROOT_N),
        ),
        GENTLY,
        ("a sum with F in it, which moves by O(1)", "mean-field networks"),
    ),
    Claim(
        "linear-dynamics",
        "The wider the network, the more closely it follows its linearisation: on training and test inputs, "
        "sup_t ‖F_t - F_t^lin‖ falls like 1/n for smooth σ, and at a rate between n^(-1/2) and 1/n for σ with kinks.",
        "[L] theorem 2.1 (σ' Lipschitz)",
        (
            Slope("train", "linear_gap", LIKE_1_OVER_N, GATES, LIKE_1_OVER_N_C1),
            Slope("test", "test_linear_gap", LIKE_1_OVER_N, GATES, LIKE_1_OVER_N_C1, needs=TEST_INPUTS),
        ),
        GENTLY,
        ("a linearisation with another step size", "mean-field networks"),
    ),
    Claim(
        "exponential-convergence",
        "Under squared error the residual along each eigenvector of K̂_0 shrinks by the factor |1 - ηλ_i| per step, and "
        "‖ε‖² falls at least at the rate 2λ_min(K̂_t) at every step.",
        "[J] section 5; [L] equation 8",
        (
            Height("speed", (0.9, 1.1), mode_speeds.speed, needs=FOLLOWED, drifts=True),
            Height("falling", (0.9, OPEN), mode_speeds.falling, needs=FOLLOWED),
            Height("modes", (0.9, 1.1), mode_speeds.across_modes, needs=FOLLOWED, drifts=True),
            Extremes("bound", "rate_over_bound", (0.999, OPEN)),
        ),
        (*GENTLY, only_if.squared, only_if.full_batch, only_if.no_momentum, only_if.resolved),
        ("rates that are off by 15 %", "one rate for all modes", "K without the 1/N"),
    ),
    Claim(
        "global-minimum",
        "Training reaches the global minimum: for every seed the loss falls below a thousandth of its initial value. "
        "(This requires λ_min(K) > 0.)",
        "[J] section 5",
        (Vanishes("ratio", (0.0, 1e-3)),),
        TRAINED,
        ("a loss that ends above 0, as with repeated inputs whose labels conflict",),
    ),
    Claim(
        "nearby-minimum",
        "Parameters converge exponentially to a global minimum close to their start: the loss falls to 0, the slowest "
        "mode at the rate λ_min, and the weights move the less, relative to their size, the wider the network.",
        "[J] section 5; theorem 2",
        (
            Vanishes("loss", (0.0, 1e-3)),
            Height("rate", (0.8, 1.2), mode_speeds.slowest, needs=SLOWEST, drifts=True),
            Slope("distance", "weight_drift", AT_MOST_ROOT_N),
        ),
        (*GENTLY, only_if.squared, only_if.full_batch, only_if.no_momentum, only_if.resolved),
        ("mean-field networks, whose minimum is far", "half the rate"),
    ),
    Claim(
        "limit-ensemble",
        "On test inputs, networks trained from many initialisations follow the Gaussian process that infinite width "
        "predicts: they have its mean and its covariance, at every time after the start whose outputs are stored.",
        "[L] equations 13 to 16; [J] figure 2",
        (
            Ensemble("mean", (0.93, 1.07), ensembles.learned_part, needs=f"{ENSEMBLE}; the limit's mean must not be 0"),
            Ensemble("bias", (-0.02, 0.02), ensembles.bias, needs=ENSEMBLE),
            Ensemble("spread", (0.9, 1.1), ensembles.spread, needs=ENSEMBLE),
            Ensemble(
                "covariance", (0.85, 1.15), ensembles.covariance, needs=f"{ENSEMBLE}, with two or more test inputs"
            ),
        ),
        (*GENTLY, only_if.squared),
        (
            "the NNGP's posterior",
            "half, twice or infinite time",
            "another depth, β or σ",
            "a covariance 1.2 times as large",
        ),
    ),
    Claim(
        "nngp-ensemble",
        "On test inputs, networks trained from many initialisations follow the posterior of the Gaussian process that "
        "they are at the start, as they would if only the last layer were trained. (They do not: a control.)",
        "[L] equations 13 to 16, figure 2",
        (
            Ensemble("mean", (0.93, 1.07), ensembles.learned_part, law=ensembles.NNGP, needs=ENSEMBLE),
            Ensemble("bias", (-0.02, 0.02), ensembles.bias, law=ensembles.NNGP, needs=ENSEMBLE),
            Ensemble("spread", (0.9, 1.1), ensembles.spread, law=ensembles.NNGP, needs=ENSEMBLE),
            Ensemble("covariance", (0.85, 1.15), ensembles.covariance, law=ensembles.NNGP, needs=ENSEMBLE),
        ),
        (*GENTLY, only_if.squared),
        ("what infinite width predicts, limit-ensemble",),
    ),
    Claim(
        "training-direction",
        "The kernel and the weights are as lazy under any training direction that stays bounded (that of the "
        "cross-entropy, the logistic loss or the Huber loss, which clips at least half of the residuals at the start) "
        "as under that of the squared error.",
        "[J] theorem 2",
        (
            Slope("kernel", "kernel_drift", LIKE_1_OVER_N, GATES, LIKE_1_OVER_N_C1),
            *_LAZY,
            Height("clipped", (0.5, OPEN), column_of, column="clipped_share_0", applies=clips),
        ),
        (*LAZY, only_if.another_loss),
        ("mean-field networks", "a Huber loss that hardly clips, which is the squared error"),
    ),
    Claim(
        "stochastic-gradient",
        "Gradient descent on batches follows the gradient flow: at a fixed time outputs and weights differ from it by "
        "O(√η), the outputs by as much as the covariance of independent batches says.",
        "[LTE]; docs/theory.md",
        (
            Slope("exponent", "flow_gap", LIKE_ROOT_ETA),
            Slope("weights", "flow_weight_gap", LIKE_ROOT_ETA, needs=KEEP_LAST),
            Limit("level", (0.8, 1.2), column_of, column="noise_ratio", needs=BATCHES),
        ),
        (*TRAINED, only_if.squared, only_if.on_batches, only_if.equal_times),
        ("epochs in place of independent batches, which give η", "batches of another size", "√2 times the noise"),
        AXES["step size"],
    ),
    Claim(
        "stability-edge",
        "Training is stable while ηλ_max(K̂_t) < 2: the loss first rises when this value is exceeded.",
        "[Lw]",
        (Edge("edge", (1.9, 2.1)),),
        (only_if.trained, only_if.no_momentum, only_if.full_batch, only_if.every_step),
        ("an edge at 1, or at 4",),
        AXES["step size"],
    ),
    Claim(
        "catapult",
        "Networks whose loss rises, and which come back, do so because their kernel changes: ηλ_max(K̂_t) is at most 2 "
        "at the end, though it was above 2 at the start.",
        "[Lw]",
        (Extremes("flattened", "recovered_sharpness", (-OPEN, 2.05), some=True),),
        (only_if.trained, only_if.no_momentum, only_if.full_batch, only_if.every_step),
        ("a kernel that stays as it was",),
        AXES["step size"],
    ),
    Claim(
        "lazy-by-scale",
        "At a fixed width, the larger the output scale α, the less the kernel changes: training α(F - F_0) on loss/α² "
        "changes it by O(1/α), and outputs and weights are those of the linearisation up to O(1/α).",
        "[C] theorem 2.2",
        (
            Slope("exponent", "kernel_drift", LIKE_1_OVER_ALPHA),
            Slope("train", "linear_gap", LIKE_1_OVER_ALPHA),
            Slope("test", "test_linear_gap", LIKE_1_OVER_ALPHA, needs=TEST_INPUTS),
            Height("linearised", (0.995, 1.005), column_of, column="drift_ratio", drifts=True),
        ),
        GENTLY,
        (
            "1/√α",
            "F_0 that is not subtracted, for which the drift stays",
            "a linearisation that is off by 2 %, in outputs or weights",
        ),
        AXES["output scale"],
    ),
    Claim(
        "lazy-regime",
        "The networks of this sweep are in the lazy regime: at the largest width, the kernel changes by less than 10 % "
        "over the whole training.",
        "[C]",
        (Height("kernel_drift", (0.0, 0.1), column_of, column="kernel_drift"),),
        TRAINED,
        ("networks that learn features",),
    ),
)

CLAIMS = {claim.name: claim for claim in _TABLE}


def expected_exponent(column: str, runs: pd.DataFrame) -> Interval | None:
    """Return the exponent that the claims about the width expect of a column of per_run, for networks like those of
    `runs`; None if no claim is about the column."""
    depth = int(runs["network.depth"].iloc[0])
    for claim in _TABLE:
        for part in claim.parts if claim.axis is AXES["width"] else ():
            if isinstance(part, Slope) and column in (name for _, name in columns(part, depth)):
                return part.margin_for(smoothness(runs))
    return None
