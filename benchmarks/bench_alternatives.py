"""The nearest wrong theory of each claim, with what it measures.

python benchmarks/bench_alternatives.py > docs/alternatives.md

The worlds are those of tests/evidence/test_alternatives.py and test_power_ensemble.py: tables of the configs' sizes,
drawn from the laws of the theory with one change. Printed is the part that decides.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ntkrun.evidence.claims.entry import ClaimEntry
from ntkrun.evidence.claims.judge import judge
from ntkrun.evidence.estimates.intervals import level
from tests.evidence import test_alternatives as claims
from tests.evidence import test_power_ensemble as ensembles
from tests.evidence.cases import case_of
from tests.evidence.laws import ending_together

HEAD = """\
# The nearest wrong theory of each claim

Tables of the sizes of the configs, drawn from the laws of the theory with one change, and what the claim says of them:
the part that decides. Made by benchmarks/bench_alternatives.py; the tests demand that each is refuted.

| claim | true instead | part | measured | expected | verdict |
|---|---|---|---|---|---|"""
Line = tuple[str, str, str, float, tuple[float, float], tuple[float, float], str]


def of_claims() -> Iterator[Line]:
    """Yield for each alternative the claim, the alternative, the part, estimate, interval, margin, verdict."""
    for name, (laws, alternatives) in claims.ALTERNATIVES.items():
        for alternative, changes in alternatives.items():
            for change in changes:
                known = change() if callable(change) else change
                (found,) = judge(ending_together(laws.but(**known)), [ClaimEntry(name=name)])
                yield name, alternative, found.part, found.estimate, found.interval, found.expected, found.verdict


def of_ensembles() -> Iterator[Line]:
    """Yield a line for each alternative of limit-ensemble: its part that lies furthest outside."""
    drawn = ensembles._drawn(0)
    confidence = 1 - 0.05 / (len(ensembles.STEPS) * len(ensembles.MARGINS))
    for alternative, law in ensembles.ALTERNATIVES.items():
        case = case_of(ensembles._outputs(drawn, law))
        parts = []
        for step in ensembles.STEPS:
            for statistic, margin in ensembles.MARGINS.items():
                found = level(statistic(case, 256.0, str(step), "limit"), confidence)
                low, high = found.interval
                beyond = max(low - margin[1], margin[0] - high) / (high - low)
                name = f"{statistic.__name__} {step}"
                parts.append((beyond, (name, found.mean, found.interval, margin)))
        beyond, part = max(parts)
        yield "limit-ensemble", alternative, *part, "refuted" if beyond > 0 else "not refuted"


def text(value: float | None) -> str:
    """Return a number with four digits, nothing where a range is open."""
    return "" if value is None or value in (float("inf"), float("-inf")) else f"{value:.4g}"


def main() -> None:
    print(HEAD)
    for name, alternative, part, estimate, interval, expected, verdict in [*of_claims(), *of_ensembles()]:
        low, high = map(text, interval)
        least, most = map(text, expected)
        measured = f"{text(estimate)} [{low}, {high}]"
        print(f"| {name} | {alternative} | {part} | {measured} | [{least}, {most}] | {verdict} |")


if __name__ == "__main__":
    main()
