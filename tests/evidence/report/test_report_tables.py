"""The closing table and the status table: their numbers, and that they fit a terminal."""

import math
from datetime import UTC, datetime, timedelta
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from ntkrun.evidence.cells import PlainConsole
from ntkrun.evidence.claims.judge import finding
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.estimates.estimate import ALL_RUNS, Estimate
from ntkrun.evidence.estimates.intervals import Level
from ntkrun.evidence.estimates.summary import groups
from ntkrun.evidence.reasons import Reason
from ntkrun.evidence.records import Verdict
from ntkrun.evidence.report.status import status_document, status_table
from ntkrun.evidence.report.tables import claims_tables, closing_document, closing_tables, level_text
from ntkrun.store.locks import Writer
from ntkrun.store.progress import Progress
from tests.evidence.report.pages import claim
from tests.evidence.synthetic import tables


def _printed(*parts: object) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115, PTH123
    for part in parts:
        console.print(part)
    console.file.close()
    return console.export_text()


def test_closing_table_has_a_line_a_width_and_fits_80_columns() -> None:
    runs, steps, layers = tables({64: 10, 128: 10, 65536: 10})
    runs.loc[0, "status"] = "diverged"
    text = _printed(*closing_tables(groups(runs, steps, layers)))
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines if line.strip()[:2].isdigit()] == [
        ["64", "9"],
        ["128", "10"],
        ["65536", "10"],
    ]
    assert "diverged: 1 of width 64" in text
    (kernel,) = (line for line in lines if line.startswith("kernel drift"))
    assert "64..65536" in kernel
    assert "weight drift, w¹ (output)" in text
    unnamed = _printed(*closing_tables(groups(runs, steps, layers.drop(columns="name"))))  # of an earlier version
    assert "weight drift, w¹  " in unnamed


def test_groups_are_what_differs_in_width_and_seed_alone() -> None:
    parts = [tables({64: 2, 128: 2}, **{"network.activation": name}) for name in ("relu", "erf")]
    runs, steps, layers = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    found = groups(runs, steps, layers)
    assert [group.label for group in found] == ["activation relu", "activation erf"]
    assert [len(group.statistics) for group in found] == [4, 4]
    assert [row.width for row in found[0].rows] == [64, 128]
    document = closing_document(found)
    assert document[1]["settings"] == {"network.activation": "erf"}
    assert document[0]["widths"][0]["kernel_drift"]["count"] == 2
    assert set(document[0]["exponents"]) == {"kernel_drift", "weight_drift", "weight_drift.0", "weight_drift.1"}


def test_widths_a_layer_have_levels_and_no_exponent() -> None:
    runs, steps, layers = tables({"[4, 8]": 2, "[8, 16]": 2})
    (group,) = groups(runs, steps, layers)
    assert not group.has_widths
    assert group.exponents == {}
    assert "[8, 16]" in _printed(*closing_tables([group]))


def test_networks_that_were_not_trained_have_no_exponents() -> None:
    runs, steps, layers = tables({64: 3, 128: 3})
    (group,) = groups(runs, *(frame[frame["step"] == 0] for frame in (steps, layers)))
    assert group.exponents == {}
    assert "exponents" not in _printed(*closing_tables([group]))


def test_nothing_finished() -> None:
    runs, steps, layers = tables({64: 1})
    assert closing_tables(groups(runs.iloc[:0], steps.iloc[:0], layers.iloc[:0])) == ["no finished runs"]
    runs["status"] = "diverged"
    assert "-" in _printed(*closing_tables(groups(runs, steps, layers)))


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (0.31415, 0.0123, "0.314 ± 0.012"),
        (1.0, 0.15, "1.00 ± 0.15"),
        (1.98e-6, 2.3e-7, "(1.98 ± 0.23)e-6"),
        (12.0, 100.0, "12 ± 100"),
        (0.00123, 0.5, "0.00 ± 0.50"),
        (0.25, math.nan, "0.25"),
        (0.25, 0.0, "0.25"),
        (1234.5, 3.2, "1234.5 ± 3.2"),
    ],
)
def test_numbers_are_shown_to_two_digits_of_their_error(mean: float, error: float, text: str) -> None:
    assert level_text(Level(mean, error, (math.nan, math.nan), 3)) == text


