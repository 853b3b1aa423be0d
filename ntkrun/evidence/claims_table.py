"""Verdicts for people: a table that fits 80 columns, and a sentence on each that is not supported."""

import math
import re
from collections.abc import Sequence

from rich.table import Table

from ntkrun.evidence.estimates import Interval
from ntkrun.evidence.judging import SUPPORTED, Estimate
from ntkrun.evidence.verdicts import Verdict

BEYOND = 1.0  # how far outside its margin an estimate is drawn at most, in margins


def claims_tables(verdicts: Sequence[Verdict]) -> list[Table | str]:
    """One table for each combination of settings, and under it why what is not supported is not."""
    shown: list[Table | str] = []
    for label, group in _by_label(verdicts).items():
        shown.append(_table(group, label))
        shown += [f"{_name(each)}: {each.deciding.why}" for each in group if each.deciding.why]
    return shown


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
        table.add_row(each.claim.name, measured(found.estimate), span(found.expected), each.verdict)
        part = f"  {found.part}, 1 of {len(each.findings)}" if len(each.findings) > 1 else ""
        remark = "" if each.expect == SUPPORTED else "as expected" if each.as_expected else "not as expected"
        if part or remark:
            table.add_row(part, "", "", remark)
    return table


def _name(verdict: Verdict) -> str:
    return verdict.claim.name + (f", {verdict.deciding.part}" if len(verdict.findings) > 1 else "")


def measured(estimate: Estimate) -> str:
    """'-0.85 [-0.90, -0.80]', with what kind of interval it is where it is not one of confidence; or '-'."""
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.interval[0]):
        return f"{estimate.value:.3g}"
    return f"{_number(estimate.value)} {span(estimate.interval)} {estimate.kind}".rstrip()


def span(interval: Interval) -> str:
    """'[-1.20, -0.80]'; with an open end '< 0.05'."""
    low, high = interval
    if math.isinf(low):
        return "any" if math.isinf(high) else f"< {_number(high)}"
    return f"> {_number(low)}" if math.isinf(high) else f"[{_number(low)}, {_number(high)}]"


def place(value: float, margin: Interval) -> float:
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
