"""The report as one HTML file: no script, and nothing from outside."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ntkrun.errors import UserError
from ntkrun.evidence.check_tables import check_cells, check_lines
from ntkrun.evidence.estimates import Interval
from ntkrun.evidence.report.page import Figure, Page, Section
from ntkrun.evidence.report.svg import inlined, width_of

SHOWN = 4  # figures of a section that are seen at once; the others unfold
COLUMN = 300  # points: what is wider takes both columns of the page
MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "?"}


def html(page: Page) -> str:
    """The page. Raises UserError where a stored figure cannot be read."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["across"] = _across
    sections = [
        {"it": section, "anchor": anchor, "figures": _figures(section, anchor)}
        for section, anchor in zip(page.sections, page.anchors, strict=True)
    ]
    change = page.change and {
        "it": page.change,
        "cells": check_cells(page.change.check),
        "lines": check_lines(page.change.check, page.change.baseline),
        "figure": _drawn(page.change.figure, "change"),
    }
    return environment.get_template("page.html").render(
        page=page, sections=sections, change=change, marks=MARKS, shown=SHOWN
    )


def _figures(section: Section, anchor: str) -> list[dict[str, object]]:
    return [_drawn(figure, f"{anchor}-{number}") for number, figure in enumerate(section.figures)]


def _drawn(figure: Figure, name: str) -> dict[str, object]:
    """A figure for the template. Markup: `inlined` has left nothing but shapes."""
    try:
        svg = inlined(figure.svg, f"{name}-", figure.alt)
    except ValueError as error:
        raise UserError(f"{figure.path}: cannot be read as a figure ({error}); draw it again") from None
    return {"svg": Markup(svg), "wide": width_of(svg) > COLUMN, "caption": figure.caption, "title": figure.title}


def _across(places: Interval) -> tuple[float, float, float]:
    """An interval on the bar of a claim, whose middle, from 50 to 100, is the margin: where it begins, how wide it is
    (2 at least, to be seen) and its middle."""
    low, high = (50 * (1 + end) for end in places)
    return round(low, 1), round(max(high - low, 2), 1), round((low + high) / 2, 1)
