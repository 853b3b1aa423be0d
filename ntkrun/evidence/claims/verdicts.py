"""Verdicts on the claims of a sweep, from its tables, and the exit codes that follow from them."""

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
_WORST_FIRST = (REFUTED, INCONCLUSIVE, SUPPORTED)


@dataclass(frozen=True)
class ClaimRequest:
    """A claim as requested by a config, with the verdict that the config expects and the margins that it sets."""

    name: str
    expect: str = SUPPORTED
    thresholds: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim for one case. It is the verdict of the claim's worst part, `deciding`."""

    claim: Claim
    expect: str
    settings: dict[str, Any]
    axis: str
    findings: list[Finding]
    thresholds_hash: str

    @property
    def deciding(self) -> Finding:
        return min(self.findings, key=lambda part: _WORST_FIRST.index(part.verdict))

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
    """Return the claims of a resolved config (sweep.yaml). Entries are names, or mappings with `name`, `expect` and
    margins."""
    return [_request({"name": entry} if isinstance(entry, str) else dict(entry)) for entry in entries]


def _request(entry: dict[str, Any]) -> ClaimRequest:
    name, expect = entry.pop("name"), entry.pop("expect", SUPPORTED)
    return ClaimRequest(name, expect, {key: margin(ends) for key, ends in entry.items()})


def margin(ends: Sequence[float | None]) -> Interval:
    """Return a margin from its two ends, where None is an open end."""
    low, high = ends
    return (float("-inf") if low is None else float(low), float("inf") if high is None else float(high))


def judge(tables: Tables, wanted: Sequence[ClaimRequest]) -> list[Verdict]:
    """Judge every claim on every case of the sweep."""
    axes = dict.fromkeys(CLAIMS[request.name].axis for request in wanted)
    along = {axis: list(cases(tables, axis)) for axis in axes}  # the same for all claims of an axis
    return [_judge_claim(request, case) for request in wanted for case in along[CLAIMS[request.name].axis]]


def _judge_claim(request: ClaimRequest, case: Case) -> Verdict:
    """Judge a claim on one case. The parts share the claim's chance of a false refutation: each of k intervals has
    confidence 1 - 5 %/k."""
    claim = CLAIMS[request.name]
    margins = claim.margins(case, request.thresholds)
    measures = [(part, *labelled) for part in claim.parts for labelled in part.measures(case, margins[part.key])]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(measures))
    unmet = _unmet_conditions(claim, case)
    no_runs = Estimate(trouble=unmet or "no run has finished") if case.statistics.empty else None
    findings = [
        finding(label, no_runs or measure(confidence), margins[part.key], unmet) for part, label, measure in measures
    ]
    if not findings:
        no_layer = Estimate(trouble=f"networks of depth {case.depth} have no such layer")
        findings = [finding("", no_layer, (-math.inf, math.inf))]
    return Verdict(claim, request.expect, case.settings, case.axis.name, findings, hash_of(margins))


def _unmet_conditions(claim: Claim, case: Case) -> str:
    return "; ".join(text for condition in claim.conditions if (text := condition(case)))


def document(verdicts: Sequence[Verdict], tables: Tables, expect: str | None) -> dict[str, Any]:
    """Return the contents of claims.json, which `ntkrun claims --json` also prints."""
    return {"claims": [_entry(verdict) for verdict in verdicts], "runs": run_counts(tables), "expect": expect}


def run_counts(tables: Tables) -> dict[str, int]:
    """Return how many runs are planned, how many ended with each status, and how many are missing."""
    by_status = {status: int((tables.runs["status"] == status).sum()) for status in ("done", DIVERGED, "failed")}
    return {"planned": len(tables.plan), **by_status, "missing": len(tables.plan) - len(tables.runs)}


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
        "parts": [_finding_entry(part) for part in verdict.findings],
    }


def _finding_entry(part: Finding) -> dict[str, Any]:
    return {
        "part": part.part,
        "verdict": part.verdict,
        "estimate": part.estimate.value,
        "interval": list(part.estimate.interval),
        "kind": part.estimate.kind or "95 %",
        "expected": list(part.expected),
        "fit_range": list(part.estimate.fit_range),
        "seeds": int(part.estimate.seeds),
        "asymptotic": not part.estimate.curved,
        "why": part.why,
    }


def runs_code(counts: Mapping[str, int], expect: str | None) -> int:
    """Return the exit code that follows from how the runs ended: 1 if some failed, or diverged unexpectedly; 3 if all
    have ended and none diverged although the config expects it; otherwise 0."""
    if counts["failed"] or (counts[DIVERGED] and expect != DIVERGED):
        return UNFINISHED
    none_diverged = expect == DIVERGED and not counts[DIVERGED] and not counts["missing"]
    return REFUTATION if none_diverged else FINE


def exit_code(verdicts: Sequence[Verdict], tables: Tables, expect: str | None) -> int:
    """Return the exit code of a judged sweep. How the runs ended comes first, then verdicts that are not as expected,
    then undecided ones."""
    counts = run_counts(tables)
    if code := runs_code(counts, expect):
        return code
    if any(not verdict.as_expected and verdict.verdict != INCONCLUSIVE for verdict in verdicts):
        return REFUTATION
    undecided = any(not verdict.as_expected for verdict in verdicts) or counts["missing"] > 0
    return UNDECIDED if undecided else FINE
