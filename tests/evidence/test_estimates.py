"""Exponents and levels against calculations done another way, and intervals against what they promise."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ntkrun.evidence.estimates.cases import AXES, Case, cases
from ntkrun.evidence.estimates.exponents import Slope
from ntkrun.evidence.estimates.intervals import (
    at_infinity,
    fit_exponent,
    fit_limit,
    holm,
    jackknife_logs,
    level,
    monotonicity,
    pooled,
)
from ntkrun.evidence.estimates.levels import Height, Limit
from ntkrun.evidence.estimates.parts import column_of
from ntkrun.evidence.estimates.per_run import done, per_run
from tests.evidence.laws import Laws, sweep
from tests.evidence.synthetic import tables

WIDTHS = (64, 128, 256, 512, 1024)


def _sample(
    draw: np.random.Generator, seeds: int | list[int], slope: float = -0.9, scatter: tuple[float, ...] = (0.1,) * 5
) -> tuple[np.ndarray, np.ndarray]:
    counts = [seeds] * len(WIDTHS) if isinstance(seeds, int) else seeds
    widths = np.repeat(WIDTHS, counts).astype(float)
    noise = np.repeat(scatter, counts) * draw.standard_normal(len(widths))
    return widths, 3 * widths**slope * np.exp(noise)


def test_the_limit_of_a_law_with_a_root_of_the_width_is_its_constant() -> None:
    """Two means on m + c n^(-1/2) give m; its interval is that of the contrast, √(Σ c² s²/k) at Welch's degrees."""
    spread = np.array([-1.0, 0.0, 1.0])
    low, high = at_infinity((64, 3 + 8 / 8 + spread), (256, 3 + 8 / 16 + spread))
    assert (low + high) / 2 == pytest.approx(3, rel=1e-12)
    parts = np.array([1.0, 4.0]) / 3  # c = -1 and 2, s² = 1, k = 3
    freedom = parts.sum() ** 2 / (parts**2 / 2).sum()
    half = stats.t.ppf(0.975, freedom) * math.sqrt(parts.sum())
    assert (high - low) / 2 == pytest.approx(half, rel=1e-12)
    assert math.isnan(at_infinity((64, [1.0]), (256, [1.0, 2.0]))[0])


def test_slope_is_that_of_ordinary_least_squares_over_all_runs() -> None:
    """Weighting the widths' means by their seeds is the line through all runs."""
    widths, values = _sample(np.random.default_rng(0), [5, 3, 4, 2, 6])
    found = fit_exponent(widths, values)
    line = stats.linregress(np.log(widths), np.log(values))
    assert found.slope == pytest.approx(line.slope, rel=1e-12)
    assert found.log_constant == pytest.approx(line.intercept, rel=1e-12)
    assert found.fit_range == (64, 1024)
    assert found.counts == dict(zip(WIDTHS, [5, 3, 4, 2, 6], strict=True))


def test_a_slope_between_two_widths_is_welchs_interval() -> None:
    """With two widths the slope is the difference of two means over log 2: Welch's t interval, as scipy has it."""
    draw = np.random.default_rng(1)
    widths = np.repeat([64.0, 128.0], [4, 7])
    values = np.exp(np.concatenate([draw.normal(0, 0.3, 4), draw.normal(-1, 0.05, 7)]))
    found = fit_exponent(widths, values)
    welch = stats.ttest_ind(np.log(values[4:]), np.log(values[:4]), equal_var=False).confidence_interval(0.95)
    assert found.interval == pytest.approx((welch.low / math.log(2), welch.high / math.log(2)), rel=1e-10)


