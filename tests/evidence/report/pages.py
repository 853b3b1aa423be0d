"""A small page, of plain data that anybody may have written."""

from pathlib import Path
from typing import Any

from ntkrun.evidence.records import ExperimentResult
from ntkrun.evidence.report.page import Figure, Page, Section

HOSTILE = "<script>alert('x')</script> \"q\" & | ](http://outside.example/a.png)"
SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 245 194" width="245pt">
<!-- a comment --><defs><style>*{fill: red}</style><path id="glyph" d="M 0.123456 1
L 2 3.98765"/><clipPath id="box"><rect x="0" y="0" width="9" height="9"/></clipPath></defs>
<g id="unused" onclick="alert(1)"><use xlink:href="#glyph" transform="scale(0.015625)" style="fill: #0072b2"/></g>
<path d="M 0 0 L 9 9" clip-path="url(#box)" style="stroke: #000000"/>
</svg>"""


def part(**changes: Any) -> dict[str, Any]:
    return {
        "part": "exponent",
        "verdict": "supported",
        "estimate": -1.0,
        "interval": [-1.1, -0.9],
        "expected": [-1.2, -0.8],
        "fit_range": [64, 512],
        "seeds": 8,
        "why": "",
        **changes,
    }


def claim(**changes: Any) -> dict[str, Any]:
    said = {
        "name": "frozen-kernel",
        "statement": "The kernel stands still.",
        "reference": "[J] theorem 2",
        "settings": {},
        "expect": "supported",
        "as_expected": True,
        "conditions": ["every planned run has ended"],
        "sweep": "one",
    }
    decided = part(**{key: value for key, value in changes.items() if key in part()})
    return {**decided, **said, "parts": [decided], **changes}


def experiment(**changes: Any) -> dict[str, Any]:
    """What result.json holds."""
    swept = {
        "results": "results/one",
        "planned": 4,
        "done": 4,
        "diverged": 0,
        "seconds": 90.0,
        "made_by": {"versions": {"torch": "2.13.0"}, "system": "Linux x86_64", "commit": "abc", "dirty": False},
    }
    row = {"what": "slope", "ours": -0.81, "interval": [-0.9, -0.7], "paper": -0.8, "theory": None, "note": ""}
    return {
        "name": "lazy",
        "statement": "Networks are lazy.",
        "references": "[L] figure 1",
        "departures": "",
        "preset": "laptop",
        "sweeps": {"one": swept},
        "claims": [claim()],
        "rows": [row],
        "figures": {"kernel_drift": "The drift against width. Dots: seeds."},
        **changes,
    }


def section(config: dict[str, Any] | None = None, svg: str = SVG, **changes: Any) -> Section:
    stored = ExperimentResult.model_validate(experiment(**changes))
    figures = tuple(Figure(Path(f"results/{stem}.svg"), text, svg) for stem, text in stored.figures.items())
    return Section(stored, {name: config or {} for name in stored.sweeps}, figures)


def page(*sections: Section) -> Page:
    return Page(sections or (section(),))
