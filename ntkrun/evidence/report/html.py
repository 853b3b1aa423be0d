"""The report as one HTML file, without scripts and external resources."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ntkrun.errors import UserError
from ntkrun.evidence.cells import bar_position
from ntkrun.evidence.records import Finding
from ntkrun.evidence.regression.check_tables import check_cells, check_lines
from ntkrun.evidence.report.page import Figure, Page, Section
from ntkrun.evidence.report.tables import parts_cells

SHOWN = 4  # figures of a section that are shown at once; the others unfold
COLUMN = 300  # points: wider figures take both columns of the page
MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "?"}


def html(page: Page) -> str:
    """Return the page as HTML. Raises UserError where a stored figure cannot be read."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(across=_across, parts=parts_cells)
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
    """Return a figure for the template. Markup is safe: `inlined` removes everything but shapes."""
    try:
        svg = inlined(figure.svg, f"{name}-", figure.alt)
    except ValueError as error:
        raise UserError(f"{figure.path}: cannot be read as a figure ({error}); draw it again") from None
    return {"svg": Markup(svg), "wide": width_of(svg) > COLUMN, "caption": figure.caption, "title": figure.title}


def _across(finding: Finding) -> tuple[float, float, float] | None:
    """Return where the interval of a finding begins on its bar, its width (at least 2, to be visible) and its middle;
    None without an estimate. The margin lies in the middle of the bar, from 50 to 100."""
    if math.isnan(finding.estimate):
        return None
    ends = (finding.estimate if math.isnan(end) else end for end in finding.interval)
    low, high = (50 * (1 + bar_position(end, finding.expected)) for end in ends)
    return round(low, 1), round(max(high - low, 2), 1), round((low + high) / 2, 1)


# ---------------------------------------------------------------- svg


# The elements and attributes that matplotlib draws with. Its style sheet is a single rule, which style.css contains.
SHAPES = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "image", "pattern"}
LOOKS = {"d", "style", "transform", "viewBox", "width", "height", "x", "y", "clip-path"}
_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")  # of a point, 1/72 inch: less than a screen or a printer shows
_REFERENCED = re.compile(r"(?:\bhref=\"|url\()#([^\")]*)")


def inlined(text: str, prefix: str, alt: str) -> str:
    """Return an SVG file as an element of a page. Everything but shapes and their look (scripts, links, comments) is
    left out, `prefix` goes before every id, and `alt` is the alternative text. Raises ValueError where it is not an
    SVG."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(str(error)) from None
    if _local(root.tag) != "svg":
        raise ValueError("its root element is not svg")
    clean = _cleaned(root, prefix, set(_REFERENCED.findall(text)))
    clean.attrib |= {"role": "img", "aria-label": alt}
    return ET.tostring(clean, encoding="unicode")


def width_of(svg: str) -> float:
    """Return the width of an inlined figure in points; 0 where it has none."""
    match = re.match(r"<svg[^>]*\bviewBox=\"[\d.]+ [\d.]+ ([\d.]+)", svg)
    return float(match.group(1)) if match else 0.0


def _local(name: str) -> str:
    """Return an XML name without its namespace."""
    return name.rpartition("}")[2]


def _cleaned(element: ET.Element, prefix: str, referenced: set[str]) -> ET.Element:
    attributes = {_local(name): value for name, value in element.attrib.items()}
    safe = {name: _look(name, value, prefix) for name, value in attributes.items() if name in LOOKS}
    if attributes.get("id") in referenced:
        safe["id"] = prefix + attributes["id"]
    if target := _target(attributes.get("href", ""), prefix):
        safe["href"] = target
    clean = ET.Element(_local(element.tag), {name: value for name, value in safe.items() if value})
    clean.extend(_cleaned(child, prefix, referenced) for child in element if _local(child.tag) in SHAPES)
    return clean


def _target(href: str, prefix: str) -> str:
    """Return a reference within the figure under its new id, and embedded pixels unchanged; '' for external targets."""
    if href.startswith("#"):
        return f"#{prefix}{href[1:]}"
    return href if href.startswith("data:image/png;base64,") else ""


def _look(name: str, value: str, prefix: str) -> str:
    if name == "d":
        return _HUNDREDTHS.sub(r"\1", " ".join(value.split()))
    renamed = value.replace("url(#", f"url(#{prefix}")
    return renamed if renamed.count("url(") == value.count("url(#") else ""  # '' where it refers to something external
