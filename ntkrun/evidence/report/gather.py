"""`ntkrun report`: reads the results of sweeps and experiments into a page and writes it in one of three formats."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ntkrun.errors import UserError
from ntkrun.evidence.estimates.summary import groups
from ntkrun.evidence.records import ExperimentResult, RunCounts, Swept
from ntkrun.evidence.regression.check_tables import check_document
from ntkrun.evidence.report.conclusion import draw_figures, judge_claims
from ntkrun.evidence.report.html import html
from ntkrun.evidence.report.markdown import markdown
from ntkrun.evidence.report.page import Change, Figure, Page, Section
from ntkrun.evidence.report.tables import exponents_cells, levels_cells
from ntkrun.files.reading import Unreadable, read_json, read_text
from ntkrun.files.writing import inside, write_text
from ntkrun.store.results import LARGEST_TEXT
from ntkrun.store.results_directory import Results, Store
from ntkrun.text import json_text

RESULT = "result.json"
Model = TypeVar("Model", bound=BaseModel)


def gather_page(run_dirs: Sequence[Path], baseline: Path | None = None, order: Sequence[str] = ()) -> Page:
    """Return the page of these directories: sweeps, experiments, or whole results directories. The experiments of a
    results directory are sorted by the `order` of names, others come last. Raises UserError for a directory that is
    none of these, for one without finished runs, and where no sweep has the baseline's config."""
    unique = list({path.resolve(): path for path in run_dirs}.values())
    sections = tuple(section for path in unique for section in _sections(path, order))
    return Page(sections, _change(unique, baseline) if baseline else None)


def write_page(page: Page, path: Path) -> Path:
    """Write the page in the format of the path's ending. Raises UserError for an unknown ending, and where it cannot be
    written."""
    write_text(path, page_text(page, path.suffix, path.parent))
    return path


def page_text(page: Page, ending: str, beside: Path | None = None) -> str:
    """Return the page as .html, .md or .json. `beside` is the folder of a Markdown file; None leaves out the
    figures."""
    if ending == ".html":
        return html(page)
    if ending == ".md":
        return markdown(page, beside)
    if ending == ".json":
        return json_text(document(page)) + "\n"
    raise UserError(f"--out: the file must end in .html, .md or .json, not {ending or 'nothing'}")


def default_path(run_dirs: Sequence[Path]) -> Path:
    """Return the default path of a page: report.html in the folder that holds all these directories."""
    return Path(os.path.commonpath([path.resolve() for path in run_dirs])) / "report.html"


def _sections(path: Path, order: Sequence[str]) -> Iterator[Section]:
    if (path / "plan.parquet").exists():
        yield _sweep_section(path)
    elif (path / RESULT).exists():
        yield _experiment_section(path)
    elif folders := _experiment_folders(path / "experiments", order):
        yield from map(_experiment_section, folders)
    else:
        raise UserError(
            f"{path}: holds neither a sweep nor experiments; name a directory such as results/width, or results itself "
            "after `ntkrun reproduce`"
        )


def _experiment_folders(folder: Path, order: Sequence[str]) -> list[Path]:
    """Return the folders of the experiments that have a result, in order."""
    rank = {name: number for number, name in enumerate(order)}
    folders = [path.parent for path in folder.glob(f"*/{RESULT}")]
    return sorted(folders, key=lambda path: (rank.get(path.name, len(rank)), path.name))


def _experiment_section(folder: Path) -> Section:
    path, root = folder / RESULT, folder.parents[1]
    result = _validated(ExperimentResult, _read(path), path, "`ntkrun reproduce` writes it again")
    configs = {name: _config_at(root / Path(swept.results).name) for name, swept in result.sweeps.items()}
    if len(configs) == 1:  # then every verdict is on it
        claims = tuple(verdict.model_copy(update={"sweep": ""}) for verdict in result.claims)
        result = result.model_copy(update={"claims": claims})
    return Section(result, configs, _figures(folder, ".", result.figures))


def _read(path: Path) -> Any:
    try:
        return read_json(inside(path.parent, path.name), LARGEST_TEXT)
    except Unreadable:
        raise UserError(f"{path}: cannot be read; `ntkrun reproduce` writes it again") from None


def _validated(kind: type[Model], content: Any, path: Path, remedy: str) -> Model:
    """Return the content of a file as a validated model. Raises UserError where it is invalid."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{path}: cannot be read ({problem}); {remedy}") from None


def _config_at(run_dir: Path) -> dict[str, Any]:
    """Return the resolved config of a sweep, {} where its folder is missing: experiments can be copied without their
    sweeps."""
    return dict(Store(run_dir).description()["config"]) if (run_dir / "sweep.yaml").exists() else {}


def _sweep_section(run_dir: Path) -> Section:
    results = Store(run_dir).read()
    if results.runs.empty:
        raise UserError(f"{run_dir}: no run is finished yet; run the sweep again to continue it")
    if not results.figures_are_current():
        draw_figures(results)
    judged = judge_claims(results)
    name, captions = run_dir.resolve().name, results.captions()
    sweeps = {name: swept(results, judged.runs)}
    result = ExperimentResult(name=name, sweeps=sweeps, claims=judged.claims, figures=captions)
    all_groups = groups(results.runs, results.steps, results.layers)
    tables = [make_cells(group) for group in all_groups for make_cells in (levels_cells, exponents_cells)]
    levels = tuple(cells for cells in tables if cells.rows)
    return Section(result, {name: results.config()}, _figures(run_dir, "figures", captions), levels)


def swept(results: Results, counts: RunCounts) -> Swept:
    """Return the record of a sweep. Raises UserError where its description cannot be read."""
    facts = {
        "results": str(results.path),
        **dict(counts),
        "seconds": float(results.runs["seconds"].sum()),
        "made_by": Store(results.path).description()["made_by"],
    }
    return _validated(Swept, facts, results.path / "sweep.yaml", "run the sweep again to rewrite it")


def _figures(root: Path, folder: str, captions: dict[str, str]) -> tuple[Figure, ...]:
    return tuple(_figure(inside(root, folder, f"{Path(stem).name}.svg"), text) for stem, text in captions.items())


def _figure(path: Path, caption: str) -> Figure:
    try:
        return Figure(path, caption, read_text(path, LARGEST_TEXT))
    except Unreadable as error:
        problem = f"{path}: cannot be read ({error})"
        raise UserError(f"{problem}; draw it again with `ntkrun plot` or `ntkrun reproduce`") from None


def _change(run_dirs: Sequence[Path], baseline: Path) -> Change:
    """Return the comparison of the first sweep that has the baseline's config with the baseline."""
    from ntkrun.evidence.regression import check as checking  # imports matplotlib, which other reports do not need
    from ntkrun.evidence.regression.check import CAPTION

    problems = []
    for run_dir in run_dirs:
        try:
            comparison, known, png = checking.check(run_dir, baseline)
        except UserError as error:
            problems.append(str(error))
            continue
        return Change(run_dir.resolve().name, comparison, known, _figure(png.with_suffix(".svg"), CAPTION))
    raise UserError("\n".join(dict.fromkeys(problems)))


# ---------------------------------------------------------------- document


def document(page: Page) -> dict[str, Any]:
    """Return the page as plain values. Missing numbers are nan; they become null when written as JSON."""
    change = page.change
    return {
        "tally": page.tally,
        "sections": [{"control": each.is_control, **each.result.model_dump()} for each in page.sections],
        "change": change and {"sweep": change.sweep, **check_document(change.check, change.baseline)},
    }
