"""Each claim on tables made from known laws: supported where the law is the theory's, refuted where it is another, and
inconclusive, with what would settle it, where the tables do not say."""

import dataclasses
import json
import math
from string import Formatter

import pytest

from ntkrun.evidence.claims.entry import ClaimEntry
from ntkrun.evidence.claims.judge import finding, judge, judgement
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.estimates.estimate import Estimate
from ntkrun.evidence.reasons import Reason
from ntkrun.evidence.records import Judgement, Verdict, interval_of
from ntkrun.text import json_text
from tests.evidence.laws import STEPS, Laws, sweep

BY_WIDTH = Laws()
MANY = Laws(seeds=400)  # for statistics that all seeds give together
JOINT = Laws(seeds=1000, outputs=8, values=(64, 128, 256))
OTHER_LOSS = Laws(config={"training.loss": "huber"})
BY_STEP = Laws(axis="training.step_size", values=(0.1, 0.2, 0.4, 0.8))
ON_BATCHES = BY_STEP.but(config={"training.batch": "8"})
EDGE = Laws(axis="training.step_size", values=(0.5, 1.0, 1.5, 1.95, 2.05, 3.0))
BY_SCALE = Laws(axis="training.output_scale", values=tuple(f'{{"centred": {a}}}' for a in (1.0, 4.0, 16.0)))  # type: ignore[arg-type]


def _flat(name: str) -> dict[str, dict[str, float]]:
    return {"exponents": {name: 0.0}}


# Of each claim: a world where it holds, and what is changed in worlds where it does not.
WORLDS = [
    ("kernel-gradient-descent", BY_STEP, [{"exponents": {"descent_residual": 0.0}}]),
    ("gaussian-output", MANY, [{"kurtosis": 0.0}, {"bias": 40.0}]),
    ("independent-outputs", JOINT, [{"coupling_exponent": 0.0}]),
    ("deterministic-kernel", MANY, [_flat("distance_to_limit"), {"variance": 0.0}]),
    ("diagonal-kernel", BY_WIDTH, [_flat("off_diagonal")]),
    ("frozen-kernel", BY_WIDTH, [_flat("kernel_drift"), {"exponents": {"kernel_drift": -2.0}}]),
    ("lazy-weights", BY_WIDTH, [_flat(f"weight_drift.{l}") for l in range(3)] + [_flat("weight_drift_operator")]),
    ("frozen-activations", BY_WIDTH, [_flat("activation_drift")]),
    ("bounded-initialisation", BY_WIDTH, [{"exponents": {"weight_operator": 0.5}}]),
    ("bounded-backpropagation", BY_WIDTH, [{"exponents": {"backprop_norm": 0.5}}]),
    ("subnetwork-kernels", BY_WIDTH, [_flat("subnetwork_kernel_drift")]),
    ("growth-bound", BY_WIDTH, [_flat("growth")]),
    ("linear-dynamics", BY_WIDTH, [_flat("linear_gap"), _flat("test_linear_gap")]),
    ("exponential-convergence", BY_WIDTH, [{"mode_speed": 1.5}, {"last_loss": 0.9}, {"rising": 1}]),
    ("global-minimum", BY_WIDTH, [{"last_loss": 0.01, "plateau": True}]),
    ("limit-ensemble", MANY, [{"learned": 0.7}, {"spread": 3.0}, {"aside": 0.4}, {"shared": 0.0}]),
    ("training-direction", OTHER_LOSS, [_flat("kernel_drift"), _flat("weight_drift.1")]),
    ("stochastic-gradient", ON_BATCHES, [{"exponents": {"flow_gap": 1.0}}]),
    ("stability-edge", EDGE, [{"edge": 1.2}]),
    ("lazy-by-scale", BY_SCALE.but(exponents={"kernel_drift": -1.0}), [{"exponents": {"kernel_drift": 0.0}}]),
    ("lazy-regime", BY_WIDTH, [{"exponents": {"kernel_drift": -0.1}}]),
]


