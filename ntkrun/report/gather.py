"""`ntkrun report`: what sweeps and experiments left on disk, gathered into a page and written in one of three forms."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ntkrun.errors import UserError
from ntkrun.evidence.claims.verdicts import run_counts
from ntkrun.evidence.estimates.summary import groups
from ntkrun.files.reading import Unreadable, read_json, read_text
from ntkrun.files.writing import inside, write_text
from ntkrun.report.check_tables import check_document
from ntkrun.report.conclusion import draw_figures, judge_claims
from ntkrun.report.html import html
from ntkrun.report.markdown import markdown
from ntkrun.report.page import Change, Figure, Page, Section, Sweep
from ntkrun.report.records import Experiment, Judged, Swept
from ntkrun.report.tables import exponents_cells, levels_cells
from ntkrun.store.directory import Results, Store
from ntkrun.store.results import LARGEST_TEXT
from ntkrun.text import json_text

RESULT = "result.json"
Model = TypeVar("Model", bound=BaseModel)


def gather_page(run_dirs: Sequence[Path], baseline: Path | None = None, order: Sequence[str] = ()) -> Page:
    """The page of these directories: sweeps, experiments, or whole results directories, whose experiments come in this
    `order` of their names, others after them. Raises UserError for a directory that is neither, one in which nothing is
    finished, and where nothing there is of the baseline's config."""
    unique = list({path.resolve(): path for path in run_dirs}.values())
    sections = tuple(section for path in unique for section in _sections(path, order))
    return Page(sections, _change(unique, baseline) if baseline else None)


def write_page(page: Page, path: Path) -> Path:
    """Write the page as its ending says. Raises UserError for another ending, and where it cannot be written."""
    write_text(path, page_text(page, path.suffix, path.parent))
    return path


def page_text(page: Page, ending: str, beside: Path | None = None) -> str:
    """The page as .html, .md or .json; `beside` is where a Markdown file will lie, None for one without figures."""
    if ending == ".html":
        return html(page)
    if ending == ".md":
        return markdown(page, beside)
    if ending == ".json":
        return json_text(document(page)) + "\n"
    raise UserError(f"--out: the file must end in .html, .md or .json, not {ending or 'nothing'}")


def default_path(run_dirs: Sequence[Path]) -> Path:
    """Where a page goes that is given no place: report.html in the folder that holds them all."""
    return Path(os.path.commonpath([path.resolve() for path in run_dirs])) / "report.html"


def _sections(path: Path, order: Sequence[str]) -> Iterator[Section]:
    if (path / "plan.parquet").exists():
        yield _of_sweep(path)
    elif (path / RESULT).exists():
        yield _of_experiment(path)
    elif found := _experiments(path / "experiments", order):
        yield from map(_of_experiment, found)
    else:
        raise UserError(
            f"{path}: neither a sweep nor experiments here; name a directory such as results/width, or results itself "
            "after `ntkrun reproduce`"
        )


def _experiments(folder: Path, order: Sequence[str]) -> list[Path]:
    """The experiments that left a result."""
    rank = {name: number for number, name in enumerate(order)}
    found = [path.parent for path in folder.glob(f"*/{RESULT}")]
    return sorted(found, key=lambda path: (rank.get(path.name, len(rank)), path.name))


def _of_experiment(folder: Path) -> Section:
    path = folder / RESULT
    stored = _checked(Experiment, _stored(path), path, "`ntkrun reproduce` writes it anew")
    root = folder.parents[1]
    sweeps = [Sweep(name, swept, _config_at(root / Path(swept.results).name)) for name, swept in stored.sweeps.items()]
    several = len(sweeps) > 1
    claims = [claim if several else claim.model_copy(update={"sweep": ""}) for claim in stored.claims]
    return Section(
        name=stored.name,
        claims=tuple(claims),
        figures=_figures(folder, ".", stored.figures),
        sweeps=tuple(sweeps),
        statement=stored.statement,
        references=stored.references,
        departures=stored.departures,
        preset=stored.preset,
        rows=stored.rows,
    )


