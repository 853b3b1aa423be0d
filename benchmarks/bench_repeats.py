"""False alarms: how often the sound program is refuted, over repeats drawn from stored runs.

python benchmarks/bench_repeats.py [--repeats 200] [--jobs 1] [--work DIR] [--only SWEEP ...]

Each small sweep of bench_mutants.py is run with four times its seeds. A repeat draws a quarter of these seeds, without
replacement (networks that occur twice are what independent-runs refutes), and judges the claims of every sweep. Half of
a chance of 5 % per claim and case is on each side; most truths lie well within their margins.
"""

import argparse
import json
import re
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_mutants import SWEEPS

if TYPE_CHECKING:
    from ntkrun.store.results_directory import Results

TIMES = 4
TABLES = ("runs", "steps", "layers", "plan", "modes", "outputs")


def pool(sweep: str, work: Path) -> "Results":
    """Return the tables of a sweep with `TIMES` its seeds, run once."""
    import ntkrun
    from ntkrun.config.reader import parse_config

    text = re.sub(r"seeds: (\d+)", lambda found: f"seeds: {TIMES * int(found[1])}", SWEEPS[sweep])
    return ntkrun.run_sweep(parse_config(f"name: {sweep}\n{text}"), results=work / "pool")


def drawn(tables: "Results", repeat: int) -> "Results":
    """Return the tables of a random quarter of the seeds, the same at every point of a block's grid."""
    plan = tables.plan
    blocks = plan.groupby([column for column in plan if column not in ("run_id", "seed")], dropna=False, sort=False)
    chosen: list[str] = []
    for _, point in blocks:
        seeds = np.random.default_rng([repeat, len(point)]).permutation(len(point))[: len(point) // TIMES]
        chosen += point["run_id"].iloc[seeds].tolist()
    kept = {name: table[table["run_id"].isin(chosen)] for name in TABLES if len(table := getattr(tables, name))}
    return replace(tables, **kept)


def repeats_of(sweep: str, work: Path, repeats: int) -> dict[str, Any]:
    """Return which claims a sweep's repeats refute, by repeat, and how often each is inconclusive."""
    from ntkrun.evidence.claims.entry import stored_claims
    from ntkrun.evidence.claims.judge import judgement

    path = work / "repeats" / f"{sweep}.json"
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if known["repeats"] == repeats:
            return known
    tables = pool(sweep, work)
    entries = stored_claims(tables.config(), tables.path / "sweep.yaml")
    refuted: dict[int, list[str]] = {}
    undecided: Counter[str] = Counter()
    for repeat in range(repeats):
        for each in judgement(drawn(tables, repeat), *entries).claims:
            name = f"{each.name} ({each.part or 'all'})"
            if each.verdict == "inconclusive":
                undecided[name] += 1
            elif each.verdict != each.expect:
                refuted.setdefault(repeat, []).append(f"{name}: {each.why}")
    answer = {"sweep": sweep, "repeats": repeats, "refuted": refuted, "inconclusive": dict(undecided)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(answer, ensure_ascii=False), encoding="utf-8")
    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(SWEEPS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ntkrun-mutants")
    options = parser.parse_args()
    count = len(options.only)
    with ProcessPoolExecutor(options.jobs) as processes:
        answers = processes.map(repeats_of, options.only, [options.work] * count, [options.repeats] * count)
        wrong: set[str] = set()
        for answer in answers:
            wrong |= set(answer["refuted"])
            print(json.dumps(answer, ensure_ascii=False), flush=True)
    print(f"{len(wrong)} of {options.repeats} repeats refute anything")


if __name__ == "__main__":
    main()
