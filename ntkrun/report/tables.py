"""Tables for people, 80 columns wide, and documents for machines: levels, exponents, status, verdicts."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from ntkrun.text import spelled_out

FAILURES = 5  # shown by status
TITLES = {  # what the closing table shows at each width
    "loss": "final loss",
    "kernel_drift": "sup kernel drift",
    "weight_drift": "sup weight drift",
}


class PlainConsole(Console):
    """Text is shown as it stands: none of it is markup, nothing in it is coloured. What the stream cannot show is
    spelled out before it is laid out, so that columns stay columns."""

    def __init__(self, **how: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(spelled_out(text, self.encoding), **how)


@dataclass(frozen=True)
class Cells:
    """A table in words. Columns hold numbers, which stand to the right, but for those that `text` names."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    text: tuple[str, ...] = ()


def closing_tables(groups: Sequence[Group]) -> list[Table | str]:
    """A table of levels a width and one of exponents, for each group."""
    if not groups:
        return ["no finished runs"]
    level_text: list[Table | str] = []
    for group in groups:
        level_text.append(rich_table(levels_cells(group)))
        if group.exponents:
            level_text.append(rich_table(exponents_cells(group), before="\n"))
    return level_text


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
) -> dict[str, Any]:
    """Counts in all and by width, with the seconds spent; who is writing; which runs failed, why, and where the log
    is."""
    merged = plan[["run_id", WIDTH]].merge(runs[["run_id", "status", "seconds"]] if len(runs) else _NO_RUNS, how="left")
    widths = [{"width": _plain(width), **_counts(part)} for width, part in merged.groupby(WIDTH, sort=True)]
    now = {"running": bool(writers), "writers": list(map(str, writers))}
    ahead = {"seconds_to_come": seconds_to_come(widths), "runs_an_hour": _pace(merged)}
    return {**_counts(merged), **now, **ahead, "widths": widths, "failures": _failures(runs, logs)}


def seconds_to_come(widths: Sequence[dict[str, Any]]) -> float | None:
    """What the missing runs will take of one worker, by what those that ended took: those of their width, or else of
    the nearest one that has any, times the square of the ratio. None where nothing has ended, or widths are lists."""
    took = {row["width"]: row["seconds"] / ended for row in widths if (ended := row["done"] + row["diverged"])}
    missing = {row["width"]: row["missing"] for row in widths if row["missing"]}
    if not missing:
        return 0.0
    if not took or not all(isinstance(width, int) for width in (*took, *missing)):
        return None
    nearest = {width: min(took, key=lambda known: abs(math.log(known / width))) for width in missing}
    return float(sum(count * took[nearest[width]] * (width / nearest[width]) ** 2 for width, count in missing.items()))


def _pace(merged: pd.DataFrame) -> float | None:
    """Runs an hour of one worker."""
    seconds = float(merged["seconds"].sum())
    return 3600 * int(merged["seconds"].notna().sum()) / seconds if seconds else None


def _failures(runs: pd.DataFrame, logs: Mapping[str, object]) -> list[dict[str, Any]]:
    level_text = ["run_id", WIDTH, "seed", "last_step", "reason"]
    failed = runs[runs["status"] == "failed"] if len(runs) else runs
    rows = failed[level_text].to_dict("records") if len(failed) else []
    return [{**row, "log": str(logs.get(row["run_id"], ""))} for row in rows]


def failure_lines(document: dict[str, Any]) -> list[str]:
    """What failed, FAILURES lines of it at most, and what to do."""
    failures = document["failures"]
    lines = [
        f"width {each[WIDTH]}, seed {each['seed']}: failed at step {each['last_step']}; {each['reason']}; "
        f"log in {each['log']}"
        for each in failures[:FAILURES]
    ]
    lines += [f"and {len(failures) - FAILURES} more; --json lists all"] if len(failures) > FAILURES else []
    return [*lines, "`ntkrun sweep CONFIG --retry-failed` runs them again"] if failures else []