def _stored(path: Path) -> Any:
    try:
        return read_json(inside(path.parent, path.name), LARGEST_TEXT)
    except Unreadable:
        raise UserError(f"{path}: cannot be read; `ntkrun reproduce` writes it anew") from None


def _checked(kind: type[Model], found: Any, path: Path, cure: str) -> Model:
    """What was found in a file as what it should be."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{path}: cannot be read ({what}); {cure}") from None


def _config_at(run_dir: Path) -> dict[str, Any]:
    """The resolved config of a sweep; {} where it is not at hand: experiments can be carried away from their sweeps."""
    return dict(Store(run_dir).description()["config"]) if (run_dir / "sweep.yaml").exists() else {}


def _of_sweep(run_dir: Path) -> Section:
    results = Store(run_dir).read()
    if results.runs.empty:
        raise UserError(f"{run_dir}: no run is finished yet; sweep its config again to go on")
    if not results.figures_are_current():
        draw_figures(results)
    _, judged, _ = judge_claims(results)
    found = groups(results.runs, results.steps, results.layers)
    tables = [make(group) for group in found for make in (levels_cells, exponents_cells)]
    return Section(
        name=run_dir.resolve().name,
        claims=Judged.model_validate(judged).claims,
        figures=_figures(run_dir, "figures", results.captions()),
        sweeps=(_sweep(results),),
        levels=tuple(cells for cells in tables if cells.rows),
    )


def _sweep(results: Results) -> Sweep:
    said = Store(results.path).description()
    seconds = float(results.runs["seconds"].sum())
    found = {"results": str(results.path), **run_counts(results), "seconds": seconds, "made_by": said["made_by"]}
    swept = _checked(Swept, found, results.path / "sweep.yaml", "run the sweep again to write it anew")
    return Sweep(results.path.resolve().name, swept, said["config"])


def _figures(root: Path, folder: str, captions: dict[str, str]) -> tuple[Figure, ...]:
    return tuple(_figure(inside(root, folder, f"{Path(stem).name}.svg"), text) for stem, text in captions.items())


def _figure(path: Path, caption: str) -> Figure:
    try:
        return Figure(path, caption, read_text(path, LARGEST_TEXT))
    except Unreadable as error:
        why = f"{path}: cannot be read ({error})"
        raise UserError(f"{why}; draw it again with `ntkrun plot` or `ntkrun reproduce`") from None


def _change(run_dirs: Sequence[Path], baseline: Path) -> Change:
    """Of the first sweep of the baseline's config."""
    from ntkrun.report import check as checking  # imports matplotlib, which a report of drawn figures does without
    from ntkrun.report.check import CAPTION

    problems = []
    for run_dir in run_dirs:
        try:
            judged, known, png = checking.check(run_dir, baseline)
        except UserError as error:
            problems.append(str(error))
            continue
        return Change(run_dir.resolve().name, judged, known, _figure(png.with_suffix(".svg"), CAPTION))
    raise UserError("\n".join(dict.fromkeys(problems)))


# ---------------------------------------------------------------- document


def document(page: Page) -> dict[str, Any]:
    """The page as plain values. Numbers that are none are nan: who writes it as JSON makes them null."""
    change = page.change
    return {
        "tally": page.tally,
        "sections": [_section(section) for section in page.sections],
        "change": change and {"sweep": change.sweep, **check_document(change.check, change.baseline)},
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "control": section.is_control,
        "statement": section.statement,
        "references": section.references,
        "departures": section.departures,
        "preset": section.preset,
        "claims": [claim.model_dump() for claim in section.claims],
        "rows": [row.model_dump() for row in section.rows],
        "figures": {figure.path.stem: figure.caption for figure in section.figures},
        "sweeps": {sweep.name: sweep.swept.model_dump() for sweep in section.sweeps},
    }
