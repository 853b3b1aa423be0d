"""Runs experiments: their sweeps once, and each one's figures, verdicts and table as soon as they can be had."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ntkrun.experiments.framework import Experiment, Planned, sweeps_of
from ntkrun.experiments.writing import write_experiment
from ntkrun.closing import draw, judge
from ntkrun.errors import UserError
from ntkrun.evidence.verdicts import UNDECIDED, Verdict, exit_code
from ntkrun.lab.config import Sweep
from ntkrun.lab.devices import resolve_device
from ntkrun.lab.execute import outlook, run_sweep
from ntkrun.lab.forecast import Forecast, forecast, together
from ntkrun.lab.store import Results
from ntkrun.lab.watch import Watch
from ntkrun.reporting import gathered, written

WORST_FIRST = (2, 4, 1, 3, UNDECIDED, 0)  # exit codes, where several hold
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
        return forecast(outlook(sweep, root, device, retry_failed=retry_failed))
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


def reproduce(
    experiments: Sequence[Experiment],
    preset: str,
    root: Path,
    device: str = "auto",
    watch: Callable[[], Watch] | None = None,
    say: Say = lambda line: None,
    retry_failed: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """The documents of the experiments (result.json) and the exit code by their verdicts.

    Interrupted, it keeps every finished stack, and the same call goes on. In the smoke preset what is inconclusive is
    reported and counts as fine.
    """
    results: dict[str, Results] = {}
    verdicts: dict[str, list[Verdict]] = {}
    documents, codes = [], []
    for experiment in experiments:
        for planned in experiment.sweeps:
            if planned.config not in results:
                say(f"{experiment.name}: sweep {planned.config}")
                results[planned.config] = _swept(planned, preset, root, device, watch, retry_failed)
                verdicts[planned.config] = judge(results[planned.config])[0]
                if preset != "smoke" and not results[planned.config].figures_are_current():
                    draw(results[planned.config])
        found = experiment.found(results, verdicts)
        documents.append(write_experiment(root, experiment, found, preset))
        codes += [
            exit_code(found.verdicts[name], tables, tables.config().get("expect"))
            for name, tables in found.results.items()
        ]
        page = gathered([root])  # each time: an interrupt leaves one that speaks of what there is
        summary, report = (written(page, root / name) for name in ("summary.md", "report.html"))
        say(f"{experiment.name}: {root / 'experiments' / experiment.name}, {summary}, {report}")
    return documents, _worst(codes, preset)


def _swept(
    planned: Planned, preset: str, root: Path, device: str, watch: Callable[[], Watch] | None, retry_failed: bool
) -> Results:
    watching = watch() if watch else None
    try:
        return run_sweep(planned.load(preset), root, device, watching, retry_failed=retry_failed)
    finally:
        if watching:
            watching.close()


def _worst(codes: Iterable[int], preset: str) -> int:
    seen = {0 if code == UNDECIDED and preset == "smoke" else code for code in codes}
    return next(code for code in WORST_FIRST if code in seen | {0})