@pytest.mark.parametrize(
    ("seeds", "scatter"),
    [
        (3, (0.1,) * 5),
        (5, (0.3, 0.2, 0.1, 0.05, 0.02)),
        ([10, 10, 10, 10, 4], (0.3, 0.2, 0.1, 0.05, 0.02)),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(seeds: int | list[int], scatter: tuple[float, ...]) -> None:
    """600 repetitions: 95 % within four binomial standard errors, 3.6 points."""
    draw = np.random.default_rng(2)
    hits = []
    for _ in range(600):
        low, high = fit_exponent(*_sample(draw, seeds, scatter=scatter)).interval
        hits.append(low <= -0.9 <= high)
    assert abs(np.mean(hits) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 600)


def test_single_seeds_are_judged_by_their_scatter_about_the_line() -> None:
    widths, values = _sample(np.random.default_rng(3), 1)
    found = fit_exponent(widths, values)
    line = stats.linregress(np.log(widths), np.log(values))
    half = stats.t.ppf(0.975, 3) * line.stderr
    assert found.interval == pytest.approx((line.slope - half, line.slope + half), rel=1e-10)


def test_narrow_widths_that_bend_the_line_are_dropped() -> None:
    """y = 1/n + 40/n² is a power law only where n is well beyond 40."""
    draw = np.random.default_rng(4)
    widths = np.repeat([16.0, 32, 64, 128, 256, 512, 1024, 2048, 4096], 10)
    values = (1 / widths + 40 / widths**2) * np.exp(0.01 * draw.standard_normal(len(widths)))
    found = fit_exponent(widths, values)
    assert found.fit_range[0] > 64
    assert found.fit_range[1] == 4096
    assert found.asymptotic or len(found.counts) == 3


def test_a_curve_to_its_end_is_called_not_asymptotic() -> None:
    widths = np.repeat([64.0, 128, 256, 512], 10)
    values = np.exp(-0.2 * np.log(widths) ** 2 + 1e-3 * np.random.default_rng(5).standard_normal(len(widths)))
    found = fit_exponent(widths, values)
    assert found
    assert not found.asymptotic
    assert found.fit_range == (128, 512)


def test_widths_below_the_smallest_are_left_out() -> None:
    widths, values = _sample(np.random.default_rng(6), 5)
    assert fit_exponent(widths, values, smallest=128).fit_range[0] == 128


@pytest.mark.parametrize(
    ("widths", "values", "why"),
    [
        ([64, 64], [1, 2], "at two values of the axis, and there are 1"),
        ([64, 128], [0, 1], "at two values of the axis, and there are 1"),
        ([64, 128], [math.nan, 1], "at two values of the axis, and there are 1"),
        ([64, 128], [1, 2], "one seed at each of two values"),
        ([], [], "at two values of the axis, and there are 0"),
    ],
)
def test_no_slope_has_a_reason(widths: list[float], values: list[float], why: str) -> None:
    found = fit_exponent(widths, values)
    assert not found.status.ok
    assert why in str(found.status)
    assert math.isnan(found.slope)


def test_paired_runs_have_exponents_of_their_own() -> None:
    """What the runs of one seed share drops out: the interval is that of the mean of each seed's own slope."""
    draw = np.random.default_rng(7)
    at = np.tile([1.0, 2, 4, 8], 6)
    seeds = np.repeat(range(6), 4)
    shared, own = np.repeat(draw.normal(0, 2, 6), 4), draw.normal(0, 0.01, 24)
    values = at**1.5 * np.exp(shared + own)
    order = draw.permutation(24)
    found = fit_exponent(at[order], values[order], pairs=seeds[order])
    slopes = [np.polyfit(np.log(at[seeds == s]), np.log(values[seeds == s]), 1)[0] for s in range(6)]
    assert found.slope == pytest.approx(np.mean(slopes), rel=1e-10)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 5, np.mean(slopes), stats.sem(slopes)), rel=1e-9)
    unpaired = fit_exponent(at, values).interval
    assert unpaired[1] - unpaired[0] > 20 * (found.interval[1] - found.interval[0])
    missing = np.arange(24) != 5  # one run of seed 1: the others say what they say
    kept = [slope for k, slope in enumerate(slopes) if k != 1]
    assert fit_exponent(at[missing], values[missing], pairs=seeds[missing]).slope == pytest.approx(np.mean(kept))


def test_a_law_of_small_values_drops_the_large_ones() -> None:
    at = np.repeat([0.01, 0.02, 0.04, 0.08, 0.8, 2.0], 5)
    values = at * (1 + at) * np.exp(0.001 * np.random.default_rng(8).standard_normal(30))
    found = fit_exponent(at, values, towards="small")
    assert found.fit_range[0] == 0.01
    assert found.fit_range[1] < 2.0


def test_jackknife_replicates_of_a_variance() -> None:
    """Against the delete-one jackknife written out; and the mean is less biased than log of the variance itself."""
    values = pd.DataFrame({"y": np.random.default_rng(9).normal(0, 3, 8)}, index=range(8))
    found = jackknife_logs(values, lambda part: float(part["y"].var()))
    whole = math.log(values["y"].var())
    expected = [8 * whole - 7 * math.log(values["y"].drop(k).var()) for k in range(8)]
    assert sorted(found) == pytest.approx(sorted(expected))
    assert len(jackknife_logs(values, lambda part: -1.0)) == 0
    assert len(jackknife_logs(values.iloc[:1], lambda part: 1.0)) == 0


