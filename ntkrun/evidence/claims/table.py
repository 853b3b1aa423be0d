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
from ntkrun.evidence.estimates import ensembles, mode_speeds
from ntkrun.evidence.estimates.cases import AXES, Axis, Case
from ntkrun.evidence.estimates.estimators import (
    OPEN,
    Edge,
    Extremes,
    Height,
    Part,
    Pooled,
    Slope,
    Vanishes,
    column_of,
    columns,
    is_smooth,
)
from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.evidence.reasons import Status

Condition = Callable[[Case], Status]
ENDED = (only_if.complete, only_if.none_diverged)
TRAINED = (*ENDED, only_if.trained)
GENTLY = (*TRAINED, only_if.stable)


@dataclass(frozen=True)
class Claim:
    """A claim: its statement in words, its source, its parts with their margins, and the conditions that must hold
    before it can be judged."""

    name: str
    statement: str
    reference: str
    parts: tuple[Part, ...]
    conditions: tuple[Condition, ...]
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


# Widths of the margins: exponents hold in the limit n -> inf, and at widths up to a few thousand the next order still
# shows. ±0.2 around -1 and ±0.15 around -1/2 leave room for that and do not overlap.
LIKE_1_OVER_N = (-1.2, -0.8)
LIKE_1_OVER_ROOT_N = (-0.65, -0.35)
AT_LEAST_ROOT_N = (-1.2, -0.35)  # n^(-1/2) is an upper bound, and the true decay may be faster
GATES = (-1.1, -0.5)  # flipped gates of relu: n^(-3/4) asymptotically, [L] measured -0.80; -1/2 is proved
FLIPS = (0.4, 1.3)  # gates that flip within a step add up at random, like √η; all other terms are like η
NOT_GROWING = (-0.35, 0.1)
# What to do where a part is not measured.
TEST_INPUTS = "set data.test_samples to 1 or more"
KEEP_FIRST = "add `first` to probes.outputs"
KNOWN_LIMIT = "use an activation and a parametrization with a limit kernel"
TWO_OUTPUTS = "use data with two or more outputs, such as `targets: one_hot`"
ENSEMBLE = "use test inputs, the squared loss and full batches, and add `last` to probes.outputs"
FOLLOWED = "no mode starts large enough and falls by a factor of e: use the squared loss, probes.detail and more steps"

_LAZY = (
    Slope("first", "weight_drift", LIKE_1_OVER_ROOT_N, layers="first"),
    Slope("hidden", "weight_drift", LIKE_1_OVER_N, layers="hidden"),
    Slope("last", "weight_drift", LIKE_1_OVER_ROOT_N, layers="last"),
)

