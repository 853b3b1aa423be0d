"""The content of a report as plain data, for all three formats."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ntkrun.evidence.cells import Cells
from ntkrun.evidence.estimates.cases import architecture_text, value_text
from ntkrun.evidence.records import ExperimentResult, Row, Swept, Verdict
from ntkrun.evidence.regression.baseline import Baseline
from ntkrun.evidence.regression.comparison import Check
from ntkrun.evidence.report.tables import rows_cells

OUTCOMES = {  # in words, in the order of the summary
    "supported": "supported",
    "control": "as expected where the theory does not apply (controls)",
    "inconclusive": "inconclusive",
    "otherwise": "not as expected",
}


@dataclass(frozen=True)
class Figure:
    """A stored figure: the path of its SVG (the PNG is beside it), its caption, and the SVG itself."""

    path: Path
    caption: str
    svg: str

    @property
    def title(self) -> str:
        return self.path.stem.replace("_", " ")

    @property
    def alt(self) -> str:
        """The alternative text: the figure's name and the first sentence of its caption."""
        return f"{self.title}: {self.caption.split('. ')[0].rstrip('.')}"


@dataclass(frozen=True)
class Sweep:
    """A sweep of a section: how its runs ended, and its resolved config, {} where it is not available."""

    name: str
    swept: Swept
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> str:
        """'54 runs, 54 done, 1.2 minutes'."""
        ended = f"{self.swept.planned} runs, {self.swept.done} done"
        diverged = f", {self.swept.diverged} diverged" if self.swept.diverged else ""
        expected = {"control": " (as expected)", "otherwise": ", none diverged (expected to diverge)"}.get(
            self.outcome, ""
        )
        return f"{ended}{diverged}{expected}, {self.swept.seconds / 60:.1f} minutes"

    @property
    def diverges(self) -> bool:
        """True where the config expects the runs to diverge."""
        return self.config.get("expect") == "diverged"

    @property
    def outcome(self) -> str:
        """'control' where runs diverged as the config expects, 'otherwise' where none did, '' where the config expects
        nothing."""
        return ("control" if self.swept.diverged else "otherwise") if self.diverges else ""

    @property
    def conditions(self) -> str:
        """The common settings of the networks and what varies: 'digits, N = 64, L = 4, relu; width 64 128, 10
        seeds'."""
        return in_short(self.config)

    @property
    def text(self) -> str:
        """The config as YAML."""
        return str(yaml.safe_dump(dict(self.config), sort_keys=False, allow_unicode=True, width=80)) * bool(self.config)


@dataclass(frozen=True)
class Section:
    """An experiment, or a sweep on its own: its result, the resolved config of each sweep, its figures, and the closing
    tables of a sweep."""

    result: ExperimentResult
    configs: Mapping[str, Mapping[str, Any]]
    figures: tuple[Figure, ...]
    levels: tuple[Cells, ...] = ()

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def claims(self) -> tuple[Verdict, ...]:
        return self.result.claims

    @cached_property
    def sweeps(self) -> list[Sweep]:
        return [Sweep(name, swept, self.configs.get(name, {})) for name, swept in self.result.sweeps.items()]

    @property
    def tables(self) -> list[Cells]:
        """The measured values beside those of paper and theory, and the closing tables."""
        compared = any(row.paper is not None or row.theory is not None for row in self.result.rows)
        title = "Measured and expected values" if compared else "Measured values"
        numbers = rows_cells(title, self.result.rows)
        return [*([numbers] if numbers else []), *self.levels]

    @property
    def is_control(self) -> bool:
        """True where a claim or a sweep is expected to contradict the theory."""
        return any(claim.is_control for claim in self.claims) or any(sweep.diverges for sweep in self.sweeps)


@dataclass(frozen=True)
class Change:
    """The comparison of a sweep with a baseline."""

    sweep: str
    check: Check
    baseline: Baseline
    figure: Figure


