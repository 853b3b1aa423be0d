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
from ntkrun.evidence.estimates.intervals import fit_exponent
from ntkrun.evidence.estimates.per_run import per_run
from ntkrun.evidence.reasons import Reason
from ntkrun.evidence.records import Judgement, Verdict, interval_of
from ntkrun.text import json_text
from tests.evidence.laws import Laws, ending_together, sweep

BY_WIDTH = Laws()
TWELVE = Laws(seeds=12)
UNTRAINED = Laws(steps=(0,), seeds=2500, values=(128, 512, 2048))
OUTPUTS = UNTRAINED.but(seeds=6000, outputs=4)
JOINT = Laws(steps=(0,), seeds=8000, outputs=6, values=(128, 256, 512), fluctuation=24.0)
ONE_LAYER = Laws(steps=(0,), seeds=2000, values=(64,), config={"network.depth": 1}, levels={"distance_to_limit": 1e-7})
PROPORTIONAL = Laws(steps=(0,), seeds=1000, values=(32, 64, 128), depths=(3, 6, 12), variance=0.0)
TRAINED = Laws(steps=(0, 100), seeds=3000, outputs=1, values=(64, 128, 256))
CLIPPED = Laws(config={"training.loss": "huber"})
BY_STEP = Laws(axis="training.step_size", values=(0.1, 0.2, 0.4, 0.8))
ON_BATCHES = BY_STEP.but(config={"training.batch": "8"}, seeds=60, values=(0.05, 0.1, 0.2, 0.4, 0.8))
EDGE = Laws(axis="training.step_size", values=(0.5, 1.0, 1.5, 1.95, 2.05, 3.0))
BY_SCALE = Laws(axis="training.output_scale", seeds=40, values=tuple(f'{{"centred": {a}}}' for a in (8, 32, 128, 512)))

# Of each claim: a world where it holds.
WORLDS = {
    "kernel-gradient-descent": BY_STEP,
    "exact-kernel": BY_WIDTH,
    "gaussian-output": OUTPUTS,
    "conditional-normality": OUTPUTS,
    "independent-runs": OUTPUTS,
    "layer-covariance": UNTRAINED,
    "kernel-recursion": UNTRAINED,
    "one-layer": ONE_LAYER,
    "independent-outputs": JOINT,
    "deterministic-kernel": UNTRAINED,
    "kernel-variance": UNTRAINED,
    "depth-over-width": PROPORTIONAL,
    "diagonal-kernel": BY_WIDTH,
    "positive-kernel": BY_WIDTH,
    "frozen-kernel": BY_WIDTH,
    "lazy-weights": TWELVE,
    "frozen-activations": BY_WIDTH,
    "bounded-initialisation": TWELVE,
    "bounded-backpropagation": BY_WIDTH,
    "subnetwork-kernels": BY_WIDTH,
    "weight-speed": BY_WIDTH,
    "growth-bound": BY_WIDTH,
    "linear-dynamics": BY_WIDTH,
    "exponential-convergence": BY_WIDTH,
    "global-minimum": BY_WIDTH,
    "nearby-minimum": BY_WIDTH,
    "limit-ensemble": TRAINED,
    "nngp-ensemble": TRAINED.but(follows="nngp"),
    "training-direction": CLIPPED,
    "stochastic-gradient": ON_BATCHES,
    "stability-edge": EDGE,
    "catapult": EDGE,
    "lazy-by-scale": BY_SCALE,
    "lazy-regime": BY_WIDTH,
}


def _judge(name: str, laws: Laws, **asks: object) -> Verdict:
    (found,) = judge(ending_together(laws), [ClaimEntry(name=name, **asks)])  # type: ignore[arg-type]
    return found


def test_the_parts_of_a_claim_share_its_chance_of_a_false_refutation() -> None:
    """The confidence of each of k parts is 1 - 5 %/k."""
    tables, parts = ending_together(BY_WIDTH), _judge("lazy-weights", BY_WIDTH).parts
    runs = per_run(tables.runs, tables.steps, tables.layers)
    (first,) = (part for part in parts if part.part == "first")
    expected = fit_exponent(runs["network.width"], runs["weight_drift.0"], confidence=1 - 0.05 / len(parts))
    assert first.interval == pytest.approx(expected.interval)


