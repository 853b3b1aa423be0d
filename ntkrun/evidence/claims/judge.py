"""Judges the claims of a sweep from its tables: each is supported, refuted or inconclusive, for a reason."""

import math
from collections.abc import Iterable, Sequence

from ntkrun.evidence.claims.conditions import none_diverged
from ntkrun.evidence.claims.entry import ClaimEntry
from ntkrun.evidence.claims.table import CLAIMS, Claim, hash_of
from ntkrun.evidence.estimates.cases import Case, cases
from ntkrun.evidence.estimates.estimate import Estimate
from ntkrun.evidence.estimates.intervals import CONFIDENCE, Interval
from ntkrun.evidence.estimates.per_run import Tables
from ntkrun.evidence.reasons import INCONCLUSIVE, REFUTED, SUPPORTED, Reason, Status
from ntkrun.evidence.records import Finding, Judgement, RunCounts, Verdict

HOPELESS = 400  # if more than this many times the seeds were needed, the estimate lies on the edge of the margin
NO_RUNS = Estimate(status=Reason.NO_RUNS.of())
# What says less than an unmet condition of the claim.
UNMET_FIRST = (Reason.OK, Reason.NO_RUNS, Reason.IMPOSSIBLE, Reason.NOT_MEASURED)
_WORST_FIRST = (REFUTED, INCONCLUSIVE, SUPPORTED)


def judgement(tables: Tables, entries: Iterable[ClaimEntry], expect: str | None = None) -> Judgement:
    """Return the verdicts on every claim for every case of the sweep, and how its runs ended. `expect` is what the
    config expects of the runs."""
    return Judgement(claims=tuple(judge(tables, entries)), runs=run_counts(tables), expect=expect)


def run_counts(tables: Tables) -> RunCounts:
    """Return how many runs are planned, how many ended with each status, and how many are missing."""
    ended = {status: int((tables.runs["status"] == status).sum()) for status in ("done", "diverged", "failed")}
    return RunCounts(planned=len(tables.plan), **ended, missing=len(tables.plan) - len(tables.runs))


def judge(tables: Tables, entries: Iterable[ClaimEntry]) -> list[Verdict]:
    """Judge every claim on every case of the sweep."""
    wanted = list(entries)
    axes = dict.fromkeys(CLAIMS[entry.name].axis for entry in wanted)
    along = {axis: list(cases(tables, axis)) for axis in axes}  # the same for all claims of an axis
    return [_judge_claim(entry, case) for entry in wanted for case in along[CLAIMS[entry.name].axis]]


def _judge_claim(entry: ClaimEntry, case: Case) -> Verdict:
    """Judge a claim on one case. The parts share the claim's chance of a false refutation: each of k intervals has
    confidence 1 - 5 %/k."""
    claim = CLAIMS[entry.name]
    margins = claim.margins(case, entry.thresholds)
    measures = [(part, *labelled) for part in claim.parts for labelled in part.measures(case, margins[part.key])]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(measures))
    unmet = [status for condition in claim.conditions if not (status := condition(case)).ok]
    # A claim about runs that may diverge is judged by all that were trained.
    runs = case.statistics if none_diverged in claim.conditions else case.trained
    findings = [
        finding(label, NO_RUNS if runs.empty else measure(confidence), margins[part.key], unmet)
        for part, label, measure in measures
    ]
    if not findings:
        no_layer = Estimate(status=Reason.NO_LAYER.of(depth=case.depth))
        findings = [finding("", no_layer, (-math.inf, math.inf))]
    return _verdict(claim, entry, case, findings, hash_of(margins))


def _verdict(claim: Claim, entry: ClaimEntry, case: Case, findings: Sequence[Finding], margins_hash: str) -> Verdict:
    """Return the verdict of the claim's worst part; of several with that verdict, the one nearest to an edge of its
    margin, or furthest outside."""
    deciding = min(findings, key=lambda part: (_WORST_FIRST.index(part.verdict), part.room))
    return Verdict(
        name=claim.name,
        statement=claim.statement,
        reference=claim.reference,
        settings=case.settings,
        axis=case.axis.name,
        expect=entry.expect,
        as_expected=deciding.verdict == entry.expect,
        **dict(deciding),
        thresholds_hash=margins_hash,
        conditions=tuple(condition.__doc__ or "" for condition in claim.conditions),
        parts=tuple(findings),
    )


def finding(part: str, estimate: Estimate, expected: Interval, unmet: Sequence[Status] = ()) -> Finding:
    """Return the verdict on one estimate. It is inconclusive if conditions of the claim are `unmet`."""
    reasons = _reasons(estimate, expected, unmet)
    return Finding(
        part=part,
        verdict=reasons[0].reason.verdict,
        reason=reasons[0].reason,
        estimate=estimate.value,
        interval=estimate.interval,
        kind=estimate.kind,
        expected=expected,
        fit_range=estimate.fit_range,
        seeds=int(estimate.seeds),
        asymptotic=estimate.asymptotic,
        why="; ".join(filter(None, [*map(str, reasons), estimate.remark])),
    )


def _reasons(estimate: Estimate, expected: Interval, unmet: Sequence[Status]) -> Sequence[Status]:
    """Return what decides the verdict. An unmet condition says more than a number that is missing for want of runs."""
    if unmet and estimate.status.reason in UNMET_FIRST:
        return unmet
    if not estimate.status.ok:
        return [estimate.status]
    return [_reason(estimate, expected)]


def _reason(estimate: Estimate, expected: Interval) -> Status:
    """Return where the interval of an estimate lies, and what would settle it where it straddles an edge."""
    low, high = estimate.interval
    spans = {"interval": _span(estimate.interval), "expected": _span(expected)}
    if math.isnan(low) or math.isnan(high):
        return Reason.NO_INTERVAL.of()
    if expected[0] <= low and high <= expected[1]:
        return Reason.INSIDE.of()
    if _outside(estimate.interval, expected):
        may_reach = not math.isnan(estimate.limit[0]) and not _outside(estimate.limit, expected)
        return (Reason.CHANGES_WITH_WIDTH if may_reach else Reason.OUTSIDE).of(**spans)
    if estimate.remedy.reason is not Reason.MORE_SEEDS:
        return estimate.remedy.reason.of(**spans, **estimate.remedy.numbers)
    factor = _seeds_factor(estimate, expected)
    if factor > HOPELESS:
        return Reason.ON_THE_EDGE.of(**spans)
    needed = math.ceil(round(max(estimate.seeds, 1) * factor, 6))
    return Reason.MORE_SEEDS.of(**spans, needed=needed, seeds=estimate.seeds, at=estimate.at)


def _seeds_factor(estimate: Estimate, expected: Interval) -> float:
    """Return by how much the number of seeds has to grow for the half-width of a confidence interval to shrink to the
    distance from the nearest edge of the margin."""
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    distance = min(abs(estimate.value - edge) for edge in expected)
    return (half / distance) ** 2 if distance else math.inf


def _outside(interval: Interval, expected: Interval) -> bool:
    return interval[1] < expected[0] or interval[0] > expected[1]


def _span(interval: Interval) -> str:
    """Return an interval as text, with a digit more than tables show: the side of an edge on which an end lies."""
    low, high = interval
    if math.isinf(low) or math.isinf(high):
        return f"at most {high:.3g}" if math.isinf(low) else f"at least {low:.3g}"
    return f"[{low:.3g}, {high:.3g}]"
