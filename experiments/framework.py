"""What an experiment is: plain data and two functions from tables to what is shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from ntkrun.config.reader import Sweep
    from ntkrun.evidence.claims.verdicts import Verdict
    from ntkrun.store.directory import Results

PRESETS = ("smoke", "laptop", "paper")
Overrides = tuple[str, ...]
Interval = tuple[float, float]
Drawn = tuple[str, Figure, str]  # file stem, figure, caption


@dataclass(frozen=True)
class Planned:
    """A sweep: a file of configs/ without its ending, as in "papers/jacot-1", and what each preset overrides in it.
    Experiments that name the same one share its runs; `paper` None takes laptop's."""

    config: str
    smoke: Overrides
    laptop: Overrides = ()
    paper: Overrides | None = None

    def overrides(self, preset: str) -> Overrides:
        """As KEY=VALUE texts."""
        chosen = {"smoke": self.smoke, "laptop": self.laptop, "paper": self.paper}[preset]
        return self.laptop if chosen is None else chosen

    def load(self, preset: str) -> "Sweep":
        """The validated sweep."""
        from ntkrun.config.reader import load_config

        return load_config(self.file, self.overrides(preset))

    @property
    def file(self) -> Path:
        """Where its config is."""
        return configs() / f"{self.config}.yaml"


@dataclass(frozen=True)
class Row:
    """A line of an experiment's table: what is measured, ours with its 95 % interval, and what the paper measured or
    the theory says, where they do."""

    what: str
    ours: float
    interval: Interval | None = None
    paper: float | None = None
    theory: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Found:
    """What an experiment's sweeps left: their tables by the name of the config, and the verdicts on their claims."""

    results: "Mapping[str, Results]"
    verdicts: "Mapping[str, Sequence[Verdict]]" = field(default_factory=dict)

    @property
    def only(self) -> "Results":
        """The tables of an experiment of one sweep."""
        (results,) = self.results.values()
        return results

    @property
    def judged(self) -> "list[tuple[str, Verdict]]":
        """The verdicts of all its sweeps, in their order, each with the sweep's name."""
        return [(name, verdict) for name, verdicts in self.verdicts.items() for verdict in verdicts]


def no_rows(found: Found) -> Iterable[Row]:
    """Of an experiment whose claims say it all."""
    return ()


@dataclass(frozen=True)
class Experiment:
    """What is claimed or was shown, in words; where; the sweeps it takes; its figures and its table. `claims` are those
    of its sweeps' configs that it is about, None for all of them. `departures`: where we do otherwise than the paper,
    and why."""

    name: str
    statement: str
    references: str
    sweeps: tuple[Planned, ...]
    figures: Callable[[Found], Iterable[Drawn]]
    rows: Callable[[Found], Iterable[Row]] = no_rows
    claims: tuple[str, ...] | None = None
    departures: str = ""

    def found(self, results: "Mapping[str, Results]", verdicts: "Mapping[str, Sequence[Verdict]]") -> Found:
        """Its part of what all sweeps left."""
        wanted = [planned.config for planned in self.sweeps]
        of_claims = {name: [v for v in verdicts[name] if self.is_about(v.claim.name)] for name in wanted}
        return Found({name: results[name] for name in wanted}, of_claims)

    def is_about(self, claim: str) -> bool:
        """Whether a claim of its sweeps is one of its own."""
        return self.claims is None or claim in self.claims


def configs() -> Path:
    """Where the configs are: within the package ntkrun, which in a checkout has a link to the folder beside it."""
    return Path(__file__).parents[1] / "configs"


def sweeps_of(experiments: Iterable[Experiment]) -> list[Planned]:
    """Every sweep once, in the order in which they are first wanted."""
    return list(dict.fromkeys(planned for experiment in experiments for planned in experiment.sweeps))


def as_json(row: Row) -> dict[str, Any]:
    """A row as plain values."""
    return {
        "what": row.what,
        "ours": row.ours,
        "interval": None if row.interval is None else list(row.interval),
        "paper": row.paper,
        "theory": row.theory,
        "note": row.note,
    }
