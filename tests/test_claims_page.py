"""docs/claims.md has the margins that the code has."""

import math
from pathlib import Path

from ntkrun.evidence.claims import CLAIMS
from ntkrun.evidence.estimates import Interval
from ntkrun.evidence.parts import Extremes, Height, Part, Pooled, Slope
from ntkrun.evidence.vanishing import Vanishes

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
KINDS = {Slope: "exponent", Pooled: "exponent, seeds pooled", Height: "level", Extremes: "range", Vanishes: "range"}


def rows() -> list[str]:
    """The table of the page, from the code."""
    return [
        f"| {claim.name if part is claim.parts[0] else ''} | `{part.key}` | {KINDS.get(type(part), 'edge')}"
        f"{'' if claim.axis.name == 'width' else ' in the ' + claim.axis.name} | {_margins(part)} |"
        for claim in CLAIMS.values()
        for part in claim.parts
    ]


def _margins(part: Part) -> str:
    if not isinstance(part, Slope):
        return _span(part.expected)  # type: ignore[attr-defined]
    return _span(part.smooth) + (f"; kinks {_span(part.kinked)}" if part.kinked else "")


def _span(margin: Interval) -> str:
    low, high = margin
    return f"below {high:g}" if math.isinf(low) else f"{low:g} to {high:g}".replace("-", "−")


def test_the_page_has_every_margin() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [row for row in rows() if row not in text]
    assert not missing, "\n".join(missing)
