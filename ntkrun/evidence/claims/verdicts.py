"""Claims judged on a sweep's tables: verdicts as plain data, and what they mean for whoever runs them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ntkrun.evidence.claims.findings import INCONCLUSIVE, REFUTED, SUPPORTED, Estimate, Finding, finding
from ntkrun.evidence.claims.table import CLAIMS, Claim, hash_of
from ntkrun.evidence.estimates.cases import Case, cases, settings_text
from ntkrun.evidence.estimates.intervals import CONFIDENCE, Interval
from ntkrun.evidence.estimates.per_run import Tables

FINE, UNFINISHED, REFUTATION, UNDECIDED = 0, 1, 3, 5  # exit codes
DIVERGED = "diverged"
_WORST = (REFUTED, INCONCLUSIVE, SUPPORTED)


@dataclass(frozen=True)
class ClaimRequest:
    """A claim as a config asks for it: what it expects of the verdict, and margins of its own."""

    name: str
    expect: str = SUPPORTED
    thresholds: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A claim judged on one case: the verdict of its worst part, which `deciding` is."""

    claim: Claim
    expect: str
    settings: dict[str, Any]
    axis: str
    findings: list[Finding]
    thresholds_hash: str

    @property
    def deciding(self) -> Finding:
        return min(self.findings, key=lambda each: _WORST.index(each.verdict))

    @property
    def verdict(self) -> str:
        return self.deciding.verdict

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.expect

    @property
    def label(self) -> str:
        return settings_text(self.settings)


def claim_requests(entries: Iterable[Any]) -> list[ClaimRequest]:
    """The claims of a resolved config (sweep.yaml): names, or mappings with `name`, `expect` and margins."""
    return [_request({"name": entry} if isinstance(entry, str) else dict(entry)) for entry in entries]


def _request(entry: dict[str, Any]) -> ClaimRequest:
    name, expect = entry.pop("name"), entry.pop("expect", SUPPORTED)
    return ClaimRequest(name, expect, {key: margin(ends) for key, ends in entry.items()})


def margin(ends: Sequence[float | None]) -> Interval:
    """A margin from its two ends; None is an open one."""
    low, high = ends
    return (float("-inf") if low is None else float(low), float("inf") if high is None else float(high))


def judge(tables: Tables, wanted: Sequence[ClaimRequest]) -> list[Verdict]:
    """Every claim on every case of the sweep."""
    axes = dict.fromkeys(CLAIMS[each.name].axis for each in wanted)
    along = {axis: list(cases(tables, axis)) for axis in axes}  # the same for all claims of an axis
    return [_judged(each, case) for each in wanted for case in along[CLAIMS[each.name].axis]]


def _judged(wanted: ClaimRequest, case: Case) -> Verdict:
    """The parts of a claim share its chance of a false refutation: each of k intervals has confidence 1 - 5 %/k."""
    claim = CLAIMS[wanted.name]
    margins = claim.margins(case, wanted.thresholds)
    measures = [(part, *found) for part in claim.parts for found in part.measures(case, margins[part.key])]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(measures))
    unmet = _unmet(claim, case)
    none = Estimate(trouble=unmet or "no run is finished") if case.statistics.empty else None
    found = [finding(name, none or measure(confidence), margins[part.key], unmet) for part, name, measure in measures]
    if not found:
        nothing = Estimate(trouble=f"networks of depth {case.depth} have no such layer")
        found = [finding("", nothing, (-math.inf, math.inf))]
    return Verdict(claim, wanted.expect, case.settings, case.axis.name, found, hash_of(margins))


def _unmet(claim: Claim, case: Case) -> str:
    return "; ".join(text for condition in claim.conditions if (text := condition(case)))


def document(verdicts: Sequence[Verdict], tables: Tables, expect: str | None) -> dict[str, Any]:
    """What claims.json holds and `ntkrun claims --json` prints."""
    return {"claims": [_entry(each) for each in verdicts], "runs": run_counts(tables), "expect": expect}


def run_counts(tables: Tables) -> dict[str, int]:
    """How many runs are planned, and how they ended."""
    ended = {status: int((tables.runs["status"] == status).sum()) for status in ("done", DIVERGED, "failed")}
    return {"planned": len(tables.plan), **ended, "missing": len(tables.plan) - len(tables.runs)}


def _entry(verdict: Verdict) -> dict[str, Any]:
    deciding = _finding_entry(verdict.deciding)
    return {
        "name": verdict.claim.name,
        "statement": verdict.claim.statement,
        "reference": verdict.claim.reference,
        "settings": verdict.settings,
        "axis": verdict.axis,
        "expect": verdict.expect,
        "as_expected": verdict.as_expected,
        **deciding,
        "thresholds_hash": verdict.thresholds_hash,
        "parts": [_finding_entry(each) for each in verdict.findings],
    }


def _finding_entry(found: Finding) -> dict[str, Any]:
    return {
        "part": found.part,
        "verdict": found.verdict,
        "estimate": found.estimate.value,
        "interval": list(found.estimate.interval),
        "kind": found.estimate.kind or "95 %",
        "expected": list(found.expected),
        "fit_range": list(found.estimate.fit_range),
        "seeds": int(found.estimate.seeds),
        "asymptotic": not found.estimate.curved,
        "why": found.why,
    }


def runs_code(counts: Mapping[str, int], expect: str | None) -> int:
    """What how the runs ended means for whoever ran them: 1 where some failed, or diverged and were not to; 3 where all
    have ended, and none diverged although the config expects it."""
    if counts["failed"] or (counts[DIVERGED] and expect != DIVERGED):
        return UNFINISHED
    none = expect == DIVERGED and not counts[DIVERGED] and not counts["missing"]
    return REFUTATION if none else FINE


def exit_code(verdicts: Sequence[Verdict], tables: Tables, expect: str | None) -> int:
    """How the runs ended comes first; then what turned out otherwise than expected; then what is undecided."""
    counts = run_counts(tables)
    if code := runs_code(counts, expect):
        return code
    if any(not each.as_expected and each.verdict != INCONCLUSIVE for each in verdicts):
        return REFUTATION
    undecided = any(not each.as_expected for each in verdicts) or counts["missing"] > 0
    return UNDECIDED if undecided else FINE
