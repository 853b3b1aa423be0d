"""Runs experiments: their sweeps once, and each one's figures, verdicts and table as soon as they can be had."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkrun.config.reader import Sweep
from ntkrun.engine.devices import resolve_device
from ntkrun.errors import UserError
from ntkrun.evidence.claims.findings import INCONCLUSIVE
from ntkrun.evidence.claims.verdicts import FINE, REFUTATION, UNDECIDED, Verdict, exit_code
from ntkrun.experiments import recorded
from ntkrun.experiments.framework import Experiment, Planned, sweeps_of
from ntkrun.experiments.shared import WIDTH_SWEEP
from ntkrun.experiments.table import EXPERIMENTS
from ntkrun.experiments.writing import write_experiment
from ntkrun.report.conclusion import draw_figures, judge_claims
from ntkrun.report.gather import gather_page, write_page
from ntkrun.run.forecast import Forecast, dry_run_of, forecast, together
from ntkrun.run.progress import ProgressListener
from ntkrun.run.sweep import run_sweep
from ntkrun.store.directory import Results

WORST_FIRST = (2, 4, 1, REFUTATION, UNDECIDED, FINE)  # exit codes, where several hold
Say = Callable[[str], None]


def root_of(results: Path, preset: str) -> Path:
    """Where a preset's results go: those of laptop, the default, at the top."""
    return results if preset == "laptop" else results / preset


def ahead(
    experiments: Sequence[Experiment], preset: str, root: Path, device: str, retry_failed: bool = False
) -> list[tuple[Sweep, Forecast | UserError]]:
    """Every sweep, validated, with what its missing runs will take, or why that cannot be told: data that are not at
    hand."""
    resolve_device(device)  # a wrong one is a mistake, not a sweep that cannot be told
    sweeps = (each.load(preset) for each in sweeps_of(experiments))
    return [(sweep, _ahead(sweep, root, device, retry_failed)) for sweep in sweeps]


def _ahead(sweep: Sweep, root: Path, device: str, retry_failed: bool) -> Forecast | UserError:
    try:
        return forecast(dry_run_of(sweep, root, device, retry_failed=retry_failed))
    except UserError as error:
        return error


def lines(expected: Iterable[tuple[Sweep, Forecast | UserError]]) -> list[str]:
    """A line a sweep, and the sum."""
    told, known = [], []
    for sweep, cost in expected:
        if isinstance(cost, Forecast):
            known.append(cost)
            told.append(f"  {sweep.name}: {cost if cost.gib else 'is done'}")
        else:
            told.append(f"  {sweep.name}: cannot be told; {cost}")
    rest = "" if len(known) == len(told) else ", without those that cannot be told"
    return [*told, f"in all: {together(known)}, estimated{rest}"]


def as_json(sweep: Sweep, cost: Forecast | UserError) -> dict[str, Any]:
    """A sweep ahead, for machines; `why` where its cost cannot be told."""
    told = cost if isinstance(cost, Forecast) else None
    return {
        "name": sweep.name,
        "seconds": told and told.seconds,
        "gib": told and told.gib,
        "why": "" if told else str(cost),
    }


def check(expected: Iterable[tuple[Sweep, Forecast | UserError]]) -> None:
    """Raises UserError where a sweep cannot run, before any has."""
    for _, cost in expected:
        if isinstance(cost, UserError):
            raise cost


@dataclass(frozen=True)
class Reproduced:
    """What experiments left: the documents (result.json) of each, the exit codes of their sweeps by `exit_code`, a
    sentence for each verdict that is open (inconclusive), and for each of the main claims that was supported in the
    committed results of this preset and is not any more."""

    documents: list[dict[str, Any]]
    codes: frozenset[int]
    open: list[str]
    lost: list[str]

    def code(self, strict: bool = False) -> int:
        """0 when everything ran and nothing came out against its expectation. Open verdicts give 5 where `strict`; what
        was supported and is not any more gives 3."""
        seen = self.codes | ({REFUTATION} if self.lost else {FINE})
        if not strict:
            seen -= {UNDECIDED}
        return next((code for code in WORST_FIRST if code in seen), FINE)


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
    """Run the sweeps of the experiments, each once, and write each one's figures, verdicts and table; figures in the
    formats of `more` as well.

    Interrupted, it keeps every finished stack, and the same call goes on.
    """
    results: dict[str, Results] = {}
    verdicts: dict[str, list[Verdict]] = {}
    documents, codes, undecided = [], set[int](), []
    for experiment in experiments:
        for planned in experiment.sweeps:
            if planned.config not in results:
                say(f"{experiment.name}: sweep {planned.config}")
                results[planned.config] = _swept(planned, preset, root, device, watch, retry_failed)
                verdicts[planned.config] = judge_claims(results[planned.config])[0]
                if preset != "smoke" and (more or not results[planned.config].figures_are_current()):
                    draw_figures(results[planned.config], more)
        found = experiment.found(results, verdicts)
        documents.append(write_experiment(root, experiment, found, preset, more))
        for name, tables in found.results.items():
            codes.add(exit_code(found.verdicts[name], tables, tables.config().get("expect")))
        undecided += [_open(experiment.name, name, each) for name, each in found.judged if each.verdict == INCONCLUSIVE]
        # Each time, so that an interrupt leaves a page that speaks of what there is.
        page = gather_page([root], order=list(EXPERIMENTS))
        summary, report = (write_page(page, root / name) for name in ("summary.md", "report.html"))
        say(f"{experiment.name}: {root / 'experiments' / experiment.name}, {summary}, {report}")
    main = [(each.claim.name, each.verdict) for each in verdicts.get(WIDTH_SWEEP.config, [])]
    return Reproduced(documents, frozenset(codes), undecided, recorded.lost(preset, main))


def _open(experiment: str, sweep: str, verdict: Verdict) -> str:
    where = ", ".join(part for part in (sweep, verdict.label) if part)
    return f"{experiment}: {verdict.claim.name} ({where}): {verdict.deciding.why}"


def _swept(
    planned: Planned,
    preset: str,
    root: Path,
    device: str,
    watch: Callable[[], ProgressListener] | None,
    retry_failed: bool,
) -> Results:
    watching = watch() if watch else None
    try:
        return run_sweep(planned.load(preset), root, device, watching, retry_failed=retry_failed)
    finally:
        if watching:
            watching.close()
