"""Baseline files: what is written is read, and nothing else is."""

import json
from pathlib import Path

import numpy as np
import pytest

from ntkrun.errors import UserError
from ntkrun.evidence.estimates.per_run import done, per_run
from ntkrun.evidence.regression.baseline import changes, differing_keys, read_baseline, records, written
from tests.evidence.synthetic import tables

DESCRIPTION = {
    "config": {"name": "a", "network": {"depth": 2}, "sweep": {"grid": {"network.width": [32, 64]}, "seeds": 3}},
    "config_hash": "00",
    "made_by": {"commit": "abc", "versions": {"ntkrun": "0"}},
}
TABLES = tables({32: 3, 64: 3})
RECORDS = records(TABLES[0], *TABLES)
TEXT = written(DESCRIPTION, RECORDS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "b.json").write_text(TEXT)
    return tmp_path / "b.json"


def test_records_follow_per_run_and_the_columns_of_steps() -> None:
    runs, steps, layers = TABLES
    statistics = done(per_run(runs, steps, layers))
    assert set(statistics.columns) - set(runs.columns) | {"step_size"} == set(RECORDS[0].estimates)
    assert set(steps.columns) - {"run_id", "step", "time"} == set(RECORDS[0].curves)
    for record, run_id in zip(RECORDS, runs["run_id"], strict=True):
        row = statistics[statistics["run_id"] == run_id].iloc[0]
        assert record.estimates["kernel_drift"] == pytest.approx(row["kernel_drift"], rel=5e-9)  # nine digits
        curve = steps[steps["run_id"] == run_id]["loss"]
        np.testing.assert_allclose(record.curves["loss"], curve, rtol=5e-9)


def test_curves_are_thinned_evenly_in_the_logarithm_with_both_ends() -> None:
    runs, steps, layers = tables({32: 2})
    dense = steps[steps["step"] == 0].drop(columns="step").merge(
        steps[["run_id"]].drop_duplicates().merge(_steps(1001), how="cross"), on="run_id"
    )  # fmt: skip
    kept = records(runs, runs, dense, layers)[0].steps
    assert kept[0] == 0
    assert kept[-1] == 1000
    assert 12 <= len(kept) <= 17


def _steps(count: int):  # type: ignore[no-untyped-def]
    import pandas as pd

    return pd.DataFrame({"step": np.arange(count)})


def test_what_is_written_is_read_and_written_again_the_same(file: Path) -> None:
    known = read_baseline(file)
    assert known.runs == RECORDS
    assert known.config == DESCRIPTION["config"]
    assert written(DESCRIPTION, known.runs) == TEXT


def test_the_file_is_sorted_small_and_ends_in_a_newline() -> None:
    assert TEXT.endswith("}\n")
    document = json.loads(TEXT)
    assert json.dumps(document, sort_keys=True) == json.dumps(document)
    assert max(map(len, TEXT.splitlines())) < 400
    assert len(TEXT) < 1000 * len(RECORDS) + 1000


def test_a_sweep_with_missing_runs_makes_no_baseline() -> None:
    runs, steps, layers = TABLES
    some = records(runs, runs.iloc[:2], steps, layers)
    assert [record.status for record in some] == ["done"] * 2 + ["missing"] * 4
    with pytest.raises(UserError, match="4 of 6 runs are missing or failed"):
        written(DESCRIPTION, some)
    with pytest.raises(UserError, match="no run is done"):
        written(DESCRIPTION, [record.model_copy(update={"status": "diverged"}) for record in RECORDS])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        TEXT[: len(TEXT) // 2].encode(),
        b"[1, 2]",
        b"[" * 100_000,
        TEXT.replace("baseline 1", "baseline 2").encode(),
        TEXT.replace('"seed": 1', '"seed": 0').encode(),
        TEXT.replace('"loss": [0.5', '"loss": [NaN').encode(),
        TEXT.replace('"loss": [0.5', '"loss": [1e999').encode(),
        TEXT.replace('"loss": [0.5', '"loss": [0.5, 0.5').encode(),
        TEXT.replace('"steps": [0, 1,', '"steps": [1, 0,').encode(),
        TEXT.replace('"steps": [0, 1, 10, 100]', '"steps": [0, 1, 10, 101]', 1).encode(),
        TEXT.replace('"status"', '"\\u001b[31m"').encode(),
        TEXT.replace('"kernel_drift":', '"\\u001b[31m":').encode(),
    ],
    ids=range(14),
)
def test_whatever_else_stands_in_the_file_is_one_printable_sentence(file: Path, text: bytes) -> None:
    assert text != TEXT.encode()
    file.write_bytes(text)
    with pytest.raises(UserError, match="not a baseline") as error:
        read_baseline(file)
    assert str(error.value).isprintable()


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--update"):
        read_baseline(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_baseline(tmp_path)


def test_configs_differ_by_what_numbers_depend_on() -> None:
    config = DESCRIPTION["config"]
    assert isinstance(config, dict)

    def against(other: dict[str, object], **filled: object) -> list[str]:
        return differing_keys(config, other, lambda config: {**filled, **config})

    assert against({**config, "name": "b", "claims": ["frozen-kernel"]}) == []
    assert against({**config, "sweep": [{"grid": {"network.width": [32, 64]}, "seeds": [7]}]}) == []
    assert against({**config, "network": {"depth": 3}}) == ["network.depth (2 here, 3 in the baseline)"]
    assert against({**config, "sweep": {"grid": {"network.width": [32]}, "seeds": 3}}) == [
        "sweep.grid.network.width ([32, 64] here, [32] in the baseline)"
    ]
    # A key that one of them lacks is compared by its default.
    assert against({**config, "new": 1}, new=1) == []
    assert against({**config, "new": 2}, new=1) == ["new (1 here, 2 in the baseline)"]
    assert against({**config, "new\x1b": 2}) == [r"new\x1b (none here, 2 in the baseline)"]


def test_an_update_says_what_changed(file: Path) -> None:
    before = read_baseline(file)
    assert changes(before, before) == []
    moved = [
        run.model_copy(update={"estimates": {**run.estimates, "loss": 1.1 * (run.estimates["loss"] or 0)}})
        for run in before.runs[:-1]
    ]
    after = before.model_copy(
        update={"runs": tuple(moved), "config": {**before.config, "network": {"depth": 3}}, "made_by": {"commit": "d"}}
    )
    assert changes(before, after) == [
        "config: network.depth (3 here, 2 in the baseline)",
        "runs: 0 added, 1 removed",
        "loss: changed by up to 10 %",
        "commit: abc before, d now",
    ]