_TABLE = (
    Claim(
        "kernel-gradient-descent",
        "One step of gradient descent changes the network function by -(η/N) Σ_i K_t(x, x_i) ∂ℓ/∂F(x_i), up to a "
        "relative error of O(η), at any width, on training and test inputs.",
        "[J] section 3.1",
        (
            Slope("train", "descent_residual_0", (0.9, 1.1), FLIPS),
            Slope("test", "test_descent_residual_0", (0.9, 1.1), FLIPS, needs=TEST_INPUTS),
        ),
        (*TRAINED, only_if.no_momentum),
        AXES["step size"],
    ),
    Claim(
        "gaussian-output",
        "As the width grows, the outputs of untrained networks become Gaussian over initialisations, with covariance "
        "Σ^(L): their excess kurtosis falls like 1/n, and their covariance differs from Σ^(L) by O(L/n).",
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
                "covariance",
                (-5.0, 5.0),
                ensembles.covariance_bias,
                needs=f"{KEEP_FIRST}, and {KNOWN_LIMIT}",
            ),
        ),
        ENDED,
    ),
    Claim(
        "independent-outputs",
        "As the width grows, the outputs of an untrained network become independent of each other: the correlation of "
        "their squares falls like 1/n.",
        "[J] proposition 1",
        (
            Pooled(
                "correlation",
                (-1.3, -0.7),
                ensembles.squares,
                ensembles.square_correlation,
                f"{TWO_OUTPUTS}, and {KEEP_FIRST}",
            ),
        ),
        ENDED,
    ),
    Claim(
        "deterministic-kernel",
        "As the width grows, the initial kernel becomes deterministic: that of a single network differs from its limit "
        "by O(1/√n), and its variance falls like 1/n.",
        "[J] theorem 1",
        (
            Slope("distance", "distance_to_limit_0", LIKE_1_OVER_ROOT_N, needs=KNOWN_LIMIT),
            Pooled(
                "variance",
                (-1.3, -0.7),
                ensembles.conditional_variances,
                ensembles.kernel_variance,
                KEEP_FIRST,
            ),
        ),
        ENDED,
    ),
    Claim(
        "diagonal-kernel",
        "The initial kernel between two different outputs vanishes like 1/√n.",
        "[J] theorem 1",
        (Slope("exponent", "off_diagonal_0", LIKE_1_OVER_ROOT_N, needs=TWO_OUTPUTS),),
        ENDED,
    ),
    Claim(
        "frozen-kernel",
        "The wider the network, the less its kernel changes during training: sup_t ‖K_t - K_0‖/‖K_0‖ falls like 1/n "
        "for smooth σ, and at a rate between n^(-1/2) and 1/n for σ with kinks.",
        "[J] theorem 2; [HY]; [DG]; [L] figure 1",
        (Slope("exponent", "kernel_drift", LIKE_1_OVER_N, GATES),),
        GENTLY,
    ),
    Claim(
        "lazy-weights",
        "The wider the network, the less each weight matrix moves relative to its start: sup_t ‖Δw‖/‖w_0‖ falls like "
        "n^(-1/2) in the first and last layer, like 1/n in hidden layers, and at a rate in between for all weights "
        "together. The operator norms of Δw/√m fall like n^(-1/2).",
        "[J] theorem 2; [L] figure 1",
        (
            *_LAZY,
            Slope("all", "weight_drift", AT_LEAST_ROOT_N),
            Slope("operator_first", "weight_drift_operator", LIKE_1_OVER_ROOT_N, layers="first"),
            Slope("operator_hidden", "weight_drift_operator", LIKE_1_OVER_ROOT_N, layers="hidden"),
            Slope("operator_last", "weight_drift_operator", LIKE_1_OVER_ROOT_N, layers="last"),
        ),
        GENTLY,
    ),
    Claim(
        "frozen-activations",
        "The wider the network, the less its activations change during training: sup_t ‖a_t - a_0‖/√n falls like "
        "n^(-1/2) in every hidden layer.",
        "[J] theorem 2",
        (Slope("exponent", "activation_drift", LIKE_1_OVER_ROOT_N, layers="inner"),),
        GENTLY,
    ),
    Claim(
        "bounded-initialisation",
        "At initialisation ‖w‖_op/√max(n_l, n_{l+1}) and ‖a‖/√n do not grow with the width. For square weight matrices "
        "the first of them tends to 2.",
        "[J] theorem 2, proof",
        (
            Slope("weights_first", "weight_operator_0", NOT_GROWING, layers="first"),
            Slope("weights_hidden", "weight_operator_0", NOT_GROWING, layers="hidden"),
            Slope("weights_last", "weight_operator_0", NOT_GROWING, layers="last"),
            Slope("activations", "activation_norm_0", (-0.1, 0.1), layers="inner"),
            Height("square", (1.9, 2.1), column_of, "hidden", "weight_operator_0"),
        ),
        ENDED,
    ),
    Claim(
        "bounded-backpropagation",
        "At initialisation the norms of the output gradients ∂F_i/∂z^(l) do not grow with the width.",
        "[J] theorem 2, proof",
        (Slope("exponent", "backprop_norm_0", (-0.1, 0.1), layers="inner"),),
        ENDED,
    ),
    Claim(
        "subnetwork-kernels",
        "The kernels of the sub-networks that end in a hidden layer also change less in wider networks: their drift "
        "falls like n^(-1/2) or faster.",
        "[J] theorem 2, proof by induction over layers",
        (Slope("exponent", "subnetwork_kernel_drift", AT_LEAST_ROOT_N, layers="hidden"),),
        GENTLY,
    ),
    Claim(
        "growth-bound",
        "A(t), the sum of the operator norms of the weights over √m and the norms of the hidden activations over √n, "
        "changes by at most O(1/√n) in a fixed time.",
        "[J] theorem 2, proof (polynomial Grönwall inequality)",
        (Slope("exponent", "growth", AT_LEAST_ROOT_N),),
        GENTLY,
    ),
    Claim(
        "linear-dynamics",
        "The wider the network, the more closely it follows its linearisation: on training and test inputs, "
        "sup_t ‖F_t - F_t^lin‖ falls like 1/n for smooth σ, and at a rate between n^(-1/2) and 1/n for σ with kinks.",
        "[L] theorem 2.1",
        (
            Slope("train", "linear_gap", LIKE_1_OVER_N, GATES),
            Slope("test", "test_linear_gap", LIKE_1_OVER_N, GATES, needs=TEST_INPUTS),
        ),
        GENTLY,
    ),
    Claim(
        "exponential-convergence",
        "Under squared error the residual along each eigenvector of K̂_0 shrinks by the factor |1 - ηλ_i| per step, and "
        "‖ε_k‖ stays below max_i |1 - ηλ_i|^k ‖ε_0‖.",
        "[J] section 5; [L] equation 8",
        (
            Height("speed", (0.8, 1.2), mode_speeds.speed, needs=FOLLOWED, drifts=True),
            Height("falling", (0.9, OPEN), mode_speeds.falling, needs=FOLLOWED),
            Height("modes", (0.85, 1.15), mode_speeds.across_modes, needs=FOLLOWED, drifts=True),
            Extremes("bound", "bound_excess", (-OPEN, 0.05)),
        ),
        (*GENTLY, only_if.squared, only_if.full_batch, only_if.no_momentum, only_if.resolved),
    ),
    Claim(
        "global-minimum",
        "Training reaches the global minimum: for every seed the loss falls below a thousandth of its initial value. "
        "(This requires λ_min(K) > 0.)",
        "[J] section 5",
        (Vanishes("ratio", (0.0, 1e-3)),),
        TRAINED,
    ),
    Claim(
        "limit-ensemble",
        "On test inputs, networks trained from many initialisations follow the Gaussian process that infinite width "
        "predicts: they have its mean and its covariance at the time of the last step.",
        "[L] equations 13 to 16; [J] figure 2",
        (
            Height(
                "mean", (0.85, 1.15), ensembles.learned_part, needs=f"{ENSEMBLE}; the mean of its limit must not be 0"
            ),
            Height("bias", (-0.05, 0.05), ensembles.bias, needs=ENSEMBLE),
            Height("spread", (0.75, 1.25), ensembles.spread, needs=ENSEMBLE),
            Height("covariance", (0.6, 1.4), ensembles.covariance, needs=f"{ENSEMBLE}, with two or more test inputs"),
        ),
        (*GENTLY, only_if.squared),
    ),
    Claim(
        "training-direction",
        "The kernel and the weights are as lazy under any training direction that stays bounded (that of the "
        "cross-entropy, the logistic loss or the Huber loss) as under that of the squared error.",
        "[J] theorem 2",
        (Slope("kernel", "kernel_drift", LIKE_1_OVER_N, GATES), *_LAZY),
        (*TRAINED, only_if.another_loss),
    ),
    Claim(
        "stochastic-gradient",
        "Gradient descent on batches follows the gradient flow: at a fixed time the two differ by O(√η).",
        "theory of stochastic approximation; docs/theory.md",
        (Slope("exponent", "flow_gap", (0.35, 0.65)),),
        (*TRAINED, only_if.squared, only_if.on_batches, only_if.equal_times),
        AXES["step size"],
    ),
    Claim(
        "stability-edge",
        "Training is stable while ηλ_max(K̂_t) < 2: the loss first rises when this value is exceeded.",
        "[Lw]",
        (Edge("edge", (1.9, 2.1)),),
        (only_if.trained, only_if.no_momentum, only_if.full_batch, only_if.every_step),
        AXES["step size"],
    ),
    Claim(
        "lazy-by-scale",
        "At a fixed width, the larger the output scale α, the less the kernel changes: training α(F - F_0) on loss/α² "
        "changes it by O(1/α).",
        "[C] theorem 2.2",
        (Slope("exponent", "kernel_drift", (-1.15, -0.8)),),
        GENTLY,
        AXES["output scale"],
    ),
    Claim(
        "lazy-regime",
        "The networks of this sweep are in the lazy regime: at the largest width, the kernel changes by less than 10 % "
        "over the whole training.",
        "[C]",
        (Height("kernel_drift", (0.0, 0.1), column_of, column="kernel_drift"),),
        TRAINED,
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
                return part.margin_for(is_smooth(runs))
    return None
