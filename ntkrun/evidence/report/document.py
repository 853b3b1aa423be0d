"""The report for machines."""

from typing import Any

from ntkrun.evidence.check_tables import check_document
from ntkrun.evidence.report.page import Page, Section


def document(page: Page) -> dict[str, Any]:
    """The page as plain values. Numbers that are none are nan: who writes it as JSON makes them null."""
    change = page.change
    return {
        "tally": page.tally,
        "sections": [_section(section) for section in page.sections],
        "change": change and {"sweep": change.sweep, **check_document(change.check, change.baseline)},
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "control": section.is_control,
        "statement": section.statement,
        "references": section.references,
        "departures": section.departures,
        "preset": section.preset,
        "claims": [claim.model_dump() for claim in section.claims],
        "rows": [row.model_dump() for row in section.rows],
        "figures": {figure.path.stem: figure.caption for figure in section.figures},
        "sweeps": {sweep.name: sweep.swept.model_dump() for sweep in section.sweeps},
    }
