"""The mutation matrix: each fault of mutants.py in a copy of the tree, and who sees it.

python benchmarks/bench_mutants.py [--only ID ...] [--jobs 1] [--work DIR]     runs what DIR has no record of yet
python benchmarks/bench_mutants.py --check       checks that each fault's text occurs once
python benchmarks/bench_mutants.py --write       writes docs/mutants.md from the records

A fault is run through the small sweeps that it touches, through the comparison of these with the sound ones, and
through its tests. It is seen by claims where one that is supported on the sound tree is refuted, a control that is
refuted there is supported, or the sweep fails.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mutants import CLAIMS, EVIDENCE, FAULTS, ROOMS, WHY, Fault

ROOT = Path(__file__).resolve().parent.parent
CPU_SECONDS = 180
PARTS = ("ntkrun", "tests", "experiments", "configs", "benchmarks", "docs", "results", "pyproject.toml", "README.md")

_SPHERE = "data: {name: sphere, dimension: 6, samples: 8, test_samples: 4, targets: random_signs}"
_FEW = "data: {name: sphere, dimension: 6, samples: 3, test_samples: 1}"
_WIDTHS = "grid: {network.width: [48, 96, 192, 384]}"
_LAZY = """{name: lazy-weights, first: [-0.8, -0.25], hidden: [-1.4, -0.65], last: [-0.8, -0.25], all: [-1.5, -0.25],
     operator_first: [-0.8, -0.2], operator_hidden: [-0.9, -0.2], operator_last: [-0.9, -0.2],
     linearised: [0.93, 1.07],
     distance_first: [-0.3, 0.3], distance_hidden: [-0.3, 0.3], distance_last: [-0.3, 0.3]}"""
_LINEAR = "{name: linear-dynamics, train: [-1.7, -0.5], test: [-1.7, -0.5]}"

SWEEPS = {
    "start": """\
network: {depth: 3, activation: relu, beta: 0.5, weight_scale: 1.3}
data: {name: digits, classes: [0, 1, 2, 3], targets: one_hot, samples: 3, test_samples: 1}
training: {steps: 0, dtype: float64}
probes: {kernels: [], detail: none, outputs: [first]}
sweep:
  grid: {network.width: [64, 128, 256]}
  seeds: 600
claims:
  - {name: layer-covariance, level: [0.96, 1.04]}
  - {name: deterministic-kernel, level: [0.97, 1.03]}
  - {name: kernel-recursion, level: [0.97, 1.03], carried: [0.95, 1.05]}
  - diagonal-kernel
  - {name: conditional-normality, second_first: [0.97, 1.03], second_output: [0.85, 1.15],
     fourth_output: [0.6, 1.4], outputs: [0.6, 1.4], together: [-0.2, 0.2]}
  - {name: independent-runs, seeds: [-0.1, 0.1], widths: [-0.1, 0.1]}
""",
    "outputs": """\
network: {depth: 3, activation: relu, beta: 0.1}
data: {name: digits, classes: [0, 1, 2, 3], targets: one_hot, samples: 3, test_samples: 1}
training: {steps: 0}
probes: {kernels: [], detail: none, outputs: [first]}
sweep:
  grid: {network.width: [48, 96, 192]}
  seeds: 1500
claims:
  - {name: gaussian-output, kurtosis: [-1.6, -0.5], first: [-0.15, 0.15], second: [0.9, 1.1], third: [-0.3, 0.3],
     fourth: [0.75, 1.25], together: [-0.15, 0.15], together_fourth: [0.75, 1.25]}
  - {name: independent-outputs, correlation: [-2, -0.3], level: [0.6, 1.4]}
""",
    "one-layer": """\
network: {depth: 1, beta: 0.3}
data: {name: sphere, dimension: 6, samples: 4, test_samples: 0}
training: {steps: 0}
probes: {detail: none, kernels: [], outputs: [first]}
sweep: {seeds: 6000}
claims: [{name: one-layer, fourth: [0.9, 1.1]}]
""",
    "descent": """\
