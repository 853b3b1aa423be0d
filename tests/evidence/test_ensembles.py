"""Statistics of what networks compute, against plain loops."""

import numpy as np
import pandas as pd
import pytest

from ntkrun.evidence.estimates import ensembles
from ntkrun.evidence.estimates.ensembles import along_limit, inside, over_seeds
from tests.evidence.cases import case_of


def _outputs(runs: int = 3, steps: tuple[int, ...] = (0, 5, 9), inputs: int = 4) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    mean = {step: draw.standard_normal(inputs) for step in steps}
    rows = [
        {"run_id": f"r{run}", "step": step, "part": part, "input": i, "output": 0, "value": draw.standard_normal()}
        | {"limit_mean": mean[step][i], "limit_variance": 0.5 + i}
        for run in range(runs)
        for step in steps
        for part in ("train", "test")
        for i in range(inputs)
    ]
    return pd.DataFrame(rows)


def test_along_the_limit() -> None:
    table = _outputs()
    found = along_limit(table.sample(frac=1, random_state=1)).set_index(["run_id", "step"])
    assert len(found) == 9
    train = table[table["part"] == "train"]
    for (run_id, step), at in train.groupby(["run_id", "step"]):
        g = train[(train["run_id"] == run_id) & (train["step"] == 9)]["limit_mean"].to_numpy()
        g = g / np.sqrt((g**2).mean())
        f = at["value"].to_numpy()
        along = (f * g).mean()
        expected = (along, np.sqrt(((f - along * g) ** 2).mean()), (at["limit_mean"].to_numpy() * g).mean())
        row = found.loc[(run_id, step)]
        # A difference of two squares of order one.
        assert (row["along"], row["orthogonal"], row["limit"]) == pytest.approx(expected, abs=1e-12)


def test_inside_and_over_seeds() -> None:
    table = _outputs()
    for run_id, share in inside(table, 1.0).items():
        rows = table[table["run_id"] == run_id]
        hits = [abs(r.value - r.limit_mean) <= r.limit_variance**0.5 for r in rows.itertuples()]
        assert share == np.mean(hits)
    test = table[table["part"] == "test"]
    found = over_seeds(test).set_index(["step", "input"])
    values = test[(test["step"] == 5) & (test["input"] == 2)]["value"]
    row = found.loc[(5, 2)]
    assert row["count"] == 3
    assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std()))
    assert row["limit_variance"] == 2.5


def test_variances_over_networks_are_relative_to_the_limit() -> None:
    kernel, variance = np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0, 5.0])
    table = pd.DataFrame({"part": "train", "input": 0, "variance": variance, "kernel": kernel, "limit_kernel": 2.0})
    assert ensembles.kernel_variance(table) == pytest.approx(7.0 / 2.0**2)
    assert ensembles.excess_kurtosis(table) == pytest.approx(3 * 4.0 / 3.0**2)


def _trained(seeds: int = 5, inputs: int = 3) -> pd.DataFrame:
    """Two outputs on train and test inputs, at steps 0, 4 and 9, beside two laws without any relation to them."""
    draw = np.random.default_rng(1)
    keys = [(s, step, part, x, o) for s in range(seeds) for step in (0, 4, 9) for part in ("train", "test")
            for x in range(inputs) for o in range(2)]  # fmt: skip
    table = pd.DataFrame(keys, columns=["seed", "step", "part", "input", "output"]).assign(width=64)
    table["value"] = draw.standard_normal(len(table))
    for law in (ensembles.LIMIT, ensembles.NNGP):
        of_input = {key: 1 + draw.random(3) for key in {(step, x) for _, step, _, x, _ in keys}}
        for k, name in enumerate(("mean", "variance", "covariance")):
            table[f"{law}_{name}"] = [of_input[step, x][k] for _, step, _, x, _ in keys]
    return table


@pytest.mark.parametrize("law", [ensembles.LIMIT, ensembles.NNGP])
@pytest.mark.parametrize("step", ["", "4"])
def test_trained_networks_against_a_law(step: str, law: str) -> None:
    table = _trained()
    case, rows = case_of(table), table[(table["step"] == int(step or 9)) & (table["part"] == "test")]
    assert ensembles.kept_steps(case) == [4, 9]
    of_input = rows.groupby("input").first()
    m, v, c = (of_input[f"{law}_{name}"].to_numpy() for name in ("mean", "variance", "covariance"))
    values = rows.set_index(["seed", "input", "output"])["value"]
    off = {key: value - m[key[1]] for key, value in values.items()}
    for seed in range(5):
        own = [(x, o) for x in range(3) for o in range(2)]
        learned = sum(values[seed, x, o] * m[x] for x, o in own) / sum(m[x] ** 2 for x, _ in own)
        assert ensembles.learned_part(case, 64.0, step, law)[seed] == pytest.approx(learned)
        spread = np.mean([off[seed, x, o] ** 2 / v[x] for x, o in own])
        assert ensembles.spread(case, 64.0, step, law)[seed] == pytest.approx(spread)
        dot = size = 0.0
        for x, o in own[2:]:
            rest = off[seed, x, o] - off[seed, 0, o] * c[x] / v[0]
            dot, size = dot + c[x] / v[x] * off[seed, 0, o] * rest, size + c[x] ** 2 / v[x]
        assert ensembles.covariance(case, 64.0, step, law)[seed] == pytest.approx(1 + dot / size)
    pairs = [off[a, x, o] * off[b, x, o] for a in range(5) for b in range(5) if a != b for x, o in own]
    bias = np.sum(pairs) / 20 / (2 * v.sum())  # over the 20 ordered pairs of seeds
    assert ensembles.bias(case, 64.0, step, law).mean() == pytest.approx(bias)


def test_without_kept_steps_or_a_law_there_is_nothing_to_say() -> None:
    table = _trained()
    table[["limit_mean", "limit_variance", "limit_covariance"]] = np.nan
    case = case_of(table)
    for statistic in (ensembles.learned_part, ensembles.bias, ensembles.spread, ensembles.covariance):
        assert statistic(case, 64.0).isna().all()
        assert statistic(case_of(table[table["step"] == 0]), 64.0).isna().all()
        assert statistic(case, 64.0, "7").empty