def _judge(name: str, laws: Laws, **asks: object) -> Verdict:
    (found,) = judge(_ending_together(laws), [ClaimEntry(name=name, **asks)])  # type: ignore[arg-type]
    return found


def _ending_together(laws: Laws):  # type: ignore[no-untyped-def]
    """A sweep over step sizes takes fewer steps of larger ones; the tables only have to say so."""
    tables = sweep(laws)
    if laws.axis != "training.step_size":
        return tables
    steps = (STEPS[-1] / tables.runs["step_size"]).round()
    return dataclasses.replace(tables, runs=tables.runs.assign(**{"training.steps": steps}))


def test_every_claim_has_its_worlds() -> None:
    assert [name for name, _, _ in WORLDS] == list(CLAIMS)


@pytest.mark.parametrize(("name", "laws"), [(name, laws) for name, laws, _ in WORLDS], ids=lambda v: str(v)[:30])
def test_a_claim_is_supported_where_it_holds(name: str, laws: Laws) -> None:
    found = _judge(name, laws)
    assert found.verdict == "supported", [(each.part, each.why) for each in found.parts]
    low, high = found.interval
    assert low <= found.estimate <= high


@pytest.mark.parametrize(
    ("name", "laws"), [(name, laws.but(**change)) for name, laws, changes in WORLDS for change in changes]
)
def test_a_claim_is_refuted_where_it_does_not_hold(name: str, laws: Laws) -> None:
    found = _judge(name, laws)
    assert found.verdict == "refuted", [(each.part, each.why) for each in found.parts]
    assert "lies outside" in found.why


def test_a_claim_that_should_fail_and_does_counts_as_a_success() -> None:
    bad = sweep(BY_WIDTH.but(exponents={"kernel_drift": 0.0}))
    fails, holds = ClaimEntry(name="frozen-kernel", expect="refuted"), ClaimEntry(name="frozen-kernel")
    judged = judgement(bad, [fails])
    assert judged.claims[0].as_expected
    assert judged.code == 0
    assert judgement(bad, [holds]).code == 3
    good = sweep(BY_WIDTH)
    assert judgement(good, [fails]).code == 3
    assert judgement(good, [holds]).code == 0


@pytest.mark.parametrize(
    ("value", "half", "seeds"),
    [
        (-0.9, 0.2, "about 20 seeds instead of 5"),  # 0.1 from the nearest edge: half the width, four times the seeds
        (-0.75, 0.1, "about 20 seeds instead of 5"),  # outside, 0.05 from it
        (-0.8, 0.1, "on the edge"),
    ],
)
def test_a_straddling_interval_says_how_many_seeds_would_settle_it(value: float, half: float, seeds: str) -> None:
    found = finding("exponent", Estimate(value, (value - half, value + half), seeds=5), (-1.2, -0.8))
    assert found.verdict == "inconclusive"
    assert seeds in found.why


@pytest.mark.parametrize(
    ("name", "laws", "changes", "cure"),
    [
        ("global-minimum", BY_WIDTH, {"last_loss": 1e-3, "plateau": True}, "more seeds cannot change"),
        ("stability-edge", EDGE, {"edge": 1.9}, "run step sizes in between"),
    ],
)
def test_what_more_seeds_would_not_narrow_says_so(name: str, laws: Laws, changes: dict[str, object], cure: str) -> None:
    tables = _ending_together(laws.but(**changes))
    if name == "global-minimum":
        tables.steps["loss"] *= 1 + 10 * ((tables.steps["run_id"] == "64-0") & (tables.steps["step"] > 20))
    (found,) = judge(tables, [ClaimEntry(name=name)])
    assert found.verdict == "inconclusive"
    assert cure in found.why
    assert found.kind != "95 %"


