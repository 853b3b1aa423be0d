"""Levels, exponents, status and verdicts as tables of 80 columns and as JSON documents."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pandas as pd
from rich.console import Console, OverflowMethod
from rich.table import Table
from rich.text import Text

from ntkrun.evidence.claims.findings import SUPPORTED, Estimate
from ntkrun.evidence.claims.verdicts import Verdict
from ntkrun.evidence.estimates.intervals import WIDTH, Exponent, Interval, Level
from ntkrun.evidence.estimates.summary import Group
from ntkrun.store.locks import Writer
from ntkrun.store.progress import Progress
from ntkrun.text import spelled_out

FAILURES = 5  # shown by status
TITLES = {  # columns of the closing table
    "loss": "final loss",
    "kernel_drift": "sup kernel drift",
    "weight_drift": "sup weight drift",
}


class PlainConsole(Console):
    """A console that shows text unchanged, without markup and colours. Characters that the stream cannot show are
    spelled out before the layout, so that columns stay aligned."""

    def __init__(self, **how: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(spelled_out(text, self.encoding), **how)


@dataclass(frozen=True)
class Cells:
    """A table of text. Columns hold numbers, aligned to the right, except those that `text` names."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    text: tuple[str, ...] = ()


def closing_tables(groups: Sequence[Group]) -> list[Table | str]:
    """Return for each group a table of the levels at each width and one of the exponents."""
    if not groups:
        return ["no finished runs"]
    tables: list[Table | str] = []
    for group in groups:
        tables.append(rich_table(levels_cells(group)))
        if group.exponents:
            tables.append(rich_table(exponents_cells(group), before="\n"))
    return tables


