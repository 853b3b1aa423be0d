"""The records of judging: findings, verdicts, rows, and the contents of claims.json and result.json.

Terminal, JSON, figures, report and checks use these very objects. They are written as they are, and validated when read
back, since a file may come from anywhere. In JSON, null is a number that is not there (nan); in `expected` it is an
open end.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from ntkrun.evidence.cells import decimals_for, interval_text, number_text
from ntkrun.evidence.estimates.cases import settings_text
from ntkrun.evidence.estimates.estimate import CONFIDENT
from ntkrun.evidence.reasons import INCONCLUSIVE, SUPPORTED, Reason

FINE, UNFINISHED, REFUTATION, UNDECIDED = 0, 1, 3, 5  # exit codes
DIVERGED = "diverged"


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def interval_of(ends: Any) -> Any:
    """Return the ends of a margin as numbers, where None is an open end. Anything but a pair is returned unchanged."""
    if not isinstance(ends, Sequence) or len(ends) != 2:
        return ends
    return (-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])


def _known(word: Any) -> Any:
    """Return a reason's word, None for one that this version does not know."""
    return word if word in set(Reason) else None


Number = Annotated[float, BeforeValidator(_number)]
Span = tuple[Number, Number]
Margin = Annotated[tuple[float, float], BeforeValidator(interval_of)]


class Record(BaseModel):
    """A frozen record. Unknown keys are ignored when it is read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# ---------------------------------------------------------------- claims


class Finding(Record):
    """The verdict on one part of a claim: an estimate with its interval, against the interval that is `expected`.

    `kind` is that of the interval: "95 %" (for all parts of a claim together), "all runs" from the smallest to the
    largest run, or "bracket" between two values that were tried. `fit_range` is the range of the axis that was fitted,
    `seeds` the number of seeds where most of the variance comes from. `asymptotic` is false if no single exponent
    describes the range. `reason` is why the verdict is what it is, in a word (None in results of versions
    that do not know it), and `why` in a sentence.
    """

    part: str
    verdict: Literal["supported", "refuted", "inconclusive"]
    reason: Annotated[Reason | None, BeforeValidator(_known)] = None
    estimate: Number
    interval: Span
    kind: str = CONFIDENT
    expected: Margin
    fit_range: Span
    seeds: int
    asymptotic: bool = True
    why: str

    @property
    def numbers(self) -> str:
        """The estimate with its interval: '-0.85 [-0.90, -0.80]'; '-' without an estimate."""
        if math.isnan(self.estimate):
            return "-"
        if math.isnan(self.interval[0]):
            return f"{self.estimate:.3g}"
        decimals = decimals_for(self.expected)
        return f"{number_text(self.estimate, decimals)} {interval_text(self.interval, decimals)}"

    @property
    def room(self) -> float:
        """Return how far the interval lies inside its margin, as a fraction of the margin's width, negative where it
        reaches out. For an open margin the unit is the distance of its edge from 0, or the interval's length if that is
        longer. -inf without an interval, inf without an edge."""
        (low, high), (start, end) = self.interval, self.expected
        rooms = [low - start] * math.isfinite(start) + [end - high] * math.isfinite(end)
        if any(map(math.isnan, (low, high))) or not rooms:
            return -math.inf if rooms else math.inf
        edge = start if math.isfinite(start) else end
        unit = end - start if len(rooms) == 2 else max(abs(edge), high - low)
        return min(rooms) / unit if unit else 0.0

    @property
    def measured(self) -> str:
        """The numbers, with the interval's kind where it is not a confidence interval."""
        has_kind = self.kind != CONFIDENT and not math.isnan(self.interval[0])
        return f"{self.numbers} {self.kind}" if has_kind else self.numbers

    @property
    def margin(self) -> str:
        """The expected interval as text: '[-1.20, -0.80]', or '< 0.05' with an open end."""
        return interval_text(self.expected, decimals_for(self.expected))