def test_a_law_that_is_curved_in_width_is_not_averaged_away() -> None:
    tables = sweep(BY_WIDTH.but(scatter=1e-3))
    width = tables.steps["run_id"].str.split("-").str[0].astype(float)
    tables.steps["kernel_drift"] *= (width / 64) ** (0.06 * (width / 64).map(math.log))
    (found,) = judge(tables, [ClaimEntry(name="frozen-kernel")])
    assert found.verdict == "inconclusive"
    assert "not yet asymptotic" in found.why
    assert "Kendall's τ with the width is -0.88" in found.why  # it falls throughout, whatever the law
    low, high = found.interval
    assert low < -0.85 < -0.8 < high  # both local exponents: -0.87 and -0.79


def test_a_level_on_its_way_to_the_margin_is_not_refuted_yet() -> None:
    """Speeds 1.88 at 64 to 1.31 at 512 tend to 1; those that tend to 1.4 are refuted, however far they have come."""
    found = _judge("exponential-convergence", BY_WIDTH.but(mode_excess=7.0))
    assert found.verdict == "inconclusive"
    assert found.why == (
        "[1.31, 1.31] lies outside the expected [0.8, 1.2], but changes with the width and may still reach it; "
        "use wider networks"
    )
    assert _judge("exponential-convergence", BY_WIDTH.but(mode_speed=1.4, mode_excess=7.0)).verdict == "refuted"


@pytest.mark.parametrize(
    ("name", "laws", "why"),
    [
        ("frozen-kernel", BY_WIDTH.but(missing=3), "of 24 planned runs 3 missing"),
        ("frozen-kernel", BY_WIDTH.but(diverged=2), "of 24 planned runs 2 diverged"),
        ("frozen-kernel", BY_WIDTH.but(seeds=2), "fewer than 3 seeds"),
        ("frozen-kernel", BY_WIDTH.but(values=(64, 128)), "at least three values of the axis"),
        (
            "frozen-kernel",
            BY_WIDTH.but(values=(8, 16, 32)),
            "a slope needs positive results at two values of the axis from 48 on, and there are 0",
        ),
        ("frozen-kernel", BY_WIDTH.but(step_size=2.5), "beyond the edge of stability"),
        ("frozen-kernel", BY_WIDTH.but(config={"training.steps": 0}), "nothing was trained"),
        ("global-minimum", BY_WIDTH.but(last_loss=0.01), "still falling"),
        ("global-minimum", BY_WIDTH.but(seeds=2), "2 finished runs; at least 3 are needed"),
        ("stability-edge", EDGE.but(config={"probes.every": 50}), "every 50 steps, which may miss a rise"),
        ("stability-edge", EDGE.but(seeds=2), "2 seeds; at least 3 are needed"),
        ("training-direction", BY_WIDTH, "this claim is about other losses"),
        (
            "exponential-convergence",
            BY_WIDTH.but(config={"training.momentum": 0.5}),
            "training.momentum is 0.5, and this claim is about training without momentum",
        ),
        ("exponential-convergence", BY_WIDTH.but(plateau=True), "zero to rounding in float64"),
        ("stochastic-gradient", BY_STEP, "batch is full"),
        ("stability-edge", BY_STEP, "the loss rises in no run"),
        ("stability-edge", EDGE.but(edge=0.1), "the loss rises in every run"),
        ("stability-edge", EDGE.but(diverged=36), "the loss rises in every run"),
        ("gaussian-output", BY_WIDTH.but(seeds=2), "seed"),
        ("frozen-activations", BY_WIDTH.but(config={"network.depth": 1}), "depth 1 have no such layer"),
    ],
)
def test_what_cannot_be_judged_says_why(name: str, laws: Laws, why: str) -> None:
    found = _judge(name, laws)
    assert found.verdict == "inconclusive"
    assert why in found.why
    assert judgement(sweep(laws.but(diverged=0)), []).model_copy(update={"claims": (found,)}).code == 5


def test_step_sizes_must_end_at_one_time() -> None:
    (found,) = judge(sweep(ON_BATCHES), [ClaimEntry(name="stochastic-gradient")])
    assert "vary training.steps" in found.why