def status_table(document: dict[str, Any]) -> Table:
    state = "\n".join(f"writing here now: {writer}" for writer in document["writers"]) or "nothing is running here"
    table = Table(title=state, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("width", "planned", "done", "diverged", "failed", "missing", "seconds"):
        table.add_column(name, justify="right")
    if document["missing"] and document["seconds_to_come"] is not None:
        pace, left = document["runs_an_hour"], document["seconds_to_come"] / 3600
        table.caption = f"one worker: {pace:.3g} runs an hour, {left:.2g} h to come by the seconds of those that ended"
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
    """What the closing table shows at each width."""
    title = "mean ± standard error over seeds" + (f"; {group.label}" if group.label else "")
    ended = {
        "diverged": [f"{row.diverged} of width {row.width}" for row in group.rows if row.diverged],
        "failed": [f"{row.failed} of width {row.width}" for row in group.rows if row.failed],
    }
    caption = "; ".join(f"{status}: {', '.join(places)}" for status, places in ended.items() if places)
    rows = [(str(row.width), str(row.done), *(level_text(row.levels[name]) for name in TITLES)) for row in group.rows]
    return Cells(title, ("width", "runs", *TITLES.values()), rows, caption)


def exponents_cells(group: Group) -> Cells:
    """The exponents in the width."""
    rows = [(quantity(name, group), *_exponent_cells(exponent)) for name, exponent in group.exponents.items()]
    head = ("quantity", "exponent", "interval", "widths", "")
    return Cells("exponents in the width (95 % interval)", head, rows, text=("quantity", ""))


def rich_table(cells: Cells, before: str = "", overflow: OverflowMethod = "ellipsis") -> Table:
    """For a terminal; `before` goes above the title. Text of configs and data is no markup: print it on a
    PlainConsole."""
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
    """'kernel drift', 'weight drift, w⁰ (first)'."""
    if "." not in name:
        return {"kernel_drift": "kernel drift", "linear_gap": "gap to linearised"}.get(name, "weight drift, all")
    layer, depth = int(name.split(".")[1]), int(group.runs["network.depth"].iloc[0])
    place = " (first)" if layer == 0 else " (last)" if layer == depth - 1 else ""
    return f"weight drift, w{superscript(layer)}{place}"


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
    """'0.314 ± 0.012', with two digits of the error."""
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
    """NumPy's scalars as Python's."""
    return value.item() if hasattr(value, "item") else value


# ---------------------------------------------------------------- claims_table


BEYOND = 1.0  # how far outside its margin an estimate is drawn at most, in margins


def claims_tables(verdicts: Sequence[Verdict]) -> list[Table | str]:
    """One table for each combination of settings, and under it why what is not supported is not."""
    level_text: list[Table | str] = []
    for label, group in _by_label(verdicts).items():
        level_text.append(_table(group, label))
        level_text += [f"{_name(each)}: {each.deciding.why}" for each in group if each.deciding.why]
    return level_text


def _by_label(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    groups: dict[str, list[Verdict]] = {}
    for each in verdicts:
        groups.setdefault(each.label, []).append(each)
    return groups


def _table(verdicts: Sequence[Verdict], label: str) -> Table:
    title = "\nclaims (95 % intervals, where nothing else is said)" + (f"; {label}" if label else "")
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("claim", "measured", "expected", "verdict"):
        table.add_column(name, no_wrap=True)
    for each in verdicts:
        found = each.deciding
        table.add_row(each.claim.name, estimate_text(found.estimate), interval_text(found.expected), each.verdict)
        part = f"  {found.part}, 1 of {len(each.findings)}" if len(each.findings) > 1 else ""
        remark = "" if each.expect == SUPPORTED else "as expected" if each.as_expected else "not as expected"
        if part or remark:
            table.add_row(part, "", "", remark)
    return table


def _name(verdict: Verdict) -> str:
    return verdict.claim.name + (f", {verdict.deciding.part}" if len(verdict.findings) > 1 else "")


def estimate_text(estimate: Estimate) -> str:
    """'-0.85 [-0.90, -0.80]', with what kind of interval it is where it is not one of confidence; or '-'."""
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.interval[0]):
        return f"{estimate.value:.3g}"
    return f"{_number(estimate.value)} {interval_text(estimate.interval)} {estimate.kind}".rstrip()


def interval_text(interval: Interval) -> str:
    """'[-1.20, -0.80]'; with an open end '< 0.05'."""
    low, high = interval
    if math.isinf(low):
        return "any" if math.isinf(high) else f"< {_number(high)}"
    return f"> {_number(low)}" if math.isinf(high) else f"[{_number(low)}, {_number(high)}]"


def bar_position(value: float, margin: Interval) -> float:
    """Where a number is drawn against its margin: 0 at the lower end, 1 at the upper; an open end is where the other
    one is mirrored. What lies further out than BEYOND is drawn there."""
    low, high = margin
    if math.isinf(low) and math.isinf(high):
        return 0.5
    if math.isinf(low):
        low = high - 2 * abs(high)
    if math.isinf(high):
        high = low + 2 * abs(low)
    return min(max((value - low) / (high - low), -BEYOND), 1 + BEYOND)


def _number(value: float) -> str:
    """Two decimals for numbers of order one, two digits for others."""
    if value == 0 or 0.1 <= abs(value) < 100:
        return f"{value:.2f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.2g}")