def test_the_interval_of_a_variance_holds_it_for_heavy_tails_too() -> None:
    """Of 200 lognormal values, as a narrow network's kernel nearly is. In 1500 repetitions 90 % did (of heavy tails the
    jackknife sees a little less than there is); four binomial standard errors of 120 are 11 points. The interval of a
    normal sample's variance held 61 %."""
    draw, variance, held = np.random.default_rng(0), 0.4, 0
    scatter = math.log(1 + variance)
    for _ in range(120):
        sample = pd.DataFrame({"y": np.exp(draw.normal(-scatter / 2, math.sqrt(scatter), 200))})
        value, (low, high) = pooled(sample, lambda part: float(part["y"].to_numpy().var(ddof=1)))
        assert low < value < high
        held += low < variance < high
    assert held / 120 > 0.79


def test_a_pooled_statistic_without_replicates_has_no_interval() -> None:
    value, interval = pooled(pd.DataFrame({"y": [3.0]}), lambda part: float(part["y"].sum()))
    assert value == 3.0
    assert np.isnan(interval).all()


def test_a_pooled_statistic_that_may_be_zero_has_the_interval_of_its_own_replicates() -> None:
    """The mean: its pseudo-values are the values, whatever their sign."""
    sample = pd.DataFrame({"y": [-1.0, 2.0, 0.5, -1.5]})
    value, interval = pooled(sample, lambda part: float(part["y"].mean()), positive=False)
    assert value == 0.0
    assert interval == pytest.approx(level(sample["y"]).interval)


def test_monotonicity_is_the_share_of_ordered_pairs() -> None:
    tau, p = monotonicity([1, 2, 3, 4, 5, 6], [9, 8, 7, 5, 6, math.nan])
    assert tau == pytest.approx(-(9 - 1) / 10)  # of ten pairs nine fall
    assert 0 < p < 0.1


def test_holm_is_the_textbook_adjustment() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_noiseless_power_law_is_exact() -> None:
    widths = np.repeat([64.0, 128, 256], 2)
    found = fit_exponent(widths, 5 * widths**-0.75)
    assert found.slope == pytest.approx(-0.75, rel=1e-12)
    assert found.interval == pytest.approx((-0.75, -0.75), rel=1e-9)
    assert found.asymptotic


DIGITS = st.integers(-4, 4)  # of a logarithm, in units of its last place: what another processor may make of it


@given(
    slope=st.floats(-2, 1),
    last_digits=st.lists(DIGITS, min_size=15, max_size=15),
    size=st.sampled_from([1e-250, 1e-6, 1.0, 1e9, 1e200]),
    paired=st.booleans(),
)
def test_rounding_is_no_scatter_and_no_curvature(
    slope: float, last_digits: list[int], size: float, paired: bool
) -> None:
    """A power law that holds but for the last digits is a power law: fitted over all widths, and its interval holds the
    estimate and the truth. 1e-11: ROUNDING = 1e-12 of logarithms up to 575, times the t quantile, over Δlog n."""
    widths, pairs = np.repeat(WIDTHS, 3).astype(float), list(range(3)) * 5
    logs = math.log(size) + slope * np.log(widths)
    values = np.exp(logs + np.array(last_digits) * np.spacing(np.maximum(np.abs(logs), 1)))
    found = fit_exponent(widths, values, pairs=pairs if paired else None)
    assert found.asymptotic
    assert found.fit_range == (64, 1024)
    low, high = found.interval
    assert low <= found.slope <= high
    assert high - low < 1e-11
    assert found.slope == pytest.approx(slope, abs=1e-11)


@given(
    seed=st.integers(0, 2**32 - 1), scatter=st.sampled_from([0.0, 1e-15, 1e-9, 1.0]), seeds=st.integers(1, 4),
    bend=st.sampled_from([0.0, 1e-14, 0.01, 1.0]), paired=st.booleans(),
)  # fmt: skip
def test_an_interval_holds_its_estimate(seed: int, scatter: float, seeds: int, bend: float, paired: bool) -> None:
    """To the last digit, whatever the scatter and the curvature."""
    widths, values = _sample(np.random.default_rng(seed), seeds, scatter=(scatter,) * 5)
    values = values * np.exp(bend * np.log(widths / 64) ** 2)
    pairs = list(range(seeds)) * 5 if paired else None
    found = fit_exponent(widths, values, pairs=pairs)
    assert found.interval[0] <= found.slope <= found.interval[1]