network: {depth: 3, width: 48, beta: 0.5}
data: {name: digits, samples: 8, test_samples: 4}
training: {steps: 6, dtype: float64}
probes: {every: 3, detail: 3, kernels: [], outputs: [first]}
sweep:
  - grid:
      network.activation: [erf, elu]
      training.step_size: [{relative: 0.001}, {relative: 0.004}, {relative: 0.016}]
    seeds: 24
  - grid:
      network.activation: [erf]
      data.targets: [one_hot]
      data.classes: [[3, 8]]
      training.loss: [squared, cross_entropy]
      training.step_size: [{relative: 0.001}, {relative: 0.004}, {relative: 0.016}]
    seeds: 6
  - grid:
      network.activation: [erf]
      training.output_scale: [{centred: 4}]
      training.momentum: [0.0, 0.9]
      training.step_size: [{relative: 0.001}, {relative: 0.004}, {relative: 0.016}]
    seeds: 6
  - grid:
      network.activation: [erf]
      training.loss: [logistic]
      training.batch: [4]
      training.step_size: [{relative: 0.001}, {relative: 0.004}, {relative: 0.016}]
    seeds: 6
  - grid:
      network.activation: [erf]
      training.loss: [huber]
      training.huber_threshold: [0.5]
      training.step_size: [{relative: 0.001}, {relative: 0.004}, {relative: 0.016}]
    seeds: 6
claims: [kernel-gradient-descent, exact-kernel]
""",
    "width": f"""\
network: {{depth: 3, activation: erf, beta: 0.1}}
{_SPHERE}
training: {{step_size: {{relative: 1.0}}, steps: 120, dtype: float64}}
probes: {{every: 5, kernels: [], outputs: [first]}}
sweep:
  {_WIDTHS}
  seeds: 20
claims:
  - {{name: frozen-kernel, exponent: [-1.5, -0.65]}}
  - {_LAZY}
  - frozen-activations
  - subnetwork-kernels
  - {{name: weight-speed, first: [-1.5, -0.15]}}
  - growth-bound
  - {{name: bounded-initialisation, level_first: [0.93, 1.07], level_hidden: [0.97, 1.03], level_last: [0.9, 1.1]}}
  - bounded-backpropagation
  - {{name: deterministic-kernel, distance: [-0.85, -0.15], level: [0.85, 1.15], variance: [-2.5, 0]}}
  - {_LINEAR}
  - exponential-convergence
  - global-minimum
  - nearby-minimum
  - positive-kernel
  - lazy-regime
""",
    "linear": f"""\
network: {{depth: 3, activation: erf, beta: 0.1}}
{_SPHERE}
training: {{step_size: {{relative: 0.5}}, steps: 60, momentum: 0.8, output_scale: 4, dtype: float64}}
probes: {{every: 2, kernels: []}}
sweep:
  {_WIDTHS}
  seeds: 24
claims:
  - {_LINEAR}
  - {_LAZY}
""",
    "losses": """\
network: {depth: 3, activation: erf, beta: 0.1}
data: {name: digits, samples: 8, test_samples: 4}
training: {step_size: {relative: 1.0}, steps: 40, dtype: float64}
probes: {every: 5, kernels: []}
sweep:
  - grid: {training.loss: [huber], training.huber_threshold: [0.1], network.width: [64, 128, 256, 512]}
    seeds: 20
  - grid:
      training.loss: [cross_entropy]
      data.targets: [one_hot]
      data.classes: [[3, 8]]
      network.width: [64, 128, 256, 512]
    seeds: 20
claims:
  - {name: training-direction, kernel: [-1.4, -0.6], first: [-0.8, -0.25], hidden: [-1.4, -0.65], last: [-0.8, -0.25],
     clipped: [0.8, .inf]}
""",
    "sgd": """\
