"""The regression check on made-up runs whose law is known: what it finds, what it lets pass, when it will not say."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ntkrun.evidence.regression.baseline import RunRecord, records
from ntkrun.evidence.regression.check import check_figure
from ntkrun.evidence.regression.check_tables import check_document, check_table, worst
from ntkrun.evidence.regression.comparison import ALPHA, EFFECT, MARGIN, Check, compare, holm_levels

STEPS = (0, 1, 3, 10, 30, 100)
WIDTHS = (16, 32, 64)
NAMES = ("kernel_drift", "weight_drift", "weight_drift.0", "lambda_max", "linear_gap")


def made(
    seeds: Sequence[int], scatter: float = 0.3, widths: Sequence[int] = WIDTHS, key: int = 0, loss: float = 0.5
) -> list[RunRecord]:
    """Quantities exp(scatter·N(0,1))/width that grow over the steps, a loss that falls, a rate that is negative."""
    found = []
    for width in widths:
        for seed in seeds:
            draw = np.random.default_rng([key, width, seed])
            sizes = {name: float(np.exp(scatter * draw.standard_normal())) / width for name in NAMES}
            end = loss * float(np.exp(scatter * draw.standard_normal()))
            growth = [math.sqrt(step / STEPS[-1]) for step in STEPS]
            curves = {name: tuple(size * g for g in growth) for name, size in sizes.items() if "." not in name}
            found.append(
                RunRecord(
                    settings={},
                    width=width,
                    seed=seed,
                    dtype="float32",
                    status="done",
                    estimates={**sizes, "loss": end, "rate": -1 + 0.2 * scatter * draw.standard_normal()},
                    steps=STEPS,
                    curves=curves | {"loss": tuple(0.5 * (end / 0.5) ** g for g in growth)},
                )
            )
    return found


def times(runs: Sequence[RunRecord], name: str, factor: Callable[[RunRecord, int], float]) -> list[RunRecord]:
    """The estimate of that name, or with a '(t)' the curve, times a factor that may depend on run and step."""
    found = []
    for run in runs:
        if name.endswith("(t)"):
            stem = name.removesuffix("(t)")
            values = tuple(v * factor(run, step) for v, step in zip(run.curves[stem], run.steps, strict=True))
            found.append(run.model_copy(update={"curves": {**run.curves, stem: values}}))
        else:
            moved = {**run.estimates, name: run.estimates[name] * factor(run, STEPS[-1])}
            found.append(run.model_copy(update={"estimates": moved}))
    return found


def noisy(runs: Sequence[RunRecord], size: float) -> list[RunRecord]:
    draw = np.random.default_rng(1)
    for name in [*runs[0].estimates, *(f"{curve}(t)" for curve in runs[0].curves)]:
        runs = times(runs, name, lambda run, step: float(np.exp(size * draw.standard_normal())))
    return list(runs)


EVERY = [*made([0])[0].estimates, *(f"{name}(t)" for name in made([0])[0].curves)]


def test_the_very_same_runs_pass() -> None:
    check = compare(made(range(3)), made(range(3)))
    assert (check.verdict, check.code, check.problems) == ("fine", 0, ())
    assert {row.name for row in check.comparisons} == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("factor", [1.05, 1 / 1.05])
def test_a_change_of_five_per_cent_of_any_quantity_is_found_among_pairs(name: str, factor: float) -> None:
    now = times(made(range(3)), name, lambda run, step: factor)
    check = compare(now, made(range(3)))
    assert check.code == 3
    assert {row.name for row in check.regressions} == {name}
    (row,) = (row for row in check.regressions if row.place == "all widths")
    # A negative quantity that grows by a factor falls; its size is its rms over the seeds, so within its scatter.
    change, tolerance = (1 - factor, 0.1) if name == "rate" else (factor - 1, 1e-6)
    assert row.change == pytest.approx(change, rel=tolerance)
    assert row.interval[0] <= row.change <= row.interval[1]
    assert row.paired


def test_a_change_below_the_margin_is_no_alarm_however_sure_it_is() -> None:
    for name in EVERY:
        assert compare(times(made(range(3)), name, lambda run, step: 1.019), made(range(3))).code == 0


def test_rounding_of_another_machine_passes_and_a_change_under_it_is_found() -> None:
    now = noisy(made(range(3)), 1e-3)
    assert compare(now, made(range(3))).code == 0
    assert compare(times(now, "loss(t)", lambda run, step: 1.05), made(range(3))).code == 3


def test_a_change_at_one_width_or_one_step_is_found_and_placed() -> None:
    base = made(range(3))
    # A third of it in the mean over the widths, and so below the margin there.
    at_width = compare(times(base, "loss", lambda run, step: 1.05 if run.width == 32 else 1), base)
    assert [row.place for row in at_width.regressions] == ["width 32"]
    at_step = compare(times(base, "lambda_max(t)", lambda run, step: 1.05 if step == 10 else 1), base)
    assert [row.place for row in at_step.regressions] == ["step 10"]


def test_fresh_seeds_are_two_samples() -> None:
    few = compare(made(range(3)), made(range(10, 13)))
    assert few.code == 5
    assert few.seeds_needed > 100
    assert not any(row.paired for row in few.comparisons)
    many = compare(made(range(400), 0.05), made(range(400, 800), 0.05))
    assert many.code == 0
    moved = times(made(range(400), 0.05), "loss", lambda run, step: 1.05)
    found = compare(moved, made(range(400, 800), 0.05))
    assert {row.name for row in found.regressions} == {"loss"}


def test_the_seeds_asked_for_are_enough_and_not_many_too_many() -> None:
    few = compare(made(range(20), 0.1), made(range(100, 120), 0.1))
    asked = few.seeds_needed
    # The scatter of 20 seeds is known to 16 %, so the seeds that follow from the largest of eleven to some 60 %.
    assert compare(made(range(2 * asked), 0.1), made(range(5000, 5000 + 2 * asked), 0.1)).code == 0
    assert compare(made(range(asked // 4), 0.1), made(range(5000, 5000 + asked // 4), 0.1)).code == 5


@pytest.mark.parametrize("seeds", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (10, 40))])
def test_false_alarms_are_as_rare_as_stated(seeds: int) -> None:
    # At a rate of 1 %, five or more of 100 come up with a probability of 0.3 %.
    repeats = 100
    alarms = sum(
        compare(made(range(seeds), key=2 * k), made(range(900, 900 + seeds), key=2 * k + 1)).code == 3
        for k in range(repeats)
    )
    assert alarms < 5


@pytest.mark.slow
def test_false_alarms_between_fresh_seeds_of_the_engine(tmp_path: Path) -> None:
    from ntkrun.config.reader import parse_config
    from ntkrun.run.sweep import run_sweep
    from ntkrun.store.results_directory import Store

    config = """
