"""The definition of an experiment: plain data and two functions that turn tables into figures and rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from ntkrun.config.reader import Sweep
    from ntkrun.evidence.records import Judgement, Row, Verdict
    from ntkrun.store.results_directory import Results

PRESETS = ("smoke", "laptop", "paper")
Overrides = tuple[str, ...]
Drawn = tuple[str, Figure, str]  # file stem, figure, caption


@dataclass(frozen=True)
class Planned:
    """A sweep: a file of configs/ without its ending, such as "papers/jacot-1", and the overrides of each preset.
    Experiments that name the same sweep share its runs. `paper` None means the overrides of laptop."""

    config: str
    smoke: Overrides
    laptop: Overrides = ()
    paper: Overrides | None = None

    def overrides(self, preset: str) -> Overrides:
        """Return the overrides of a preset as KEY=VALUE texts."""
        texts = {"smoke": self.smoke, "laptop": self.laptop, "paper": self.paper}[preset]
        return self.laptop if texts is None else texts

    def load(self, preset: str) -> "Sweep":
        """Return the validated sweep."""
        from ntkrun.config.reader import load_config

        return load_config(self.file, self.overrides(preset))

    @property
    def file(self) -> Path:
        """The path of its config."""
        return configs() / f"{self.config}.yaml"


@dataclass(frozen=True)
class Evidence:
    """The evidence of an experiment: the tables of its sweeps by the name of the config, and the judgements on its
    claims."""

    results: "Mapping[str, Results]"
    judgements: "Mapping[str, Judgement]" = field(default_factory=dict)

    @property
    def only(self) -> "Results":
        """The tables of an experiment with a single sweep."""
        (results,) = self.results.values()
        return results

    @property
    def verdicts(self) -> "list[Verdict]":
        """The verdicts on all sweeps, in order, each with the name of its sweep."""
        return [verdict for judgement in self.judgements.values() for verdict in judgement.claims]


def no_rows(evidence: Evidence) -> "Iterable[Row]":
    """Return no rows, for an experiment that has only claims."""
    return ()


@dataclass(frozen=True)
class Experiment:
    """A statement from the literature with its references, the sweeps that test it, its figures and its rows. `claims`
    selects those claims of the sweeps' configs that the experiment is about, None all of them. `departures` says where
    and why the experiment differs from the paper."""

    name: str
    statement: str
    references: str
    sweeps: tuple[Planned, ...]
    figures: Callable[[Evidence], Iterable[Drawn]]
    rows: "Callable[[Evidence], Iterable[Row]]" = no_rows
    claims: tuple[str, ...] | None = None
    departures: str = ""

    def evidence(self, results: "Mapping[str, Results]", judgements: "Mapping[str, Judgement]") -> Evidence:
        """Return the evidence of this experiment, selected from the results of all sweeps and the judgements on
        them."""
        names = [planned.config for planned in self.sweeps]
        own = {name: self._own(name, judgements[name]) for name in names}
        return Evidence({name: results[name] for name in names}, own)

    def _own(self, sweep: str, judgement: "Judgement") -> "Judgement":
        """Return the verdicts on the claims that the experiment is about, with the name of their sweep."""
        about = [verdict for verdict in judgement.claims if self.is_about(verdict.name)]
        named = tuple(verdict.model_copy(update={"sweep": sweep}) for verdict in about)
        return judgement.model_copy(update={"claims": named})

    def is_about(self, claim: str) -> bool:
        """Return True where a claim of its sweeps is one of its own."""
        return self.claims is None or claim in self.claims


def configs() -> Path:
    """Return the folder of the configs: within the package ntkrun, which in a checkout links to the folder beside
    it."""
    return Path(__file__).parents[1] / "configs"


def sweeps_of(experiments: Iterable[Experiment]) -> list[Planned]:
    """Return every sweep once, in the order in which the experiments first use them."""
    return list(dict.fromkeys(planned for experiment in experiments for planned in experiment.sweeps))