def test_margins_of_a_config_change_the_verdict_and_its_hash() -> None:
    own = _judge("frozen-kernel", BY_WIDTH, exponent=(-0.8, -0.2))
    assert own.verdict == "refuted"
    assert own.expected == (-0.8, -0.2)
    assert own.thresholds_hash != _judge("frozen-kernel", BY_WIDTH).thresholds_hash
    kinked = _judge("frozen-kernel", BY_WIDTH.but(smooth=False))
    assert kinked.expected == (-1.1, -0.5)


def test_a_zero_eigenvalue_is_stated() -> None:
    found = _judge("global-minimum", BY_WIDTH.but(last_loss=0.01, plateau=True))
    assert "λ_min of K̂_0 is 0 to rounding" in found.why


def test_each_setting_of_a_sweep_has_its_own_verdict() -> None:
    good, bad = sweep(BY_WIDTH), sweep(BY_WIDTH.but(exponents={"kernel_drift": 0.0}))
    both = type(good)(*(_joined(getattr(good, f.name), getattr(bad, f.name)) for f in dataclasses.fields(good)))
    verdicts = judge(both, [ClaimEntry(name="frozen-kernel")])
    assert [(each.case, each.verdict) for each in verdicts] == [
        ("activation erf", "supported"),
        ("activation sin", "refuted"),
    ]


def _joined(first, second):  # type: ignore[no-untyped-def]
    import pandas as pd

    other = second.assign(run_id=second["run_id"] + "b")
    if "network.activation" in other:
        other["network.activation"] = "sin"
    return pd.concat([first, other])


@pytest.mark.parametrize(
    ("laws", "expect", "code"),
    [
        (BY_WIDTH.but(diverged=1), None, 1),
        (BY_WIDTH.but(diverged=1), "diverged", 0),
        (BY_WIDTH, "diverged", 3),
        (BY_WIDTH, None, 0),
        (BY_WIDTH.but(missing=1), None, 5),
    ],
)
def test_exit_codes_without_claims(laws: Laws, expect: str | None, code: int) -> None:
    assert judgement(sweep(laws), [], expect).code == code


def test_the_document_has_the_keys_of_the_contract_and_is_read_back_as_it_was_written() -> None:
    entries = [ClaimEntry(name="frozen-kernel"), ClaimEntry(name="lazy-weights", first=[-0.7, None])]  # type: ignore[call-arg]
    judged = judgement(sweep(BY_WIDTH.but(missing=1)), entries, "diverged")
    text = json_text(judged.model_dump())
    document = json.loads(text)
    keys = {"name", "statement", "verdict", "estimate", "interval", "expected", "fit_range", "why", "thresholds_hash"}
    assert all(keys <= set(each) for each in document["claims"])
    assert document["claims"][1]["parts"][0]["expected"] == [-0.7, None]
    assert document["runs"] == {"planned": 24, "done": 23, "diverged": 0, "failed": 0, "missing": 1}
    again = Judgement.model_validate(document)
    assert json_text(again.model_dump()) == text
    assert again.claims[1].parts[0].expected == (-0.7, math.inf)
    assert (again.code, again.claims[0].reason) == (judged.code, Reason.UNFINISHED)


def test_a_reason_says_which_numbers_it_needs_and_decides_the_verdict() -> None:
    """Every sentence can be written, each in other words, and only two reasons decide."""
    assert {reason for reason in Reason if reason.verdict != "inconclusive"} == {Reason.INSIDE, Reason.OUTSIDE}
    named = [{name for _, name, _, _ in Formatter().parse(reason.text) if name} for reason in Reason]
    sentences = [str(reason.of(**dict.fromkeys(names, 1))) for reason, names in zip(Reason, named, strict=True)]
    assert len({*sentences}) == len(Reason) - 1  # ok and inside say nothing
    assert all("{" not in sentence for sentence in sentences)


def test_open_margins() -> None:
    assert interval_of([None, 0.5]) == (-math.inf, 0.5)
    assert interval_of([1, None]) == (1.0, math.inf)