@given(seed=st.integers(0, 2**32 - 1), positive=st.booleans(), seeds=st.integers(2, 9))
def test_a_pooled_interval_holds_its_statistic(seed: int, positive: bool, seeds: int) -> None:
    """The jackknife's interval is centred elsewhere: on skewed samples of few seeds it can miss the statistic."""
    sample = pd.DataFrame({"value": np.random.default_rng(seed).lognormal(0, 2, seeds)}, index=range(seeds))
    value, (low, high) = pooled(sample, lambda part: float(part["value"].var(ddof=0)) + 1e-9, positive)
    assert math.isnan(low) or low <= value <= high


def test_a_curvature_above_rounding_is_still_seen() -> None:
    """Of values without any scatter, a bend of 1e-8 is one."""
    widths, values = _sample(np.random.default_rng(0), 3, scatter=(0.0,) * 5)
    assert not fit_exponent(widths, values * np.exp(1e-8 * np.log(widths / 64) ** 2)).asymptotic


def test_level_is_the_t_interval_of_a_mean() -> None:
    values = [1.0, 2.0, 4.0]
    found = level(values)
    reference = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.standard_error == pytest.approx(stats.sem(values))
    assert found.interval == pytest.approx(reference)
    assert level([3.0]).mean == 3.0
    assert math.isnan(level([3.0]).standard_error)
    assert level([]).count == 0


def test_per_run_takes_sups_and_ends_of_finished_runs() -> None:
    runs, steps, layers = tables({8: 2, 16: 1})
    steps.loc[(steps["run_id"] == "w8s0") & (steps["step"] == 10), "kernel_drift"] = 9.0  # the sup lies inside
    runs.loc[runs["run_id"] == "w16s0", "status"] = "diverged"
    shuffled = steps.sample(frac=1, random_state=0)
    found = done(per_run(runs, shuffled, layers)).set_index("run_id")
    assert found.index.tolist() == ["w8s0", "w8s1"]
    assert found.loc["w8s0", "kernel_drift"] == 9.0
    assert found["loss"].to_numpy() == pytest.approx(0.5 * math.exp(-10))
    assert found["loss_ratio"].to_numpy() == pytest.approx(math.exp(-10))
    by_layer = layers[layers["run_id"] == "w8s1"].groupby("layer")["weight_drift"].max()
    assert found.loc["w8s1", ["weight_drift.0", "weight_drift.1"]].tolist() == by_layer.tolist()


def test_no_runs_at_all() -> None:
    runs, steps, layers = tables({8: 1})
    assert per_run(runs.iloc[:0], steps.iloc[:0], layers.iloc[:0]).empty
    assert isinstance(per_run(runs, steps, layers), pd.DataFrame)


# ---------------------------------------------------------------- levels at infinite width


def _inverse(n: float) -> float:
    return 1 / n


def _near_one(draw: np.random.Generator, networks: int, c: float = 2.0, d: float = 0.0) -> dict[float, np.ndarray]:
    """A number 1 + c/n + d/n² of networks, with n Var = 3, at each width."""
    return {float(n): 1 + c / n + d / n**2 + math.sqrt(3 / n) * draw.standard_normal(networks) for n in WIDTHS}


def test_the_limit_is_the_intercept_of_the_weighted_line() -> None:
    """Against scipy's least squares with weights k/x, and exact on a line without scatter."""
    draw = np.random.default_rng(11)
    replicates = {at: values[: 20 + k] for k, (at, values) in enumerate(_near_one(draw, 30).items())}
    found = fit_limit(replicates, _inverse)
    x = np.array([1 / at for at in replicates])
    means = [values.mean() for values in replicates.values()]
    weights = np.array([len(values) for values in replicates.values()]) / x
    assert found.value == pytest.approx(np.polyfit(x, means, 1, w=np.sqrt(weights))[1], rel=1e-12)
    assert found.fit_range == (64, 1024)
    assert found.counts == {float(n): 20 + k for k, n in enumerate(WIDTHS)}
    exact = fit_limit({float(n): np.full(3, 1 + 2 / n) for n in WIDTHS}, _inverse)
    assert exact.value == pytest.approx(1, rel=1e-12)
    assert exact.interval == pytest.approx((1, 1), rel=1e-12)


@pytest.mark.parametrize(("networks", "d"), [(5, 0.0), (200, 0.0), (200, 60.0)])
def test_intervals_of_limits_cover_the_truth(networks: int, d: float) -> None:
    """600 repetitions: 95 % but for four binomial standard errors, 3.6 points, and 2 points for choosing the range by
    the same data and for a term d/n² of one standard error of the narrowest mean (94, 95 and 93 % of 4000)."""
    draw, held = np.random.default_rng(12), 0
    for _ in range(600):
        low, high = fit_limit(_near_one(draw, networks, d=d), _inverse).interval
        held += low <= 1 <= high
    assert held / 600 > 0.95 - 0.036 - 0.02


