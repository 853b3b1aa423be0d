"""Tables of text, and numbers and intervals as text, for terminals and reports."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, OverflowMethod
from rich.table import Table
from rich.text import Text

from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.text import spelled_out

BEYOND = 1.0  # the largest distance from its margin at which an estimate is drawn, in margins


class PlainConsole(Console):
    """A console that shows text unchanged, without markup and colours. Characters that the stream cannot show are
    spelled out before the layout, so that columns stay aligned."""

    def __init__(self, **how: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(spelled_out(text, self.encoding), **how)


@dataclass(frozen=True)
class Cells:
    """A table of text. Columns hold numbers, aligned to the right, except those that `text` names."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    text: tuple[str, ...] = ()


def rich_table(cells: Cells, before: str = "", overflow: OverflowMethod = "ellipsis") -> Table:
    """Return a table for a terminal; `before` goes above the title. Print it on a PlainConsole, which does not read the
    text of configs and data as markup."""
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


def interval_text(interval: Interval, decimals: int = 2) -> str:
    """Return an interval as text: '[-1.20, -0.80]', or '< 0.05' with an open end."""
    low, high = (number_text(end, decimals) for end in interval)
    if math.isinf(interval[0]):
        return "any" if math.isinf(interval[1]) else f"< {high}"
    return f"> {low}" if math.isinf(interval[1]) else f"[{low}, {high}]"


def decimals_for(margin: Interval) -> int:
    """Return how many decimals show on which side of an edge of the margin a number of order one lies: two, and more
    for a margin narrower than 0.05."""
    width = margin[1] - margin[0]
    return 2 if math.isinf(width) or width >= 0.05 else 1 + math.ceil(round(-math.log10(width), 6))


def bar_position(value: float, margin: Interval) -> float:
    """Return the position of a number on a scale where its margin goes from 0 to 1. A margin with an open end gets
    twice the absolute value of its other end as width. Positions further out than BEYOND are moved there."""
    low, high = margin
    if math.isinf(low) and math.isinf(high):
        return 0.5
    if math.isinf(low):
        low = high - 2 * abs(high)
    if math.isinf(high):
        high = low + 2 * abs(low)
    return min(max((value - low) / (high - low), -BEYOND), 1 + BEYOND)


def number_text(value: float, decimals: int = 2) -> str:
    """Return a number with these decimals if it is of order one, else with two significant digits; zero as 0.00."""
    if value == 0 or 0.1 <= abs(value) < 100:
        return f"{value:.{decimals if value else 2}f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.2g}")
