"""A regression check as a JSON document and as a table of 80 columns."""

import math
from textwrap import fill
from typing import Any

from rich.table import Table

from ntkrun.evidence.cells import Cells, rich_table
from ntkrun.evidence.regression.baseline import Baseline
from ntkrun.evidence.regression.comparison import ALPHA, EFFECT, MARGIN, Check, Comparison
from ntkrun.text import printable

MOST_ROWS = 12


def worst(check: Check, count: int = MOST_ROWS) -> list[Comparison]:
    """Return at most one row per quantity: regressions first, then inconclusive rows, then the largest other
    changes."""
    order = {"regression": 0, "inconclusive": 1, "fine": 2}

    def rank(row: Comparison) -> tuple[float, ...]:
        return order[row.verdict], -row.sees if row.verdict == "inconclusive" else -_size(row), row.p

    candidates = [row for row in check.comparisons if row.verdict != "fine" or not math.isnan(row.sees)]
    first = {(row.group, row.name): row for row in sorted(candidates, key=rank, reverse=True)}
    return sorted(first.values(), key=rank)[:count]


def _size(row: Comparison) -> float:
    """Return the size of a change: for a regression the end of its interval nearest to 0, else the change itself."""
    return min(map(abs, row.interval)) if row.verdict == "regression" else abs(row.change)


def check_cells(check: Check) -> Cells:
    """Return the table of the worst quantities: place, change with the interval of the test, and verdict."""
    rows = [
        (
            label(row),
            row.place,
            percent(row.change),
            f"[{percent(row.interval[0])}, {percent(row.interval[1])}]",
            row.verdict,
        )
        for row in worst(check)
    ]
    head = ("quantity", "where", "change, %", "interval, %", "verdict")
    return Cells("", head, rows, text=("quantity", "where", "verdict"))


def check_table(check: Check) -> Table:
    return rich_table(check_cells(check), overflow="fold")


def check_lines(check: Check, baseline: Baseline) -> list[str]:
    """Return the lines beside the table: what made the baseline, which quantities are not judged, and the verdict."""
    quantities = len({(row.group, row.name) for row in check.comparisons})
    lines = [f"baseline made by {_maker(baseline)}"]
    lines += [f"{reason}: {', '.join(names)}" for reason, names in _unjudged(check).items()]
    lines += [problem.what for problem in check.problems]
    closing = {
        "regression": f"regression: {_count(check)} of {quantities} quantities changed",
        "stale": f"stale: the baseline lacks {', '.join(check.new)}; if all else agrees, update it with --update",
        "inconclusive": "inconclusive: " + _undecided(check),
        "fine": f"fine: none of {quantities} quantities changed by more than {100 * MARGIN:g} %; "
        f"a change of {100 * EFFECT:g} % would be seen",
    }[check.verdict]
    return [fill(line, 80, subsequent_indent="  ") for line in [*lines, closing]]


def check_document(check: Check, baseline: Baseline) -> dict[str, Any]:
    return {
        "verdict": check.verdict,
        "false_alarm_rate": ALPHA,
        "margin": MARGIN,
        "effect": EFFECT,
        "seeds_needed": check.seeds_needed,
        "problems": [problem.what for problem in check.problems],
        "unjudged": dict(check.unjudged),
        "new": list(check.new),
        "baseline": {"config_hash": baseline.config_hash, "made_by": baseline.made_by},
        "tests": [comparison.model_dump() for comparison in check.comparisons],
    }


def label(row: Comparison) -> str:
    return row.name if row.group == "{}" else f"{row.name} {row.group}"


def percent(fraction: float) -> str:
    """Return a fraction in per cent, as in '+5', '-0.012', '0'; more than 1000 % in scientific notation."""
    value = 100 * fraction
    return "0" if abs(value) < 1e-4 else f"{value:+.2g}" if abs(value) < 10 or abs(value) > 1000 else f"{value:+.0f}"


def _count(check: Check) -> int:
    return len({(row.group, row.name) for row in check.regressions})


def _undecided(check: Check) -> str:
    few = sum(row.verdict == "inconclusive" for row in check.comparisons)
    reasons = []
    if few:
        seeds = f"about {check.seeds_needed} seeds per width would suffice"
        reasons.append(f"too few seeds to see a change of {100 * EFFECT:g} % in {few} quantities; {seeds}")
    if check.problems:
        reasons.append("not all runs and quantities could be compared")
    return "; ".join(reasons) or "nothing could be compared"


def _unjudged(check: Check) -> dict[str, list[str]]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in check.unjudged:
        by_reason.setdefault(reason, []).append(name)
    return by_reason


def _maker(baseline: Baseline) -> str:
    provenance = baseline.made_by
    stored = provenance.get("versions")
    versions = stored if isinstance(stored, dict) else {}
    parts = [f"{name} {versions[name]}" for name in ("ntkrun", "torch") if name in versions]
    parts += [f"commit {str(provenance['commit'])[:12]}"] if provenance.get("commit") else []
    parts += [str(provenance[name]) for name in ("cpu", "gpu", "device") if provenance.get(name)]
    return printable(", ".join(parts))[:200] or "unknown versions"