@dataclass(frozen=True)
class Page:
    """The content of a report. `anchors` are the ids of its sections."""

    sections: tuple[Section, ...]
    change: Change | None = None

    @property
    def claims(self) -> Iterator[tuple[Section, Verdict]]:
        return ((section, claim) for section in self.sections for claim in section.claims)

    @property
    def rows(self) -> Iterator[tuple[Section, Row]]:
        return ((section, row) for section in self.sections for row in section.result.rows)

    @property
    def papers(self) -> Cells | None:
        """Every value that a paper reports, beside ours; None without any."""
        return rows_cells("", (row for _, row in self.rows if row.paper is not None))

    @property
    def tally(self) -> dict[str, int]:
        """The number of claims, and of sweeps that are expected to diverge, by outcome."""
        counts = Counter(claim.outcome for _, claim in self.claims) + Counter(sweep.outcome for sweep in self.sweeps)
        return {outcome: counts[outcome] for outcome in OUTCOMES}

    @property
    def summary(self) -> str:
        """'54 verdicts: 33 supported, 3 inconclusive, ...', or a note that there are none."""
        total = sum(self.tally.values())
        parts = ", ".join(f"{count} {OUTCOMES[outcome]}" for outcome, count in self.tally.items() if count)
        return f"{total} verdict{'s' * (total > 1)}: {parts}" if total else "no claims were judged"

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """The sweeps of all sections, each once."""
        return list({sweep.swept.results: sweep for section in self.sections for sweep in section.sweeps}.values())

    @property
    def effort(self) -> str:
        """'Preset laptop; 47914 runs, 40.1 minutes of training'."""
        presets = ", ".join(dict.fromkeys(section.result.preset for section in self.sections if section.result.preset))
        runs = sum(sweep.swept.done + sweep.swept.diverged for sweep in self.sweeps)
        minutes = sum(sweep.swept.seconds for sweep in self.sweeps) / 60
        return f"{presets and f'Preset {presets}; '}{runs} runs, {minutes:.1f} minutes of training"

    @property
    def made(self) -> list[str]:
        """Machines, versions and commits, each once."""
        return list(dict.fromkeys(str(sweep.swept.made_by) for sweep in self.sweeps))

    @cached_property
    def anchors(self) -> list[str]:
        """One id per section, made of the letters and digits of its name; all different."""
        return list(_unique(re.sub(r"[^a-z0-9]+", "-", section.name.lower()).strip("-") for section in self.sections))


def _unique(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        anchor = name or "section"
        while anchor in seen:
            anchor += "-again"
        seen.add(anchor)
        yield anchor


# ---------------------------------------------------------------- configs


COMMON = (  # the keys that describe the networks of a sweep, with their wording
    ("data.name", "{}"),
    ("data.samples", "N = {}"),
    ("network.depth", "L = {}"),
    ("network.activation", "{}"),
    ("network.beta", "β = {}"),
    ("network.weight_scale", "σ_w = {}"),
    ("network.parametrization", "{} parametrization"),
    ("training.loss", "{} loss"),
    ("training.steps", "{} steps"),
    ("training.batch", "batch {}"),
    ("training.dtype", "{}"),
)


def in_short(config: Mapping[str, Any]) -> str:
    """Return what a sweep's networks have in common, then what each of its blocks varies; '' for {}."""
    swept = config.get("sweep")
    blocks = [_mapping(block) for block in (swept if isinstance(swept, list) else [swept])]
    varied = {key for block in blocks for key in _varied(block)}
    common = [
        text.format(_value(value))
        for key, text in COMMON
        if not _is_varied(key, varied) and (value := _at(config, key))
    ]
    network = {
        k: value for k, value in _mapping(config.get("network")).items() if not _is_varied(f"network.{k}", varied)
    }
    common = [text for text in (architecture_text(network), *common) if text]
    return "; ".join(part for part in (", ".join(common), *(_block(block) for block in blocks if block)) if part)


def _is_varied(key: str, varied: set[str]) -> bool:
    return key in varied or key.partition(".")[0] in varied


def _varied(block: Mapping[str, Any]) -> dict[str, Any]:
    return {**_mapping(block.get("grid")), **_mapping(block.get("zip"))}


def _block(block: Mapping[str, Any]) -> str:
    axes = [f"{key.split('.')[-1].replace('_', ' ')} {_listed(values)}" for key, values in _varied(block).items()]
    seeds = block.get("seeds")
    return ", ".join([*axes, f"{len(seeds) if isinstance(seeds, list) else seeds} seeds"])


def _listed(values: Any) -> str:
    return " ".join(map(_value, values)) if isinstance(values, list) else _value(values)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{value_text(inner)} ({key})" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def _at(config: Mapping[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return _mapping(config.get(section)).get(name)


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping unchanged and anything else as {}: stored configs may come from anywhere."""
    return value if isinstance(value, Mapping) else {}