def closing_document(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [
        {
            "settings": {key: _plain(value) for key, value in group.settings.items()},
            "widths": [
                {
                    "width": _plain(row.width),
                    "done": row.done,
                    "diverged": row.diverged,
                    "failed": row.failed,
                    **{name: _level_document(level) for name, level in row.levels.items()},
                }
                for row in group.rows
            ],
            "exponents": {name: _exponent_document(exponent) for name, exponent in group.exponents.items()},
        }
        for group in groups
    ]


def status_document(
    plan: pd.DataFrame,
    runs: pd.DataFrame,
    writers: Sequence[object] = (),
    logs: Mapping[str, object] = MappingProxyType({}),
    progress: Sequence[Progress] = (),
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return the counts in total and by width, the seconds spent, the writers, the seconds left by the writers' own
    `progress` at the moment `now`, and the failed runs with reason and log."""
    merged = plan[["run_id", WIDTH]].merge(runs[["run_id", "status", "seconds"]] if len(runs) else _NO_RUNS, how="left")
    widths = [{"width": _plain(width), **_counts(part)} for width, part in merged.groupby(WIDTH, sort=True)]
    alive = {(writer.pid, writer.shard) for writer in writers if isinstance(writer, Writer)}
    running = [report for report in progress if (report.pid, report.shard) in alive]
    activity = {"running": bool(writers), "writers": list(map(str, writers)), "now": [r.now for r in running if r.now]}
    reported = seconds_reported(progress, running, now or datetime.now().astimezone())
    left = reported if reported and any(row["missing"] for row in widths) else seconds_to_come(widths)
    ahead = {"seconds_to_come": left, "runs_an_hour": _pace(merged)}
    return {**_counts(merged), **activity, **ahead, "widths": widths, "failures": _failures(runs, logs)}


def seconds_reported(progress: Sequence[Progress], running: Sequence[Progress], now: datetime) -> float | None:
    """Return the seconds until the last of the `running` writers ends, by their own reports; if none is running, the
    most that any shard of the latest division reported as left. None where there is no report."""
    if running or not progress:
        return max((report.left_at(now) for report in running), default=None)
    latest = max(progress, key=lambda report: datetime.fromisoformat(report.written))
    return max(report.seconds_left for report in progress if report.shard[1] == latest.shard[1])


def seconds_to_come(widths: Sequence[dict[str, Any]]) -> float | None:
    """Return the seconds that one worker needs for the missing runs, by the mean of those of the same width that have
    ended. None where runs of a width are missing of which none has ended."""
    per_run = {row["width"]: row["seconds"] / ended for row in widths if (ended := row["done"] + row["diverged"])}
    missing = {row["width"]: row["missing"] for row in widths if row["missing"]}
    if not missing.keys() <= per_run.keys():
        return None
    return float(sum(count * per_run[width] for width, count in missing.items()))


def _pace(merged: pd.DataFrame) -> float | None:
    """Return the number of runs per hour with one worker; None before any."""
    seconds = float(merged["seconds"].sum())
    return 3600 * int(merged["seconds"].notna().sum()) / seconds if seconds else None


def _failures(runs: pd.DataFrame, logs: Mapping[str, object]) -> list[dict[str, Any]]:
    columns = ["run_id", WIDTH, "seed", "last_step", "reason"]
    failed = runs[runs["status"] == "failed"] if len(runs) else runs
    rows = failed[columns].to_dict("records") if len(failed) else []
    return [{**row, "log": str(logs.get(row["run_id"], ""))} for row in rows]


def failure_lines(document: dict[str, Any]) -> list[str]:
    """Return a line for each failed run, FAILURES of them at most, and what to do."""
    failures = document["failures"]
    lines = [
        f"width {run[WIDTH]}, seed {run['seed']}: failed at step {run['last_step']}; {run['reason']}; "
        f"log in {run['log']}"
        for run in failures[:FAILURES]
    ]
    lines += [f"and {len(failures) - FAILURES} more; --json lists all"] if len(failures) > FAILURES else []
    return [*lines, "`ntkrun sweep CONFIG --retry-failed` runs them again"] if failures else []


def status_table(document: dict[str, Any]) -> Table:
    lines = [f"writing here now: {writer}" for writer in document["writers"]] or ["no process is writing here"]
    lines += [f"  at {now['label']}, step {now['step']} of {now['steps']}" for now in document["now"]]
    state = "\n".join(lines)
    table = Table(title=state, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("width", "planned", "done", "diverged", "failed", "missing", "seconds"):
        table.add_column(name, justify="right")
    if document["missing"] and document["seconds_to_come"] is not None and document["runs_an_hour"]:
        pace, minutes = document["runs_an_hour"], document["seconds_to_come"] / 60
        duration = f"{max(minutes, 1):.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
        runs = f"{pace:,.0f}" if pace >= 10 else f"{pace:.2g}"
        table.caption = f"about {duration} left ({runs} runs/h so far)"
        table.caption_justify, table.caption_style = "left", ""
    for row in [*document["widths"], {"width": "all", **document}]:
        counts = (str(row[name]) for name in ("planned", "done", "diverged", "failed", "missing"))
        table.add_row(str(row["width"]), *counts, f"{row['seconds']:.1f}")
    return table


_NO_RUNS = pd.DataFrame(
    {"run_id": pd.Series(dtype=str), "status": pd.Series(dtype=str), "seconds": pd.Series(dtype=float)}
)


def _counts(part: pd.DataFrame) -> dict[str, Any]:
    by_status = {status: int((part["status"] == status).sum()) for status in ("done", "diverged", "failed")}
    missing = int(part["status"].isna().sum())
    return {"planned": len(part), **by_status, "missing": missing, "seconds": float(part["seconds"].sum())}


def levels_cells(group: Group) -> Cells:
    """Return the closing table of the levels at each width."""
    title = "mean ± standard error over seeds" + (f"; {group.label}" if group.label else "")
    ended = {
        "diverged": [f"{row.diverged} of width {row.width}" for row in group.rows if row.diverged],
        "failed": [f"{row.failed} of width {row.width}" for row in group.rows if row.failed],
    }
    caption = "; ".join(f"{status}: {', '.join(places)}" for status, places in ended.items() if places)
    rows = [(str(row.width), str(row.done), *(level_text(row.levels[name]) for name in TITLES)) for row in group.rows]
    return Cells(title, ("width", "runs", *TITLES.values()), rows, caption)


def exponents_cells(group: Group) -> Cells:
    """Return the table of the exponents in the width."""
    rows = [(quantity(name, group), *_exponent_cells(exponent)) for name, exponent in group.exponents.items()]
    head = ("quantity", "exponent", "interval", "widths", "")
    return Cells("exponents in the width (95 % interval)", head, rows, text=("quantity", ""))


def rich_table(cells: Cells, before: str = "", overflow: OverflowMethod = "ellipsis") -> Table:
    """Return a table for a terminal; `before` goes above the title. Print it on a PlainConsole, which does not read the
    text of configs and data as markup."""
    table = Table(
        title=before + cells.title if cells.title else None,
        title_justify="left",
        title_style="",
        caption=cells.caption or None,
        caption_justify="left",
        caption_style="",
        box=None,
        pad_edge=False,
    )
    for name in cells.head:
        table.add_column(name, justify="left" if name in cells.text else "right", overflow=overflow)
    for row in cells.rows:
        table.add_row(*row)
    return table


def quantity(name: str, group: Group) -> str:
    """Return the name of a quantity in words: 'kernel drift', 'weight drift, w⁰ (input)'."""
    if "." not in name:
        return {"kernel_drift": "kernel drift", "linear_gap": "gap to linearised"}.get(name, "weight drift, all")
    layer = int(name.split(".")[1])
    place = group.layers.get(layer, "")
    return f"weight drift, w{superscript(layer)}" + (f" ({place})" if place else "")


def superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _exponent_cells(exponent: Exponent) -> tuple[str, str, str, str]:
    if exponent.why:
        return "", "", "", exponent.why
    lo, hi = exponent.interval
    remark = "" if exponent.asymptotic else "not yet asymptotic"
    widths = f"{exponent.fit_range[0]:g}..{exponent.fit_range[1]:g}"
    return f"{exponent.slope:+.3f}", f"[{lo:+.3f}, {hi:+.3f}]", widths, remark


def level_text(level: Level) -> str:
    """Return a level as text with two digits of its error: '0.314 ± 0.012'."""
    if level.count == 0:
        return "-"
    if math.isnan(level.standard_error) or level.standard_error == 0:
        return f"{level.mean:.3g}"
    size = max(abs(level.mean), level.standard_error)
    power = math.floor(math.log10(size))
    digits = power - math.floor(math.log10(level.standard_error)) + 1
    if -3 <= power < 4:
        places = max(0, digits - power)
        return f"{level.mean:.{places}f} ± {level.standard_error:.{places}f}"
    scale = 10.0**power
    return f"({level.mean / scale:.{digits}f} ± {level.standard_error / scale:.{digits}f})e{power:d}"


def _level_document(level: Level) -> dict[str, Any]:
    return {
        "mean": level.mean,
        "standard_error": level.standard_error,
        "interval": list(level.interval),
        "count": level.count,
    }


def _exponent_document(exponent: Exponent) -> dict[str, Any]:
    return {
        "exponent": exponent.slope,
        "interval": list(exponent.interval),
        "fit_range": list(exponent.fit_range),
        "curvature_p": exponent.curvature_p,
        "asymptotic": exponent.asymptotic,
        "why": exponent.why,
    }


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, other values unchanged."""
    return value.item() if hasattr(value, "item") else value


# ---------------------------------------------------------------- claims_table


BEYOND = 1.0  # the largest distance from its margin at which an estimate is drawn, in margins


def claims_tables(verdicts: Sequence[Verdict]) -> list[Table | str]:
    """Return a table for each combination of settings, followed by the reasons of verdicts that are not supported."""
    tables: list[Table | str] = []
    for label, group in _by_label(verdicts).items():
        tables.append(_verdicts_table(group, label))
        tables += [f"{_name(verdict)}: {verdict.deciding.why}" for verdict in group if verdict.deciding.why]
    return tables


def _by_label(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.label, []).append(verdict)
    return groups


def _verdicts_table(verdicts: Sequence[Verdict], label: str) -> Table:
    title = "\nclaims (95 % intervals unless stated otherwise)" + (f"; {label}" if label else "")
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("claim", "measured", "expected", "verdict"):
        table.add_column(name, no_wrap=True)
    for verdict in verdicts:
        deciding, parts = verdict.deciding, len(verdict.findings)
        kind = deciding.estimate.kind  # on the second line: beside the interval it would push the verdict off the table
        measured = estimate_text(replace(deciding.estimate, kind=""))
        table.add_row(verdict.claim.name, measured, interval_text(deciding.expected), verdict.verdict)
        part = f"  {deciding.part}, 1 of {parts}" if parts > 1 else ""
        remark = "" if verdict.expect == SUPPORTED else "as expected" if verdict.as_expected else "unexpected"
        if part or kind or remark:
            table.add_row(part, f"  ({kind})" if kind else "", "", remark)
    return table


def _name(verdict: Verdict) -> str:
    return verdict.claim.name + (f", {verdict.deciding.part}" if len(verdict.findings) > 1 else "")


def estimate_text(estimate: Estimate) -> str:
    """Return an estimate with its interval: '-0.85 [-0.90, -0.80]', with the interval's kind where it is not a
    confidence interval; '-' without an estimate."""
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.interval[0]):
        return f"{estimate.value:.3g}"
    return f"{_number(estimate.value)} {interval_text(estimate.interval)} {estimate.kind}".rstrip()


def interval_text(interval: Interval) -> str:
    """Return an interval as text: '[-1.20, -0.80]', or '< 0.05' with an open end."""
    low, high = interval
    if math.isinf(low):
        return "any" if math.isinf(high) else f"< {_number(high)}"
    return f"> {_number(low)}" if math.isinf(high) else f"[{_number(low)}, {_number(high)}]"


def bar_position(value: float, margin: Interval) -> float:
    """Return the position of a number on a scale where its margin goes from 0 to 1. A margin with an open end gets
    twice the absolute value of its other end as width. Positions further out than BEYOND are moved there."""
    low, high = margin
    if math.isinf(low) and math.isinf(high):
        return 0.5
    if math.isinf(low):
        low = high - 2 * abs(high)
    if math.isinf(high):
        high = low + 2 * abs(low)
    return min(max((value - low) / (high - low), -BEYOND), 1 + BEYOND)


def _number(value: float) -> str:
    """Return a number with two decimals if it is of order one, else with two significant digits."""
    if value == 0 or 0.1 <= abs(value) < 100:
        return f"{value:.2f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.2g}")