def test_status_counts_every_state() -> None:
    runs, _, _ = tables({64: 3, 128: 2})
    plan = runs[["run_id", "network.width"]]
    runs.loc[1, "status"] = "diverged"
    document = status_document(plan, runs.iloc[:4], ["process 1"])
    assert (document["planned"], document["done"], document["diverged"], document["missing"]) == (5, 3, 1, 1)
    assert document["running"] is True
    assert [row["width"] for row in document["widths"]] == [64, 128]
    text = _printed(status_table(document))
    assert "writing here now: process 1" in text
    assert status_document(plan, runs.iloc[:0], [])["missing"] == 5
    writer = Writer(7, "node", "noon", (1, 1))
    at = {"label": "width 64", "step": 3, "steps": 9, "loss": None, "kernel_drift": None}
    report = Progress("2026-11-28T00:00:00+00:00", 7, (1, 1), 5, 4, 0, 1, 120.0, at)
    moment = datetime(2026, 11, 28, tzinfo=UTC)
    running = status_document(plan, runs.iloc[:4], [writer], progress=[report], now=moment)
    assert (running["seconds_to_come"], running["now"]) == (120.0, [at])
    assert "at width 64, step 3 of 9" in _printed(status_table(running))
    assert status_document(plan, runs.iloc[:4], [], progress=[report], now=moment)["now"] == []
    instant = status_document(plan, runs.iloc[:4].assign(seconds=0.0))  # no pace to tell
    assert "left" not in _printed(status_table(instant))


def test_the_time_left_is_what_the_writers_tell() -> None:
    runs, _, _ = tables({64: 3, 128: 2})
    plan, some = runs[["run_id", "network.width"]], runs.iloc[:4].assign(seconds=10.0)
    moment = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    writers = [Writer(pid, "host", "today", (pid, 2)) for pid in (1, 2)]

    def told(pid: int, left: float, total: int = 2, written: datetime = moment) -> Progress:
        return Progress(written.isoformat(), pid, (pid, total), 9, 3, 1, 1, left, None)

    def left(progress: list[Progress], writers: list[Writer]) -> float | None:
        later = moment + timedelta(seconds=20)
        return status_document(plan, some, writers, progress=progress, now=later)["seconds_to_come"]

    both = [told(1, 1320.0), told(2, 60.0)]
    assert left(both, writers) == 1300
    assert left(both, writers[1:]) == 40  # the other has ended
    assert left(both, []) == 1320  # nothing goes on
    assert left([told(1, 60.0, 1, moment + timedelta(hours=1)), told(1, 1320.0)], []) == 60  # as sharded last
    assert left([told(1, 0.0)], []) == 10  # all that it knew of, but runs are missing
    assert left([], writers) == 10
    document = status_document(plan, some, writers, progress=both, now=moment)
    assert "about 22 min left (360 runs/h so far)" in _printed(status_table(document))
    none_of_a_width = status_document(plan, some.iloc[:3])
    assert none_of_a_width["seconds_to_come"] is None
    assert "left" not in _printed(status_table(none_of_a_width))
    assert status_document(plan, runs, writers, progress=both, now=moment)["seconds_to_come"] == 0


def test_the_longest_verdict_fits_eighty_columns() -> None:
    name = max(CLAIMS, key=len)
    estimate = Estimate(2.4e-6, (-6.7e-8, 6.7e-5), seeds=10, kind=ALL_RUNS)
    judged = finding("operator_hidden 10", estimate, (-1.1, -0.5), [Reason.NOT_TRAINED.of()])
    verdict = Verdict.model_validate(
        {**claim(name=name, expect="refuted", as_expected=False), **dict(judged), "parts": [judged] * 2}
    )
    table, reason = claims_tables([verdict])
    shown = StringIO()
    PlainConsole(file=shown, width=80).print(table)
    assert "…" not in shown.getvalue()
    for part in (name, "[-6.7e-8, 6.7e-5]", "(all runs, 1 of 2 parts)", "[-1.10, -0.50]", "inconclusive", "unexpected"):
        assert part in shown.getvalue()
    assert reason == f"{name}, operator_hidden 10: {Reason.NOT_TRAINED.text}"
