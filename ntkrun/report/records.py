"""The contents of claims.json and result.json, validated when read: such files may come from anywhere."""

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
    """Return the ends of a margin as numbers; null is an open end."""
    if not isinstance(ends, Sequence) or len(ends) != 2:
        return ends
    return (-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])


Number = Annotated[float, BeforeValidator(_number)]  # JSON has null for what is not a number
Span = tuple[Number, Number]
Margin = Annotated[tuple[float, float], BeforeValidator(_margin)]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(_Stored):
    """A judged part of a claim."""

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
        """The ends of the interval on a scale where the margin goes from 0 to 1. The estimate twice where there is no
        interval; None where there is no estimate."""
        if math.isnan(self.estimate):
            return None
        low, high = (self.estimate if math.isnan(end) else end for end in self.interval)
        return bar_position(low, self.expected), bar_position(high, self.expected)


class Claim(Part):
    """A claim judged on one case of a sweep; its own numbers are those of the part that decides the verdict."""

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
        """The sweep, where an experiment has several, and the settings of the case: 'losses, loss huber'."""
        return ", ".join(text for text in (self.sweep, settings_text(self.settings)) if text)

    @property
    def is_control(self) -> bool:
        return self.expect != SUPPORTED

    @property
    def outcome(self) -> str:
        """'supported', 'inconclusive', 'otherwise' (not as expected), or 'control' (a control that failed as
        expected)."""
        if self.as_expected:
            return "control" if self.is_control else SUPPORTED
        return INCONCLUSIVE if self.verdict == INCONCLUSIVE else "otherwise"

    @property
    def said(self) -> str:
        """The verdict; for a control, with what was expected."""
        if not self.is_control:
            return self.verdict
        return self.verdict + (", as expected" if self.as_expected else f", expected {self.expect}")

    @property
    def table(self) -> Cells:
        """The parts of the claim, a row each."""
        rows = [(p.part or self.name, p.verdict, p.measured, p.margin, str(p.seeds or "")) for p in self.parts]
        return Cells("", ("part", "verdict", "measured", "expected", "seeds"), rows, text=("part", "verdict"))

    @property
    def conditions(self) -> list[str]:
        """The conditions for judging the claim, in words."""
        known = CLAIMS.get(self.name)
        return [condition.__doc__ or "" for condition in known.conditions] if known else []


class Row(_Stored):
    """A measured value, with that of the paper and of the theory where there is one."""

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
    """Return rows as a table without empty columns; None without rows."""
    cells = [row.shown for row in rows]
    names = ("quantity", "paper", "theory", "ours", "95 % interval", "note")
    columns = [k for k in range(len(names)) if any(row[k] for row in cells)]
    if not columns:
        return None
    table = [tuple(row[k] for k in columns) for row in cells]
    return Cells(title, tuple(names[k] for k in columns), table, text=("quantity", "note"))


class MadeBy(_Stored):
    """The machine, versions and commit that ran a sweep."""

    model_config = ConfigDict(frozen=True, extra="allow")

    versions: dict[str, str]
    dirty: bool | None = None

    def __str__(self) -> str:
        extra = self.model_extra or {}
        parts = [f"{key} {extra[key]}" for key in MADE_BY if extra.get(key)]
        changed = " (with uncommitted changes)" if self.dirty else ""
        return "; ".join(parts) + changed + "; " + ", ".join(f"{k} {v}" for k, v in self.versions.items())


class Swept(_Stored):
    """A sweep of an experiment: its folder, how its runs ended, and what made it."""

    results: str
    planned: int
    done: int
    diverged: int
    seconds: float
    made_by: MadeBy


class Judged(_Stored):
    """The content of claims.json."""

    claims: tuple[Claim, ...]


class Experiment(_Stored):
    """The content of an experiment's result.json."""

    name: str
    statement: str
    references: str
    departures: str
    preset: str
    sweeps: dict[str, Swept]
    claims: tuple[Claim, ...]
    rows: tuple[Row, ...]
    figures: dict[str, str]  # captions by file stem
