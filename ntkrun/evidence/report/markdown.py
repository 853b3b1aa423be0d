"""The report as Markdown, for pull requests and for results/summary.md."""

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from ntkrun.evidence.records import Row, Verdict
from ntkrun.evidence.regression.check_tables import check_cells, check_lines
from ntkrun.evidence.report.page import Change, Figure, Page, Section
from ntkrun.evidence.report.tables import row_texts

INTERVALS = (
    "Intervals are 95 % intervals, except “all runs”, from the smallest to the largest run, and “bracket”, between "
    "step sizes that were tried. Each claim is shown with the part that decides its verdict."
)
MARKS = {"supported": "✓", "control": "✓", "inconclusive": "?", "otherwise": "✗"}


def markdown(page: Page, beside: Path | None = None) -> str:
    """Return the page as Markdown: summary, comparison with the baseline, claims, measured and expected values; and,
    with `beside`, the folder of the Markdown file, every section with its figures."""
    claims = [_claim(section, claim) for section, claim in page.claims]
    rows = [_row(section, row) for section, row in page.rows]
    parts = [
        "# Results",
        f"{page.summary.capitalize()}.",
        "\n".join([f"{_text(page.effort)}.", *(f"- {_text(made)}" for made in page.made)]),
        _change(page.change) if page.change else "",
        "## Claims" * bool(claims),
        INTERVALS * bool(claims),
        _table(("", "section", "claim", "case", "verdict", "measured", "expected", "reason"), claims),
        "## Measured and expected values" * bool(rows),
        _table(("section", "quantity", "paper", "theory", "ours", "95 % interval", "note"), rows),
    ]
    if beside:
        parts += ["## Sections", *(_section(section, beside) for section in page.sections)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claim(section: Section, claim: Verdict) -> tuple[str, ...]:
    part = f", {claim.part}" if claim.part else ""
    mark = MARKS[claim.outcome]
    return mark, section.name, claim.name + part, claim.where, claim.said, claim.measured, claim.margin, claim.why


def _row(section: Section, row: Row) -> tuple[str, ...]:
    return section.name, *row_texts(row)


def _change(change: Change) -> str:
    cells = check_cells(change.check)
    lines = "\n".join(f"- {_text(line)}" for line in check_lines(change.check, change.baseline))
    return f"## Comparison with the baseline: {_text(change.sweep)}\n\n{lines}\n\n{_table(cells.head, cells.rows)}"


def _section(section: Section, beside: Path) -> str:
    lines = [
        f"### {_text(section.name)}",
        _text(section.result.statement),
        section.result.references and f"*{_text(section.result.references)}*",
    ]
    if section.result.departures:
        lines.append(f"Differences from the paper: {_text(section.result.departures)}")
    lines += [_figure(figure, beside) for figure in section.figures]
    return "\n\n".join(line for line in lines if line)


def _figure(figure: Figure, beside: Path) -> str:
    png = quote(os.fsencode(os.path.relpath(figure.path.with_suffix(".png"), beside)))
    return f"![{_text(figure.title)}]({png})\n\n{_text(figure.caption)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; '' without rows."""
    lines = ["| " + " | ".join(_text(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines]) if lines else ""


def _text(text: str) -> str:
    """Return text on one line, with HTML and links escaped: names and reasons come from configs and data."""
    return html.escape(" ".join(text.split()), quote=False).replace("](", r"]\(")
