"""The documentation says what is so: its programs run, its links lead somewhere, its reference is the code's."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.command import CONFIG, ENVIRONMENT
from tests.docs_pages import DOCS, PAGES, ROOT, broken, commands_of, has_programs, run_page, shown_commands

READ = [*PAGES, ROOT / "README.md", ROOT / "results" / "README.md"]


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the programs of a page print, one after the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        run_page(DOCS / page)
    return capsys.readouterr().out


LOOKED_AT = ("modules.md", "theory.md", "tutorial.md")


@pytest.mark.parametrize("page", ["modules.md"])
def test_the_program_of_the_modules_page(printed: str) -> None:
    drift, gap = map(float, re.findall(r"\d\.\d+", printed))
    assert 0 < drift < 1
    assert 0 < gap < 1


@pytest.mark.parametrize("page", ["theory.md"])
def test_the_programs_of_the_theory_page(printed: str) -> None:
    first, middle, last = map(float, printed.split("]")[0].strip("tensor([").split(","))
    assert first > middle > last >= 0
    assert last < 1e-12


@pytest.mark.parametrize("page", ["tutorial.md"])
def test_the_tutorial_ends_where_it_says(printed: str) -> None:
    verdicts = re.findall(r"^(frozen-kernel|lazy-weights) .* (\w+) *$", printed, re.M)
    assert verdicts[:2] == [("frozen-kernel", "supported"), ("lazy-weights", "inconclusive")]
    assert verdicts[2:6] == [("frozen-kernel", "supported"), ("lazy-weights", "supported")] * 2
    assert verdicts[6:] == [("frozen-kernel", "refuted")] * 2
    assert max(map(len, re.findall(r"^.*(?:±|±|\[).*$", printed, re.M))) <= 80
    assert "results/first/report.html" in printed


@pytest.mark.parametrize(
    "page", [str(page.relative_to(DOCS)) for page in PAGES if has_programs(page) and page.name not in LOOKED_AT]
)
def test_the_programs_of_the_other_pages(printed: str) -> None:
    assert printed


@pytest.mark.parametrize("page", ["../README.md"])
def test_the_program_of_the_readme(printed: str) -> None:
    assert not printed  # it ran


@pytest.mark.parametrize("page", READ, ids=_id)
def test_every_command_that_is_shown_is_one(page: Path) -> None:
    from typer.main import get_command

    from ntkrun.cli import app

    for line in shown_commands(page):
        ((words, _),) = commands_of(line)
        command, rest = get_command(app), words
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        context = command.make_context("ntkrun", rest)
        config = context.params.get("config")
        if config and config.parts[0] == "configs":
            assert (ROOT / config).exists(), line


@pytest.mark.parametrize("page", READ, ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_the_reference_is_what_the_code_says() -> None:
    from docs.generate import REFERENCE, pages

    for name, text in pages().items():
        assert (REFERENCE / name).read_text("utf-8") == text, f"{name} is old: run `python docs/generate.py`"
    assert {path.name for path in REFERENCE.iterdir()} == set(pages())


def test_every_page_stands_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """Without the Python objects that mkdocs makes."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    nav = yaml.load(text, Loader)["nav"]
    listed = re.findall(r"[\w/-]+\.md", str(nav))
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_the_tables_have_the_columns_that_the_reference_has(tmp_path: Path) -> None:
    from ntkrun.columns import PLAN, TABLES
    from ntkrun.config.reader import parse_config
    from ntkrun.run.sweep import run_sweep

    results = run_sweep(parse_config(CONFIG), tmp_path)
    for table, columns in TABLES.items():
        assert set(getattr(results, table)) - set(results.plan) | {"run_id"} == set(columns), table
    assert PLAN.keys() <= set(results.plan)


def test_the_theory_page_names_functions_that_exist() -> None:
    text = (DOCS / "theory.md").read_text(encoding="utf-8")
    found = set(re.findall(r"`(ntkrun(?:\.\w+)+)", text))
    assert len(found) > 25
    for name in found:
        pkgutil.resolve_name(name)


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: `make docs` does")
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed: `make docs` does")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = {**ENVIRONMENT, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text("utf-8")
        assert re.findall(r"""<(?:script|img|link|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//""", text) == [], page
        assert 'class="arithmatex"' not in text