network: {depth: 3, width: 128, activation: erf, beta: 0.1}
data: {name: sphere, dimension: 6, samples: 8, test_samples: 2}
training: {output_scale: {centred: 100}, batch: 6, dtype: float64}
probes: {every: 2, detail: {log_spaced: 2}, kernels: [], outputs: [last]}
sweep:
  zip:
    training.step_size: [{relative: 0.16}, {relative: 0.08}, {relative: 0.04}, {relative: 0.02}]
    training.steps: [40, 80, 160, 320]
  seeds: 80
claims: [{name: stochastic-gradient, weights: [0.35, 0.65], level: [0.7, 1.3]}]
""",
    "ensemble": """\
network: {depth: 3, activation: erf, beta: 0.1}
data: {name: gaussian, dimension: 2, samples: 5, test_samples: 8, test_circle: 1.0, seed: 1, targets: random_signs,
       target_scale: 0.25}
training: {step_size: {relative: 1.0}, steps: 60}
probes: {every: 60, detail: none, kernels: [], outputs: [first, 10, last]}
sweep:
  grid: {network.width: [64, 128, 256]}
  seeds: 800
claims:
  - {name: limit-ensemble, mean: [0.8, 1.2], bias: [-0.05, 0.05], spread: [0.75, 1.25], covariance: [0.8, 1.2]}
  - {name: nngp-ensemble, expect: refuted}
""",
    "scale": f"""\
network: {{depth: 3, width: 48, activation: erf, beta: 0.1}}
{_SPHERE}
training: {{step_size: {{relative: 1.0}}, steps: 100, dtype: float64}}
probes: {{every: 5, kernels: []}}
sweep:
  grid: {{training.output_scale: [{{centred: 8}}, {{centred: 32}}, {{centred: 128}}, {{centred: 512}}]}}
  seeds: 8
claims: [lazy-by-scale]
""",
    "edge": f"""\
network: {{depth: 3, width: 256, activation: erf, beta: 0.1}}
{_SPHERE}
training: {{steps: 120}}
probes: {{every: 1, detail: none, kernels: []}}
sweep:
  grid:
    training.step_size: [{{relative: 1.0}}, {{relative: 1.7}}, {{relative: 1.9}}, {{relative: 2.0}}, {{relative: 2.1}},
                         {{relative: 2.3}}, {{relative: 2.6}}]
  seeds: 8
claims: [{{name: stability-edge, edge: [1.8, 2.2]}}, catapult]
""",
    "mean-field": f"""\
network: {{depth: 3, activation: erf, beta: 0.1, parametrization: mean_field}}
{_SPHERE}
training: {{step_size: {{relative: 1.0}}, steps: 200}}
probes: {{every: 5, kernels: []}}
sweep:
  {_WIDTHS}
  seeds: 8
claims: [{{name: frozen-kernel, expect: refuted}}, {{name: lazy-regime, expect: refuted}}]
""",
    "narrow-layer": f"""\
network: {{depth: 4, activation: erf, beta: 0.1}}
{_SPHERE}
training: {{step_size: {{relative: 0.5}}, steps: 100}}
probes: {{every: 5, kernels: []}}
sweep:
  grid: {{network.width: [[128, 16, 128], [256, 16, 256], [512, 16, 512]]}}
  seeds: 12
claims: [{{name: frozen-kernel, expect: refuted}}, {{name: deterministic-kernel, expect: refuted}}]
""",
    "conflict": """\
network: {depth: 3, activation: erf, beta: 0.1}
data: {name: sphere, dimension: 6, samples: 8, test_samples: 4, targets: random_signs, conflicts: 2}
training: {step_size: {relative: 1.0}, steps: 200, dtype: float64}
probes: {every: 5, kernels: []}
sweep:
  grid: {network.width: [64, 128, 256, 512]}
  seeds: 8
claims: [{name: global-minimum, expect: refuted}, {name: positive-kernel, expect: refuted}, frozen-kernel]
""",
    "unequal": f"""\
network: {{depth: 4, activation: erf, beta: 0.1}}
{_SPHERE}
training: {{step_size: {{relative: 1.0}}, steps: 80}}
probes: {{every: 5, kernels: []}}
sweep:
  grid: {{network.width: [[128, 64, 192], [256, 128, 384], [512, 256, 768]]}}
  seeds: 12