def test_a_limit_that_is_one_percent_off_is_seen() -> None:
    """4000 networks per width, n Var = 3: the interval lies within half a percent of the truth, so that 1 % is
    refuted, in each of 100 repetitions."""
    draw = np.random.default_rng(13)
    intervals = [fit_limit(_near_one(draw, 4000), _inverse, 0.99).interval for _ in range(100)]
    assert all(0.995 < low <= high < 1.005 for low, high in intervals)


def test_a_curve_that_three_values_do_not_straighten_widens_the_interval() -> None:
    """c/n + d/n² without scatter: the line through the three widest misses the truth, and the parabola meets it."""
    draw = np.random.default_rng(14)
    curved = {float(n): 1 + 2 / n + 500 / n**2 + 1e-6 * draw.standard_normal(50) for n in WIDTHS}
    found = fit_limit(curved, _inverse)
    assert found.fit_range == (256, 1024)
    assert found.value != pytest.approx(1, abs=1e-4)
    assert found.interval[0] <= 1 <= found.interval[1]


# ---------------------------------------------------------------- parts


def _case(laws: Laws, axis: str = "width") -> Case:
    (case,) = cases(sweep(laws), AXES[axis])
    return case


def test_a_limit_needs_three_values_and_three_seeds() -> None:
    part = Limit("level", (0.9, 1.1), column_of, column="limit_projection_0")

    def why(laws: Laws) -> str:
        ((_, measure),) = part.measures(_case(laws), (0.9, 1.1))
        return measure(0.95).status.reason.value

    assert why(Laws()) == "ok"
    assert why(Laws(values=(64, 128))) == "few-values"
    assert why(Laws(seeds=2)) == "few-seeds"


def test_a_height_is_measured_where_it_says() -> None:
    """At the widest, the narrowest, or at every value; each is the t interval of its own runs."""
    case = _case(Laws())

    def ats(where: str) -> dict[str, float]:
        part = Height("level", (0.9, 1.1), column_of, column="limit_projection_0", where=where)
        return {label: measure(0.95).fit_range[0] for label, measure in part.measures(case, (0.9, 1.1))}

    assert ats("widest") == {"level": 512.0}
    assert ats("narrowest") == {"level": 64.0}
    assert ats("each") == {f"level at {at}": float(at) for at in (64, 128, 256, 512)}
    part = Height("level", (0.9, 1.1), column_of, column="limit_projection_0", where="each")
    found = part.measures(case, (0.9, 1.1))[1][1](0.95)
    assert found.interval == pytest.approx(level(case.at(128.0)["limit_projection_0"]).interval)


def test_kinks_are_judged_by_the_root_mean_square_over_seeds() -> None:
    """Where half the networks flip no gate, their residual falls like η and that of the others like √η: the mean
    logarithm falls at a rate in between, and the root mean square like √η at small η."""
    tables = sweep(
        Laws(axis="training.step_size", values=(0.001, 0.01, 0.1), seeds=20, smoothness="kinked", scatter=0.01)
    )
    eta = tables.steps["run_id"].str.split("-").str[0].astype(float)
    flips = tables.steps["run_id"].str.split("-").str[1].astype(int) % 2 == 0
    tables.steps["descent_residual"] = np.where(flips, np.sqrt(eta), 0.1 * eta)
    slopes = {}
    for pooled_over_seeds in (False, True):
        part = Slope("run", "descent_residual", (0.9, 1.1), (0.4, 1.1), pooled=pooled_over_seeds)
        (case,) = cases(tables, AXES["step size"])
        ((_, measure),) = part.measures(case, (0.4, 1.1))
        slopes[pooled_over_seeds] = measure(0.95).value
    assert slopes[False] == pytest.approx(0.75, abs=1e-6)
    assert slopes[True] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("widths", "at"),
    [
        (["[128, 64, 256]", "[256, 128, 512]"], [64, 128]),
        (["[128, 16, 128]", "[256, 16, 256]"], [128, 256]),  # the narrowest is the same: what varies is the widest
        ([64, 128], [64, 128]),
        (["64", "[128, 128]"], [64, 128]),
        ([[64, 32], [64, 64]], [32, 64]),
        (["[]"], [0]),  # no hidden layers
    ],
)
def test_the_width_of_unequal_layers_is_that_of_the_narrowest(widths: list[object], at: list[float]) -> None:
    runs = pd.DataFrame({"network.width": pd.Series(widths, dtype=object)})
    assert AXES["width"].values(runs).tolist() == at
