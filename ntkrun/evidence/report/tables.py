"""Levels, exponents, status and verdicts as tables of 80 columns and as JSON documents."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from ntkrun.evidence.cells import Cells, rich_table
from ntkrun.evidence.estimates.cases import plain
from ntkrun.evidence.estimates.estimate import CONFIDENT
from ntkrun.evidence.estimates.intervals import Exponent, Level
from ntkrun.evidence.estimates.summary import Group
from ntkrun.evidence.records import Row, Verdict

TITLES = {  # columns of the closing table
    "loss": "final loss",
    "kernel_drift": "sup kernel drift",
    "weight_drift": "sup weight drift",
}


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
            "settings": group.settings,
            "widths": [
                {
                    "width": plain(row.width),
                    "done": row.done,
                    "diverged": row.diverged,
                    "failed": row.failed,
                    **{name: asdict(level) for name, level in row.levels.items()},
                }
                for row in group.rows
            ],
            "exponents": {name: _exponent_document(exponent) for name, exponent in group.exponents.items()},
        }
        for group in groups
    ]


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


def superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def quantity(name: str, group: Group) -> str:
    """Return the name of a quantity in words: 'kernel drift', 'weight drift, w⁰ (input)'."""
    if "." not in name:
        return {"kernel_drift": "kernel drift", "linear_gap": "gap to linearised"}.get(name, "weight drift, all")
    layer = int(name.split(".")[1])
    place = group.layers.get(layer, "")
    return f"weight drift, w{superscript(layer)}" + (f" ({place})" if place else "")


def _exponent_cells(exponent: Exponent) -> tuple[str, str, str, str]:
    if not exponent.status.ok:
        return "", "", "", str(exponent.status)
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


def _exponent_document(exponent: Exponent) -> dict[str, Any]:
    return {
        "exponent": exponent.slope,
        "interval": list(exponent.interval),
        "fit_range": list(exponent.fit_range),
        "curvature_p": exponent.curvature_p,
        "asymptotic": exponent.asymptotic,
        "status": exponent.status.reason,
        "why": str(exponent.status),
    }


# ---------------------------------------------------------------- claims


def claims_tables(verdicts: Sequence[Verdict]) -> list[Table | str]:
    """Return a table for each combination of settings, followed by the reasons of verdicts that are not supported."""
    tables: list[Table | str] = []
    for case in dict.fromkeys(verdict.case for verdict in verdicts):
        group = [verdict for verdict in verdicts if verdict.case == case]
        tables.append(_verdicts_table(group, case))
        tables += [f"{_name(verdict)}: {verdict.why}" for verdict in group if verdict.why]
    return tables


def _verdicts_table(verdicts: Sequence[Verdict], case: str) -> Table:
    title = "\nclaims (95 % intervals unless stated otherwise)" + (f"; {case}" if case else "")
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("claim", "measured", "expected", "verdict"):
        table.add_column(name, no_wrap=True)
    for verdict in verdicts:
        table.add_row(verdict.name, verdict.numbers, verdict.margin, verdict.verdict)
        # The rest goes on a second line: beside the interval it would push the verdict off the table.
        several = len(verdict.parts) > 1
        about = [verdict.kind] * (verdict.kind != CONFIDENT) + [f"1 of {len(verdict.parts)} parts"] * several
        remark = "" if not verdict.is_control else "as expected" if verdict.as_expected else "unexpected"
        if about or remark:
            part = f"  {verdict.part}" if several else ""
            table.add_row(part, f"({', '.join(about)})" if about else "", "", remark)
    return table


def _name(verdict: Verdict) -> str:
    return verdict.name + (f", {verdict.part}" if len(verdict.parts) > 1 else "")


def parts_cells(verdict: Verdict) -> Cells:
    """Return the table of the parts of a claim."""
    rows = [(p.part or verdict.name, p.verdict, p.measured, p.margin, str(p.seeds or "")) for p in verdict.parts]
    return Cells("", ("part", "verdict", "measured", "expected", "seeds"), rows, text=("part", "verdict"))


# ---------------------------------------------------------------- rows of experiments


def row_texts(row: Row) -> tuple[str, ...]:
    """Return the cells of a row: quantity, paper, theory, ours, interval, note; '' for what is not there."""
    low, high = row.interval or (math.nan, math.nan)
    interval = "" if math.isnan(low) or math.isnan(high) else f"[{low:.3g}, {high:.3g}]"
    numbers = ("" if x is None or math.isnan(x) else f"{x:.3g}" for x in (row.paper, row.theory, row.ours))
    return row.what, *numbers, interval, row.note


def rows_cells(title: str, rows: Iterable[Row]) -> Cells | None:
    """Return rows as a table without empty columns; None without rows."""
    cells = [row_texts(row) for row in rows]
    names = ("quantity", "paper", "theory", "ours", "95 % interval", "note")
    columns = [k for k in range(len(names)) if any(row[k] for row in cells)]
    if not columns:
        return None
    table = [tuple(row[k] for k in columns) for row in cells]
    return Cells(title, tuple(names[k] for k in columns), table, text=("quantity", "note"))
