"""The reasons of verdicts: a word for programs, and a sentence for people that says what to do.

Judging compares reasons and never looks at a sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
_STRADDLES = "{interval} straddles an edge of the expected {expected}; "


class Reason(StrEnum):
    """Why an estimate, or the finding made of it, is what it is. `text` has a place for each number that it names."""

    text: str

    def __new__(cls, word: str, text: str) -> "Reason":
        member = str.__new__(cls, word)
        member._value_ = word
        member.text = text
        return member

    OK = "ok", ""  # of an estimate: it can be judged

    # The interval decides.
    INSIDE = "inside", ""
    OUTSIDE = "outside", "{interval} lies outside the expected {expected}"

    IMPOSSIBLE = (
        "impossible",
        "{count} of {total} numbers of {what} are 0 or not finite, which no sound run gives: look at these runs",
    )

    # The interval does not decide yet.
    MORE_SEEDS = "more-seeds", _STRADDLES + "needs about {needed} seeds instead of {seeds}{at}"
    ON_THE_EDGE = (
        "on-the-edge",
        _STRADDLES + "the estimate lies on the edge of the expected range, and more seeds would hardly settle it",
    )
    NOT_ASYMPTOTIC = (
        "not-asymptotic",
        _STRADDLES + "the exponent still changes over the range (not yet asymptotic); use {further}",
    )
    MIXED_RUNS = (
        "mixed-runs",
        _STRADDLES + "some runs lie inside and some outside, which more seeds cannot change; train for more steps",
    )
    COARSE_STEPS = "coarse-steps", _STRADDLES + "run step sizes in between"
    CHANGES_WITH_WIDTH = (
        "changes-with-width",
        "{interval} lies outside the expected {expected}, but changes with the width and may still reach it; "
        "use wider networks",
    )
    NO_INTERVAL = "no-interval", "a single seed gives no interval; run more seeds"

    # There is no estimate, or too little to judge it by.
    NO_RUNS = "no-runs", "no run has finished; run the sweep"
    NO_LAYER = "no-layer", "networks of depth {depth} have no such layer; use deeper ones"
    NOT_MEASURED = "not-measured", "{what} was not measured; {needs}"
    FEW_RUNS = "few-runs", "{count} {what}; at least 3 are needed: run more seeds"
    FEW_SEEDS = "few-seeds", "fewer than 3 seeds at {values}; run at least 3, better 10"
    NO_SCATTER = "no-scatter", "one seed at each of two values does not show the scatter; run more seeds"
    NO_SLOPE = (
        "no-slope",
        "a slope needs positive results at two values of the axis{least}, and there are {count}: add values",
    )
    FEW_VALUES = (
        "few-values",
        "a power law needs at least three values of the axis, and the sweep has {values}: add values",
    )
    FEW_STEP_SIZES = (
        "few-step-sizes",
        "fewer than 3 step sizes were run; sweep training.step_size over at least 3",
    )
    INDISTINCT = (
        "indistinct",
        "{what} cannot be distinguished from zero at {axis} {values}; run more seeds, or narrower networks",
    )
    NEVER_RISES = "never-rises", "the loss rises in no run (ηλ_max from {low} to {high}); try larger step sizes"
    ALWAYS_RISES = "always-rises", "the loss rises in every run (ηλ_max from {low} to {high}); try smaller step sizes"
    STILL_FALLING = (
        "still-falling",
        "{count} of {total} runs are above {edge} and still falling (the slowest by a factor of {factor} in the second "
        "half of the steps); train for more steps",
    )

    # A condition of the claim is not met.
    UNFINISHED = "unfinished", "of {planned} planned runs {counts}: run the sweep again{option}"
    DIVERGED = "diverged", "of {planned} planned runs {count} diverged: take a smaller step, at which none diverges"
    NOT_TRAINED = "not-trained", "training.steps is 0: nothing was trained; set it to at least 1"
    UNSTABLE = (
        "unstable",
        "ηλ_max of the initial kernel is {value} at {axis} {at}, beyond the edge of stability; take a smaller step",
    )
    NOT_LIPSCHITZ = (
        "not-lipschitz",
        "{activation} is not Lipschitz, and the theorems say nothing of it: what is measured is shown, but not judged",
    )
    ROUNDED_AWAY = (
        "rounded-away",
        "λ_min of K̂_0 is {share} of λ_max, zero to rounding in float32; use training.dtype float64",
    )
    SINGULAR = (
        "singular",
        "λ_min of K̂_0 is {share} of λ_max, zero to rounding in float64; remove repeated inputs, or widen the network",
    )
    OTHER_SETTING = (
        "other-setting",
        "{key} is {value}, and this claim is about {about}: change it, or leave the claim out",
    )
    SPARSE_PROBES = (
        "sparse-probes",
        "the loss is measured every {every} steps, which may miss a rise: set probes.every: 1",
    )
    UNEQUAL_TIMES = (
        "unequal-times",
        "the runs end at times {first} to {last}: vary training.steps with the step size (zip)",
    )

    @property
    def verdict(self) -> str:
        """The verdict on a finding that has this reason."""
        decided = {Reason.INSIDE: SUPPORTED, Reason.OUTSIDE: REFUTED, Reason.IMPOSSIBLE: REFUTED}
        return decided.get(self, INCONCLUSIVE)

    def of(self, **numbers: object) -> "Status":
        """Return the reason with the numbers of its sentence."""
        return Status(self, numbers)


@dataclass(frozen=True)
class Status:
    """A reason with the numbers that its sentence names; `str` of it is the sentence, '' where nothing is wrong."""

    reason: Reason
    numbers: Mapping[str, object] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.reason is Reason.OK

    def __str__(self) -> str:
        return self.reason.text.format(**self.numbers)


OK = Status(Reason.OK)
