"""Statistics of what networks compute, against plain loops."""

import numpy as np
import pandas as pd
import pytest

from ntkrun.evidence.estimates.ensembles import along_limit, inside, over_seeds


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
