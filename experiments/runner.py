"""Runs experiments: each sweep once, and the figures, verdicts and rows of each experiment when its sweeps are done."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkrun.config.reader import Sweep
from ntkrun.engine.devices import resolve_device
from ntkrun.errors import UserError
from ntkrun.evidence.reasons import INCONCLUSIVE
from ntkrun.evidence.records import FINE, REFUTATION, UNDECIDED, ExperimentResult, Judgement, Verdict
from ntkrun.evidence.report.conclusion import draw_figures, judge_claims
from ntkrun.evidence.report.gather import gather_page, write_page
from ntkrun.experiments import recorded
from ntkrun.experiments.framework import Experiment, Planned, sweeps_of
from ntkrun.experiments.shared import WIDTH_SWEEP
from ntkrun.experiments.table import EXPERIMENTS
from ntkrun.experiments.writing import write_experiment
from ntkrun.run.forecast import Forecast, dry_run_of, forecast, together
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.run.timing import BUDGET
from ntkrun.store.results_directory import Results

WORST_FIRST = (2, 4, 1, REFUTATION, UNDECIDED, FINE)  # exit codes: the first one that applies wins
Say = Callable[[str], None]


def root_of(results: Path, preset: str) -> Path:
    """Return the folder of a preset's results: the top folder for laptop, the default, else a subfolder."""
    return results if preset == "laptop" else results / preset


def ahead(
    experiments: Sequence[Experiment], preset: str, root: Path, device: str, retry_failed: bool = False
) -> list[tuple[Sweep, Forecast | UserError]]:
    """Return every validated sweep with the forecast of its missing runs, or the reason why there is none, such as data
    that are not available."""
    resolve_device(device)  # a wrong device is the caller's mistake, not a reason for a missing forecast
    sweeps = [planned.load(preset) for planned in sweeps_of(experiments)]
    budget = BUDGET / max(1, len(sweeps))  # seconds for timing, of all sweeps together
    return [(sweep, _forecast(sweep, root, device, retry_failed, budget)) for sweep in sweeps]


def _forecast(sweep: Sweep, root: Path, device: str, retry_failed: bool, budget: float) -> Forecast | UserError:
    try:
        return forecast(dry_run_of(sweep, root, device, retry_failed=retry_failed, budget=budget))
    except UserError as error:
        return error


def lines(expected: Iterable[tuple[Sweep, Forecast | UserError]]) -> list[str]:
    """Return a line for each sweep, and the total."""
    sweep_lines, forecasts = [], []
    for sweep, cost in expected:
        if isinstance(cost, Forecast):
            forecasts.append(cost)
            sweep_lines.append(f"  {sweep.name}: {cost if cost.gib else 'done'}")
        else:
            sweep_lines.append(f"  {sweep.name}: no estimate; {cost}")
    remark = "" if len(forecasts) == len(sweep_lines) else ", without the sweeps that have no estimate"
    return [*sweep_lines, f"in all: {together(forecasts)}, estimated{remark}"]


def as_json(sweep: Sweep, cost: Forecast | UserError) -> dict[str, Any]:
    """Return a sweep's forecast as a JSON document; `why` is the reason where there is none."""
    known = cost if isinstance(cost, Forecast) else None
    return {
        "name": sweep.name,
        "seconds": known and known.seconds,
        "gib": known and known.gib,
        "why": "" if known else str(cost),
    }


def check(expected: Iterable[tuple[Sweep, Forecast | UserError]]) -> None:
    """Check that every sweep can run, before any starts. Raises UserError where one cannot."""
    for _, cost in expected:
        if isinstance(cost, UserError):
            raise cost


@dataclass(frozen=True)
class Reproduced:
    """The outcome of a reproduction: the result of each experiment, the exit codes of the sweeps' judgements, a
    sentence for each open (inconclusive) verdict, and one for each main claim that is supported in the committed
    results of this preset and no longer is."""

    experiments: list[ExperimentResult]
    codes: frozenset[int]
    open: list[str]
    lost: list[str]

    def code(self, strict: bool = False) -> int:
        """Return the exit code: 0 when everything ran and no verdict contradicts its expectation. Open verdicts give 5
        with `strict`; a main claim that is no longer supported gives 3."""
        codes = self.codes | ({REFUTATION} if self.lost else {FINE})
        if not strict:
            codes -= {UNDECIDED}
        return next((code for code in WORST_FIRST if code in codes), FINE)


def reproduce(
    experiments: Sequence[Experiment],
    preset: str,
    root: Path,
    device: str = "auto",
    watch: Callable[[], ProgressListener] | None = None,
    say: Say = lambda line: None,
    retry_failed: bool = False,
    more: Sequence[str] = (),
) -> Reproduced:
    """Run the sweeps of the experiments, each once, and write the figures, verdicts and rows of each experiment;
    figures also in the formats of `more`.

    An interrupt keeps every finished stack, and the same call continues.
    """
    results: dict[str, Results] = {}
    judgements: dict[str, Judgement] = {}
    written, codes, undecided = [], set[int](), []
    for experiment in experiments:
        for planned in experiment.sweeps:
            if planned.config not in results:
                say(f"{experiment.name}: sweep {planned.config}")
                results[planned.config] = _run(planned, preset, root, device, watch, retry_failed)
                judgements[planned.config] = judge_claims(results[planned.config])
                if preset != "smoke" and (more or not results[planned.config].figures_are_current()):
                    draw_figures(results[planned.config], more)
        evidence = experiment.evidence(results, judgements)
        written.append(write_experiment(root, experiment, evidence, preset, more))
        codes.update(judgement.code for judgement in evidence.judgements.values())
        undecided += [_open(experiment.name, each) for each in evidence.verdicts if each.verdict == INCONCLUSIVE]
        report = _report(root, last=experiment is experiments[-1])
        say(f"{experiment.name}: {root / 'experiments' / experiment.name}, {report}")
    main = judgements[WIDTH_SWEEP.config].claims if WIDTH_SWEEP.config in judgements else ()
    lost = recorded.lost(preset, [(recorded.titled(each.name, each.settings), each.verdict) for each in main])
    return Reproduced(written, frozenset(codes), undecided, lost)


def _report(root: Path, last: bool) -> str:
    """Write the report of all results, and return its files. It is written after each experiment, so that an interrupt
    leaves one of the finished ones. A result that cannot be read, perhaps since it is still to be written again, is an
    error only at the `last`."""
    try:
        page = gather_page([root], order=list(EXPERIMENTS))
    except UserError as error:
        if last:
            raise
        return f"no report yet ({error})"
    return ", ".join(str(write_page(page, root / name)) for name in ("summary.md", "report.html"))


def _open(experiment: str, verdict: Verdict) -> str:
    return f"{experiment}: {verdict.name} ({verdict.where}): {verdict.why}"


def _run(
    planned: Planned,
    preset: str,
    root: Path,
    device: str,
    watch: Callable[[], ProgressListener] | None,
    retry_failed: bool,
) -> Results:
    listener = watch() if watch else None
    try:
        return run_sweep(planned.load(preset), root, device, listener, retry_failed=retry_failed)
    finally:
        if listener:
            listener.close()
