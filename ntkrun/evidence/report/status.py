"""`ntkrun status`: how the runs of a sweep ended, what is left, and which failed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pandas as pd
from rich.table import Table

from ntkrun.evidence.estimates.cases import plain
from ntkrun.evidence.estimates.intervals import WIDTH
from ntkrun.store.locks import Writer
from ntkrun.store.progress import Progress

FAILURES = 5  # most failed runs that are listed


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
    widths = [{"width": plain(width), **_counts(part)} for width, part in merged.groupby(WIDTH, sort=True)]
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
