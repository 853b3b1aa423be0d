"""What claims.json and result.json hold, checked as it is read: such files may come from anywhere."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ntkrun.evidence.claims.findings import INCONCLUSIVE, SUPPORTED, Estimate
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.estimates.cases import settings_text
from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.report.tables import Cells, bar_position, estimate_text, interval_text

CONFIDENT = "95 %"  # the kind of most intervals
MADE_BY = ("system", "cpu", "gpu", "cores", "threads", "commit")


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _margin(ends: Any) -> Any:
    """Null is an open end."""
    if not isinstance(ends, Sequence) or len(ends) != 2:
        return ends
    return (-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])


Number = Annotated[float, BeforeValidator(_number)]  # JSON has null for what is not a number
Span = tuple[Number, Number]
Margin = Annotated[tuple[float, float], BeforeValidator(_margin)]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(_Stored):
    """One part of a claim, judged."""

    part: str
    verdict: str
    estimate: Number
    interval: Span
    expected: Margin
    fit_range: Span
    seeds: int
    why: str
    kind: str = CONFIDENT

    @property
    def measured(self) -> str:
        return estimate_text(Estimate(self.estimate, self.interval, kind="" if self.kind == CONFIDENT else self.kind))

    @property
    def margin(self) -> str:
        return interval_text(self.expected)

    @property
    def places(self) -> Interval | None:
        """The ends of the interval, 0 at the margin's low end and 1 at its high one; the estimate twice where there is
        no interval; None where there is no estimate."""
        if math.isnan(self.estimate):
            return None
        low, high = (self.estimate if math.isnan(end) else end for end in self.interval)
        return bar_position(low, self.expected), bar_position(high, self.expected)


class Claim(Part):
    """A claim judged on one case of a sweep; its own numbers are those of the part that decides."""

    name: str
    statement: str
    reference: str
    settings: dict[str, Any]
    expect: str
    as_expected: bool
    parts: tuple[Part, ...]
    sweep: str = ""

    @property
    def where(self) -> str:
        """'losses, loss huber': the sweep, where an experiment has several, and what sets the case apart in it."""
        return ", ".join(text for text in (self.sweep, settings_text(self.settings)) if text)

    @property
    def is_control(self) -> bool:
        return self.expect != SUPPORTED

    @property
    def outcome(self) -> str:
        """'supported', 'inconclusive' or 'otherwise' (than expected), or 'control', one that turned out as it
        should."""
        if self.as_expected:
            return "control" if self.is_control else SUPPORTED
        return INCONCLUSIVE if self.verdict == INCONCLUSIVE else "otherwise"

    @property
    def said(self) -> str:
        """The verdict, and how it stands to what was expected where that is not plain."""
        if not self.is_control:
            return self.verdict
        return self.verdict + (", as expected" if self.as_expected else f", expected {self.expect}")

    @property
    def table(self) -> Cells:
        """Its parts, a line each."""
        rows = [(p.part or self.name, p.verdict, p.measured, p.margin, str(p.seeds or "")) for p in self.parts]
        return Cells("", ("part", "verdict", "measured", "expected", "seeds"), rows, text=("part", "verdict"))

    @property
    def conditions(self) -> list[str]:
        """What had to hold before it was judged, in words."""
        known = CLAIMS.get(self.name)
        return [condition.__doc__ or "" for condition in known.conditions] if known else []


class Row(_Stored):
    """A number: what the paper measured or the theory says, where they do, and ours."""

    what: str
    ours: float | None
    interval: tuple[float | None, float | None] | None
    paper: float | None
    theory: float | None
    note: str

    @property
    def shown(self) -> tuple[str, ...]:
        low, high = self.interval or (None, None)
        interval = "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]"
        paper, theory, ours = ("" if x is None else f"{x:.3g}" for x in (self.paper, self.theory, self.ours))
        return self.what, paper, theory, ours, interval, self.note


def rows_table(title: str, rows: Iterable[Row]) -> Cells | None:
    """Rows as a table of the columns that one of them has something in; None without rows."""
    shown = [row.shown for row in rows]
    names = ("what", "paper", "theory", "ours", "95 %", "note")
    kept = [k for k in range(len(names)) if any(row[k] for row in shown)]
    if not kept:
        return None
    table = [tuple(row[k] for k in kept) for row in shown]
    return Cells(title, tuple(names[k] for k in kept), table, text=("what", "note"))


class MadeBy(_Stored):
    """What ran a sweep."""

    model_config = ConfigDict(frozen=True, extra="allow")

    versions: dict[str, str]
    dirty: bool | None = None

    def __str__(self) -> str:
        extra = self.model_extra or {}
        known = [f"{key} {extra[key]}" for key in MADE_BY if extra.get(key)]
        changed = " (with changes)" if self.dirty else ""
        return "; ".join(known) + changed + "; " + ", ".join(f"{k} {v}" for k, v in self.versions.items())


class Swept(_Stored):
    """A sweep of an experiment: where it is, how its runs ended, and what made it."""

    results: str
    planned: int
    done: int
    diverged: int
    seconds: float
    made_by: MadeBy


class Judged(_Stored):
    """claims.json."""

    claims: tuple[Claim, ...]


class Experiment(_Stored):
    """result.json of an experiment."""

    name: str
    statement: str
    references: str
    departures: str
    preset: str
    sweeps: dict[str, Swept]
    claims: tuple[Claim, ...]
    rows: tuple[Row, ...]
    figures: dict[str, str]  # captions by file stem