name: null
network: {depth: 2, activation: erf}
data: {name: digits, samples: 8, test_samples: 4}
training: {steps: 20}
probes: {every: {log_spaced: 8}, kernels: []}
sweep: {grid: {network.width: [16, 32, 64]}, seeds: 1000}
"""
    tables = run_sweep(parse_config(config), tmp_path, "cpu")
    found = records(Store(tmp_path / "null").plan(), tables.runs, tables.steps, tables.layers)
    codes = []
    for first in range(0, 1000, 10):
        now, then = ([run for run in found if first + k <= run.seed < first + k + 5] for k in (0, 5))
        codes.append(compare(now, then).code)
    assert codes.count(3) < 5  # as above
    assert codes.count(0) == 0  # five seeds see no 5 %


def test_one_test_is_the_textbook_one() -> None:
    now, then = made(range(9), widths=[16]), made(range(50, 60), widths=[16])
    (row,) = (row for row in compare(now, then).comparisons if row.name == "lambda_max")
    a, b = ([math.log(run.estimates["lambda_max"]) for run in side] for side in (now, then))
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert math.log1p(row.change) == pytest.approx(np.mean(a) - np.mean(b))
    shifted = (abs(np.mean(a) - np.mean(b)) - math.log1p(MARGIN)) / (
        abs(np.mean(a) - np.mean(b)) / abs(welch.statistic)
    )
    assert row.p == pytest.approx(min(1, 2 * stats.t.sf(shifted, welch.df)), rel=1e-6)


@pytest.mark.slow
def test_power_is_what_it_says() -> None:
    """Repeats whose scatter is such that 5 % is just what is seen with power 0.8."""
    scatter, seeds = 0.05, 40
    found = judged = 0
    for k in range(100):
        then = made(range(seeds), scatter, [16], key=k)
        seen = next(
            r
            for r in compare(then, made(range(500, 500 + seeds), scatter, [16], key=k)).comparisons
            if r.name == "loss"
        ).sees
        now = times(made(range(500, 500 + seeds), scatter, [16], key=k), "loss", lambda run, step, by=seen: 1 + by)  # type: ignore[misc]
        check = compare(now, then)
        judged += 1
        found += any(row.name == "loss" and row.verdict == "regression" for row in check.comparisons)
    # 0.8 ± three binomial standard errors of 0.04.
    assert 0.68 < found / judged < 0.92


def test_an_interval_lies_beyond_the_margin_exactly_for_a_regression() -> None:
    base = made(range(4))
    for size in (1e-4, 3e-3, 1e-2, 3e-2):
        for factor in (1.0, 1.03, 1.05, 1.2):
            for row in compare(times(noisy(base, size), "loss", lambda run, step, by=factor: by), base).comparisons:  # type: ignore[misc]
                nearer = min(map(abs, row.interval)) if row.interval[0] * row.interval[1] > 0 else 0.0
                beyond = nearer > MARGIN if row.change > 0 else math.log1p(-nearer) < -math.log1p(MARGIN)
                if row.quantity != "rate":
                    assert beyond == (row.verdict == "regression"), row


def test_holm_levels_reject_what_holm_rejects() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        p = draw.uniform(0, 0.03, 8).tolist()
        rejected, order = set(), sorted(range(8), key=lambda k: p[k])
        for rank, k in enumerate(order):
            if p[k] > 0.05 / (8 - rank):
                break
            rejected.add(k)
        levels = holm_levels(p, 0.05)
        assert {k for k in range(8) if p[k] <= levels[k]} == rejected


def test_what_is_rounding_is_no_change_and_what_rises_above_it_is() -> None:
    low = made(range(3), loss=1e-13)

    def last(factor: float) -> list[RunRecord]:
        moved = times(low, "loss(t)", lambda run, step: factor if step == STEPS[-1] else 1.0)
        return times(moved, "loss", lambda run, step: factor)

    check = compare(last(3.0), low)
    assert check.code == 0
    assert dict(check.unjudged)["loss"] == "at the level of rounding on both sides"
    assert {row.name for row in compare(last(1e6), low).regressions} == {"loss", "loss(t)"}


def test_too_few_runs_are_never_a_pass() -> None:
    base = made(range(3))
    assert compare(made([0]), made([0])).code == 5
    assert compare(made([0, 7, 8]), base).code == 5
    missing = [run.model_copy(update={"status": "missing"}) if run.seed == 2 else run for run in made(range(3))]
    check = compare(missing, base)
    assert check.code == 5
    assert [problem.what for problem in check.problems] == [
        f"width {width}: 1 of 3 runs missing (seed 2)" for width in WIDTHS
    ]
    assert compare([], base).code == compare(base, []).code == 5
    assert compare(made(range(3), widths=[16, 32]), base).code == 5


def test_runs_that_diverge_unlike_before_are_exit_1_and_as_before_are_nothing() -> None:
    base = made(range(4))
    gone = [run.model_copy(update={"status": "diverged"}) if run.seed == 3 else run for run in base]
    assert compare(gone, base).code == 1
    assert compare(base, gone).code == 5
    assert compare(gone, gone).code == 0
    # Exit 1 comes before 3.
    assert compare(times(gone, "loss", lambda run, step: 1.5), base).code == 1
    all_gone = [run.model_copy(update={"status": "diverged"}) for run in base]
    assert compare(all_gone, all_gone).code == 5


def test_quantities_without_numbers_are_listed() -> None:
    def with_(runs: list[RunRecord], value: float | None) -> list[RunRecord]:
        return [run.model_copy(update={"estimates": {**run.estimates, "extra": value}}) for run in runs]

    base = made(range(3))
    assert dict(compare(with_(base, None), with_(base, None)).unjudged) == {"extra": "no numbers on either side"}
    stale = compare(with_(base, 1.0), base)
    assert (stale.code, stale.verdict, stale.new) == (3, "stale", ("extra",))
    assert compare(times(with_(base, 1.0), "loss", lambda run, step: 1.5), base).verdict == "regression"
    lost = compare(with_(base, None), with_(base, 1.0))
    assert lost.code == 5
    assert lost.problems[0].what == "extra: no number now where the baseline has one"
    assert compare(base, with_(base, 1.0)).code == 5


def test_table_document_and_figure_show_the_worst_first() -> None:
    check = compare(times(made(range(3)), "loss(t)", lambda run, step: 1.05 if step > 3 else 1.0), made(range(3)))
    assert worst(check)[0].name == "loss(t)"
    assert check_table(check).row_count == min(12, len(EVERY))
    document = check_document(check, _Known())  # type: ignore[arg-type]
    assert document["verdict"] == "regression"
    assert (document["false_alarm_rate"], document["margin"], document["effect"]) == (ALPHA, MARGIN, EFFECT)
    figure = check_figure(check)
    left, right = figure.axes
    assert left.get_yticklabels()[0].get_text().startswith("loss(t), ")
    assert right.get_title() == "loss(t)"
    assert check_figure(Check((), (), ())).axes  # nothing to draw is no error


class _Known:
    config_hash = "0"
    made_by: dict[str, str] = {}  # noqa: RUF012