claims:
  - {{name: frozen-kernel, exponent: [-1.5, -0.65]}}
  - {{name: deterministic-kernel, distance: [-0.9, -0.1], level: [0.8, 1.2], variance: [-3, 0]}}
""",
    "depth": f"""\
network: {{depth: 3, activation: relu, beta: 0}}
{_FEW}
training: {{steps: 0}}
probes: {{kernels: [], detail: none, outputs: [first]}}
sweep:
  grid: {{network.width: [64, 128, 256]}}
  seeds: 1500
claims:
  - {{name: kernel-variance, exponent: [-1.4, -0.6], level: [0.83, 1.17]}}
  - {{name: gaussian-output, kurtosis: [-1.6, -0.5], kurtosis_level: [0.75, 1.25], first: [-0.15, 0.15],
     second: [0.9, 1.1], third: [-0.5, 0.5], fourth: [0.6, 1.4], together: [-0.15, 0.15],
     together_fourth: [0.4, 2.6]}}
""",
    "proportional": f"""\
network: {{activation: relu, beta: 0}}
{_FEW}
training: {{steps: 0}}
probes: {{kernels: [], detail: none, outputs: [first]}}
sweep:
  zip: {{network.width: [16, 32, 64], network.depth: [2, 4, 8]}}
  seeds: 1000
claims: [{{name: depth-over-width, level: [0.6, 1.4]}}]
""",
}


# ---------------------------------------------------------------- in the copy: one sweep, its verdicts and its check


def judged(sweep: str, folder: Path, sound: Path | None, stored: bool) -> dict[str, Any]:
    """Run a sweep into `folder`, or read it there where it is `stored`, and return its verdicts and what the check
    against the `sound` tables says."""
    import ntkrun
    from ntkrun.config.reader import parse_config
    from ntkrun.evidence.regression.baseline import records
    from ntkrun.evidence.regression.comparison import compare
    from ntkrun.evidence.report.conclusion import judge_claims
    from ntkrun.store.results_directory import read_results

    assert ntkrun.__file__ is not None
    assert Path(ntkrun.__file__).is_relative_to(Path.cwd()), "the copy is imported"
    if stored:
        results = read_results(folder / sweep)
    else:
        results = ntkrun.run_sweep(parse_config(f"name: {sweep}\n{SWEEPS[sweep]}"), results=folder)
    found = judge_claims(results)
    verdicts = {
        f"{each.name} {each.settings or ''}".strip(): {
            "verdict": str(each.verdict), "expect": each.expect, "part": each.part, "why": each.why,
        }
        for each in found.claims
    }  # fmt: skip
    check = ""
    if sound is not None:
        then = read_results(sound / sweep)
        now, before = (records(each.plan, each.runs, each.steps, each.layers) for each in (results, then))
        check = str(compare(now, before).verdict)
    return {"verdicts": verdicts, "check": check, "failed": found.runs.failed, "diverged": found.runs.diverged}


# ---------------------------------------------------------------- outside: copies, processes, records


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def run(command: Sequence[str], tree: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of this interpreter in a tree, on one thread, with a limit on its CPU time."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        preexec_fn=_limited,
    )


def sweep_in(tree: Path, sweep: str, folder: Path, sound: Path | None, stored: bool = False) -> dict[str, Any]:
    """Return what `judged` returns in another tree, or why it failed there."""
    options = [*(["--sound", str(sound)] if sound else []), *(["--stored"] if stored else [])]
    done = run(["benchmarks/bench_mutants.py", "--judge", sweep, "--work", str(folder), *options], tree)
    if done.returncode:
        return {"crash": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def sound_tables(sweep: str, work: Path) -> dict[str, Any]:
    """Return the verdicts of a sweep on the sound tree, run once. Raises SystemExit where one is not as expected."""
    path = work / "sound" / f"{sweep}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work / "sound" / sweep, ignore_errors=True)
        started = time.monotonic()
        answer = sweep_in(ROOT, sweep, work / "sound", None)
        answer["seconds"] = time.monotonic() - started
        wrong = [f"{name}: {each['verdict']} ({each['part']}: {each['why']})"
                 for name, each in answer.get("verdicts", {}).items() if each["verdict"] != each["expect"]]  # fmt: skip
        if wrong or "crash" in answer or answer["failed"]:
            raise SystemExit(f"{sweep} on the sound tree: {answer.get('crash', '')}\n" + "\n".join(wrong))
        path.write_text(json.dumps(answer), encoding="utf-8")
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known


def seen(sound: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return what sees a fault in a sweep, and the claims that have become inconclusive."""
    if "crash" in now:
        return [f"fails: {now['crash']}"], []
    reasons = ["runs failed"] * bool(now["failed"])
    undecided = []
    for name, then in sound["verdicts"].items():
        found = now["verdicts"].get(name, {"verdict": "inconclusive", "part": "missing"})
        if found["verdict"] == "inconclusive":
            undecided.append(name)
        elif found["verdict"] != then["verdict"]:
            reasons.append(f"{name.partition(' ')[0]} ({found['part']})")
    return reasons, undecided