@pytest.mark.parametrize("name", ["frozen-kernel", "lazy-weights", "stability-edge"])
def test_a_selection_of_rows_is_judged_as_the_same_rows_numbered_anew(name: str) -> None:
    tables = ending_together(WORLDS[name].but(seeds=12))
    some = {
        field.name: (table := getattr(tables, field.name))[table["run_id"].isin(tables.plan["run_id"][1::2])]
        for field in dataclasses.fields(tables)
        if len(getattr(tables, field.name))
    }
    numbered = {key: table.reset_index(drop=True) for key, table in some.items()}
    found = [judge(dataclasses.replace(tables, **kept), [ClaimEntry(name=name)]) for kept in (some, numbered)]
    assert found[0] == found[1]
    assert found[0][0].verdict == "supported"


def test_every_claim_has_its_world() -> None:
    assert list(WORLDS) == list(CLAIMS)


@pytest.mark.parametrize("name", WORLDS)
def test_a_claim_is_supported_where_it_holds(name: str) -> None:
    """With every part, and the deciding one is the nearest to an edge of its margin."""
    found = _judge(name, WORLDS[name])
    assert found.verdict == "supported", [(each.part, each.why) for each in found.parts]
    low, high = found.interval
    assert low <= found.estimate <= high
    assert {each.part.split(",")[0].split()[0] for each in found.parts} == set(CLAIMS[name].keys)
    assert found.part == min(found.parts, key=lambda part: part.room).part


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
    tables = ending_together(laws.but(**changes))
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
    assert found.reason is Reason.CHANGES_WITH_WIDTH
    assert found.why.startswith("[1.31, 1.31] lies outside the expected")
    assert _judge("exponential-convergence", BY_WIDTH.but(mode_speed=1.4, mode_excess=7.0)).verdict == "refuted"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lazy-weights", {"exponents": {"weight_drift": -1.5}}),
        ("subnetwork-kernels", {"exponents": {"subnetwork_kernel_drift": -2.0}}),
        ("weight-speed", {"exponents": {"weight_speed": -2.0}}),
        ("growth-bound", {"exponents": {"growth": -2.0}}),
        ("bounded-initialisation", {"exponents": {"activation_norm": -0.5}}),
        ("bounded-backpropagation", {"exponents": {"backprop_norm": -0.5}}),
        ("nearby-minimum", {"exponents": {"weight_drift": -1.5}}),
        ("exponential-convergence", {"rate": 5.0}),
    ],
)
def test_a_bound_is_not_refuted_by_less(name: str, changes: dict[str, object]) -> None:
    """Where the theory says "at most", a faster decay agrees with it."""
    world = WORLDS[name]
    keep = {} if name != "lazy-weights" else {f"weight_drift.{k}": e for k, e in enumerate((-0.5, -1.0, -0.5))}
    changes = {key: {**keep, **value} if isinstance(value, dict) else value for key, value in changes.items()}
    assert _judge(name, world.but(**changes)).verdict == "supported"


@pytest.mark.parametrize(("column", "name"), [("kernel_drift", "frozen-kernel"), ("limit_projection", "")])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_values_that_no_sound_run_gives_refute(column: str, name: str, value: float) -> None:
    """In one run of many they are no reason to leave it out; in all of them nothing was measured."""
    name = name or "deterministic-kernel"
    if column == "limit_projection" and value == 0.0:
        pytest.skip("a projection may be 0")
    tables = sweep(WORLDS[name].but(seeds=30, values=(128, 256, 512, 1024)))
    one, every = tables.steps.copy(), tables.steps.copy()
    one.loc[one["run_id"] == "256-2", column] = value
    every[column] = math.nan
    (found,) = judge(dataclasses.replace(tables, steps=one), [ClaimEntry(name=name)])
    assert (found.verdict, found.reason) == ("refuted", Reason.IMPOSSIBLE)
    assert found.why.startswith("1 of 120 numbers of")
    (found,) = judge(dataclasses.replace(tables, steps=every), [ClaimEntry(name=name)])
    assert found.verdict == "inconclusive"
    assert Reason.NOT_MEASURED in [part.reason for part in found.parts]