class _Claimed(Record):
    """The subject of a verdict: a class of its own, so that these fields come first in JSON."""

    name: str
    statement: str
    reference: str
    settings: dict[str, Any]
    axis: str = "width"
    expect: str
    as_expected: bool


class Verdict(Finding, _Claimed):
    """The verdict on a claim for one case of a sweep: the finding of the part that decides it, and all `parts`.

    `settings` are the values of what the sweep varies besides width and seed, `expect` is the verdict that the config
    expects, and `conditions` are those under which the claim can be judged. `sweep` names the sweep of an experiment.
    """

    thresholds_hash: str = ""
    conditions: tuple[str, ...] = ()
    parts: tuple[Finding, ...]
    sweep: str = ""

    @property
    def case(self) -> str:
        """The settings as text: 'activation relu, depth 4'; '' if the sweep varies nothing else."""
        return settings_text(self.settings)

    @property
    def where(self) -> str:
        """The sweep, where an experiment has several, and the case: 'losses, loss huber'."""
        return ", ".join(text for text in (self.sweep, self.case) if text)

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


class RunCounts(Record):
    """Numbers of runs: planned, ended with each status, and missing."""

    planned: int
    done: int
    diverged: int
    failed: int = 0
    missing: int = 0

    def code(self, expect: str | None) -> int:
        """Return the exit code that follows from how the runs ended: 1 if some failed, or diverged unexpectedly; 3 if
        all have ended and none diverged although the config expects it; otherwise 0."""
        if self.failed or (self.diverged and expect != DIVERGED):
            return UNFINISHED
        none_diverged = expect == DIVERGED and not self.diverged and not self.missing
        return REFUTATION if none_diverged else FINE


class Judgement(Record):
    """The content of claims.json: the verdicts on a sweep, how its runs ended, and what its config expects of them."""

    claims: tuple[Verdict, ...]
    runs: RunCounts
    expect: str | None

    @property
    def code(self) -> int:
        """The exit code. How the runs ended comes first, then verdicts that are not as expected, then undecided
        ones."""
        if code := self.runs.code(self.expect):
            return code
        unexpected = [verdict for verdict in self.claims if not verdict.as_expected]
        if any(verdict.verdict != INCONCLUSIVE for verdict in unexpected):
            return REFUTATION
        return UNDECIDED if unexpected or self.runs.missing else FINE


# ---------------------------------------------------------------- experiments


@dataclass(frozen=True)
class Row:
    """A row of an experiment's table: what is measured, our value with its 95 % interval, and the values of the paper
    and of the theory, where there are any."""

    what: str
    ours: Number
    interval: Span | None = None
    paper: float | None = None
    theory: float | None = None
    note: str = ""


class MadeBy(Record):
    """The machine, versions and commit that ran a sweep."""

    model_config = ConfigDict(frozen=True, extra="allow")

    versions: dict[str, str]
    dirty: bool | None = None

    def __str__(self) -> str:
        extra = self.model_extra or {}
        parts = [
            f"{key} {extra[key]}" for key in ("system", "cpu", "gpu", "cores", "threads", "commit") if extra.get(key)
        ]
        changed = " (with uncommitted changes)" if self.dirty else ""
        return "; ".join(parts) + changed + "; " + ", ".join(f"{k} {v}" for k, v in self.versions.items())


class Swept(RunCounts):
    """A sweep of an experiment: its folder, how its runs ended, the time they took, and what made it."""

    results: str
    seconds: float
    made_by: MadeBy


class ExperimentResult(Record):
    """The content of an experiment's result.json, or the same of a sweep on its own. `figures` are captions by file
    stem."""

    name: str
    statement: str = ""
    references: str = ""
    departures: str = ""
    preset: str = ""
    sweeps: dict[str, Swept]
    claims: tuple[Verdict, ...]
    rows: tuple[Row, ...] = ()
    figures: dict[str, str]