def record(fault: Fault, work: Path) -> dict[str, Any]:
    """Put a fault into a copy of the tree, and return who sees it."""
    started = time.monotonic()
    claims: list[str] = []
    undecided: list[str] = []
    checks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ntkrun-mutant-") as folder:
        tree, out = Path(folder) / "tree", Path(folder) / "results"
        copy_with(fault, tree)
        for sweep in fault.sweeps:
            sound = sound_tables(sweep, work)
            answers = [sweep_in(tree, sweep, out, work / "sound")]
            if fault in EVIDENCE:
                shutil.copytree(work / "sound" / sweep, Path(folder) / "stored" / sweep)
                answers.append(sweep_in(tree, sweep, Path(folder) / "stored", work / "sound", stored=True))
            for answer in answers:
                by, open_ = seen(sound, answer)
                claims += by
                undecided += open_
                checks.append(answer.get("check", "fails"))
        tests = run(["-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *fault.tests], tree)
    failures = [line for line in tests.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {
        "id": fault.id,
        "claims": list(dict.fromkeys(claims)),
        "inconclusive": list(dict.fromkeys(undecided)),
        "check": any(check in ("regression", "fails") for check in checks),
        "tests": tests.returncode != 0,
        "failure": failures[0][:200] if failures else "",
        "seconds": round(time.monotonic() - started, 1),
    }


def copy_with(fault: Fault, tree: Path) -> None:
    """Copy the project to `tree`, with the fault in it. Raises ValueError where its old text does not occur once."""
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
        elif source.exists():
            tree.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, tree / name)
    path = tree / fault.file
    path.write_text(mutated(fault, path.read_text(encoding="utf-8")), encoding="utf-8")


def mutated(fault: Fault, text: str) -> str:
    """Return the text of its file with the fault. Raises ValueError where its old text does not occur once."""
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.id}: the old text occurs {text.count(fault.old)} times in {fault.file}")
    return text.replace(fault.old, fault.new)


# ---------------------------------------------------------------- the matrix


HEAD = """\
# The mutation matrix

Faults of one spot each, of the kind a person makes, and who sees them. `benchmarks/bench_mutants.py` puts one at a
time into a copy of the program and runs the small sweeps that it touches (seconds each; wider margins than the configs
have), the regression check against the sound tables of these sweeps, and the tests of its spot. A fault is seen by
claims where a claim that is supported on the sound program is refuted, where a control is supported, or where runs
fail; `inconclusive` does not count. The faults were written down before any of them was run.

In the first run verdicts saw 98 of 115 and tests 130 of 155. Since then lazy-by-scale judges the linearisation too, and
stability-edge step sizes that all lie beyond the edge; seven small sweeps have other sizes, or probe more steps; tests
were written for hidden descent, batches, Huber's thresholds, the start of a scaled output, statistics of single runs,
values of the config; and some faults name other test files that cover their spot, or one sweep more.
"""


def matrix(records: dict[str, dict[str, Any]]) -> str:
    """Return the matrix as a page: who sees each fault, by room, totals, and the survivors."""
    lines = [HEAD]
    known = [fault for fault in FAULTS if fault.id in records]
    visible = [fault for fault in known if fault.visible == CLAIMS]
    by_claims = sum(bool(records[fault.id]["claims"]) for fault in visible)
    lines += [
        f"{len(known)} of {len(FAULTS)} faults were run. Of {len(visible)} that verdicts ought to see they see "
        f"{by_claims}. The check sees {sum(records[fault.id]['check'] for fault in known)} and the tests see "
        f"{sum(records[fault.id]['tests'] for fault in known)} of all.",
    ]
    for room, faults in ROOMS.items():
        lines += [
            "",
            f"## {room.capitalize()}",
            "",
            "| fault | visible to | claims | check | tests |",
            "|---|---|---|---|---|",
        ]
        for fault in (fault for fault in faults if fault.id in records):
            found = records[fault.id]
            claims = by_claim(found["claims"]) or ("inconclusive" if found["inconclusive"] else "-")
            marks = ("yes" if found[by] else "-" for by in ("check", "tests"))
            lines.append(f"| {fault.what} | {fault.visible} | {claims.replace('|', '/')} | {' | '.join(marks)} |")
    survivors = [fault for fault in known if not records[fault.id]["tests"]
                 or (fault.visible == CLAIMS and not records[fault.id]["claims"])]  # fmt: skip
    lines += ["", "## Survivors", ""]
    for fault in survivors:
        by = "the tests" if not records[fault.id]["tests"] else "the verdicts"
        lines.append(f"* `{fault.id}`, missed by {by}: {fault.what}. Why: {WHY.get(fault.id, '?')}.")
    return "\n".join(lines) + "\n"


def by_claim(reasons: Sequence[str]) -> str:
    """Return what sees a fault with each claim once, and its parts behind it."""
    parts: dict[str, list[str]] = {}
    for reason in reasons:
        claim, _, part = reason.partition(" (")
        parts.setdefault(claim if part else reason, []).append(part.removesuffix(")"))
    return ", ".join(f"{claim} ({', '.join(sorted(of))})" if any(of) else claim for claim, of in parts.items())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--baseline", nargs="*", help="run these sweeps (all) on the sound tree, and no fault")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ntkrun-mutants")
    parser.add_argument("--judge", help=argparse.SUPPRESS)
    parser.add_argument("--sound", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stored", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work.resolve()
    if options.judge:
        print(json.dumps(judged(options.judge, work, options.sound, options.stored)))
        return
    for fault in FAULTS:
        mutated(fault, (ROOT / fault.file).read_text(encoding="utf-8"))
    if options.check:
        print(f"{len(FAULTS)} faults, {sum(fault.visible == CLAIMS for fault in FAULTS)} visible to claims")
        return
    if options.baseline is not None:
        for sweep in options.baseline or SWEEPS:
            try:
                print(f"{sweep}: as expected, {sound_tables(sweep, work)['seconds']:.1f} s", flush=True)
            except SystemExit as error:
                print(error, flush=True)
        return
    (work / "records").mkdir(parents=True, exist_ok=True)

    def one(fault: Fault) -> None:
        path = work / "records" / f"{fault.id}.json"
        if not path.exists():
            found = record(fault, work)
            path.write_text(json.dumps(found), encoding="utf-8")
            print(json.dumps(found, ensure_ascii=False), flush=True)

    chosen = [fault for fault in FAULTS if not options.only or fault.id in options.only]
    if not options.write:
        for sweep in dict.fromkeys(sweep for fault in chosen for sweep in fault.sweeps):
            sound_tables(sweep, work)
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, chosen))
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (work / "records").glob("*.json")}
    page = matrix(found)
    if options.write:
        (ROOT / "docs" / "mutants.md").write_text(page, encoding="utf-8")
    print(next(line for line in page.splitlines() if "faults were run" in line))


if __name__ == "__main__":
    main()