def test_an_activation_that_no_theorem_is_about_is_measured_and_not_judged() -> None:
    found = _judge("frozen-kernel", BY_WIDTH.but(lipschitz=False, config={"network.activation": "relu2"}))
    assert (found.verdict, found.reason) == ("inconclusive", Reason.NOT_LIPSCHITZ)
    assert "relu2 is not Lipschitz" in found.why
    assert found.estimate < -0.9


def test_kinks_have_margins_of_their_own() -> None:
    """Kinks of σ' alone are not held to the margin of kinks of σ: -0.78 is elu's, -0.5 is not."""
    margins = {kind: _judge("frozen-kernel", BY_WIDTH.but(smoothness=kind)).expected for kind in ("smooth", "C1")}
    (part,) = CLAIMS["frozen-kernel"].parts
    assert margins == {"smooth": part.smooth, "C1": part.c1}
    verdicts = {
        (kind, exponent): _judge(
            "frozen-kernel", Laws(smoothness=kind, exponents={"kernel_drift": exponent}, scatter=0.005)
        ).verdict
        for kind in ("smooth", "C1", "kinked")
        for exponent in (-0.77, -0.5)
    }
    assert verdicts == {
        ("smooth", -0.77): "refuted",
        ("smooth", -0.5): "refuted",
        ("C1", -0.77): "supported",
        ("C1", -0.5): "refuted",
        ("kinked", -0.77): "supported",
        ("kinked", -0.5): "supported",
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("frozen-kernel", {"exponents": {"kernel_drift": CLAIMS["frozen-kernel"].parts[0].smooth[1]}}),  # type: ignore[attr-defined]
        ("subnetwork-kernels", {"exponents": {"subnetwork_kernel_drift": -0.35, "subnetwork_kernel_norm": 0.1}}),
    ],
)
def test_a_world_on_the_edge_of_the_margins_is_hardly_ever_refuted(name: str, change: dict[str, object]) -> None:
    """Of 200 redraws at an edge, intervals of 95 % for all parts together lie beyond it 5 times in the mean, one tail;
    12 are three standard deviations more. (They are many settings of one sweep, so that all are judged at once.)"""
    tables = sweep(Laws(seeds=800, steps=(0, 100), scatter=0.3).but(**change))
    plan, runs = (
        table.assign(**{"network.beta": table["seed"] // 4, "seed": table["seed"] % 4})
        for table in (tables.plan, tables.runs)
    )
    verdicts = [
        each.verdict for each in judge(dataclasses.replace(tables, plan=plan, runs=runs), [ClaimEntry(name=name)])
    ]
    assert len(verdicts) == 200
    assert verdicts.count("refuted") <= 12


def test_what_holds_at_every_width_is_judged_at_every_width() -> None:
    """A factor that is wrong at one width alone refutes it, though the widest is right."""
    tables = sweep(UNTRAINED.but(seeds=500, outputs=4))
    narrow = tables.outputs["run_id"].str.startswith("128-")
    tables.outputs.loc[narrow, "variance"] *= 1.3
    (found,) = judge(tables, [ClaimEntry(name="conditional-normality")])
    assert found.verdict == "refuted"
    assert found.part.endswith("at 128")


def test_a_part_that_is_not_about_a_case_is_left_out() -> None:
    """A single output has no pairs, and the squared error and the cross-entropy clip nothing."""
    parts = {part.part for part in _judge("conditional-normality", UNTRAINED.but(seeds=50, outputs=1)).parts}
    assert not any(part.startswith("outputs") for part in parts)
    entropy = _judge("training-direction", BY_WIDTH.but(config={"training.loss": "cross_entropy"}))
    assert entropy.verdict == "supported"
    assert "clipped" not in {part.part for part in entropy.parts}
    assert "clipped" in {part.part for part in _judge("training-direction", CLIPPED).parts}


def test_the_weakest_part_is_shown() -> None:
    """It is the one with the least room between its interval and an edge, in units of its margin."""
    near = finding("near", Estimate(0.9, (0.86, 0.94), seeds=9), (0.85, 1.15))
    far = finding("far", Estimate(1.0, (0.95, 1.05), seeds=9), (0.85, 1.15))
    open_end = finding("open", Estimate(0.05, (0.0, 0.09), seeds=9), (-math.inf, 0.1))
    out = finding("out", Estimate(0.5, (0.45, 0.55), seeds=9), (0.85, 1.15))
    assert near.room == pytest.approx(0.01 / 0.3)
    assert far.room == pytest.approx(0.1 / 0.3)
    assert open_end.room == pytest.approx(0.01 / 0.1)
    assert out.room == pytest.approx(-0.4 / 0.3)
    assert finding("", Estimate(), (0.85, 1.15)).room == -math.inf
    assert finding("", Estimate(1.0, (0.9, 1.1)), (-math.inf, math.inf)).room == math.inf


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
        ("stability-edge", EDGE.but(values=(2.05, 3.0, 4.0)), "the loss rises in every run"),
        ("gaussian-output", BY_WIDTH.but(seeds=2), "seed"),
        ("frozen-activations", BY_WIDTH.but(config={"network.depth": 1}), "depth 1 have no such layer"),
    ],
)
def test_what_cannot_be_judged_says_why(name: str, laws: Laws, why: str) -> None:
    found = _judge(name, laws)
    assert found.verdict == "inconclusive"
    assert why in found.why
    assert judgement(sweep(laws.but(diverged=0)), []).model_copy(update={"claims": (found,)}).code == 5


@pytest.mark.parametrize(
    ("changes", "interval"),
    [
        ({"edge": 0.1}, (0.0, 0.5)),
        ({"diverged": 36}, (0.0, 0.5)),
        ({"edge": 9.0, "values": (1.0, 2.0, 3.0)}, (3.0, math.inf)),
    ],
)
def test_an_edge_beyond_all_step_sizes_is_refuted_where_they_tell(changes: dict, interval: tuple) -> None:
    found = _judge("stability-edge", EDGE.but(**changes))
    assert found.verdict == "refuted"
    assert found.interval == pytest.approx(interval, rel=0.2)


def test_step_sizes_must_end_at_one_time() -> None:
    (found,) = judge(sweep(ON_BATCHES), [ClaimEntry(name="stochastic-gradient")])
    assert "vary training.steps" in found.why


def test_margins_of_a_config_change_the_verdict_and_its_hash() -> None:
    own = _judge("frozen-kernel", BY_WIDTH, exponent=(-0.8, -0.2))
    assert own.verdict == "refuted"
    assert own.expected == (-0.8, -0.2)
    assert own.thresholds_hash != _judge("frozen-kernel", BY_WIDTH).thresholds_hash


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
    """Every sentence can be written, each in other words, and only three reasons decide."""
    deciding = {reason for reason in Reason if reason.verdict != "inconclusive"}
    assert deciding == {Reason.INSIDE, Reason.OUTSIDE, Reason.IMPOSSIBLE}
    named = [{name for _, name, _, _ in Formatter().parse(reason.text) if name} for reason in Reason]
    sentences = [str(reason.of(**dict.fromkeys(names, 1))) for reason, names in zip(Reason, named, strict=True)]
    assert len({*sentences}) == len(Reason) - 1  # ok and inside say nothing
    assert all("{" not in sentence for sentence in sentences)


def test_open_margins() -> None:
    assert interval_of([None, 0.5]) == (-math.inf, 0.5)
    assert interval_of([1, None]) == (1.0, math.inf)
