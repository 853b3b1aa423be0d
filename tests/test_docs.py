"""The programs in docs/ run as they stand."""

import pkgutil
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def _printed(page: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the programs of a page print, one after the other."""
    programs = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    assert programs
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for program in programs:
            exec(compile(program, page, "exec"), {})
    return capsys.readouterr().out


def test_the_program_of_the_modules_page(capsys: pytest.CaptureFixture[str]) -> None:
    drift, gap = map(float, re.findall(r"\d\.\d+", _printed("modules.md", capsys)))
    assert 0 < drift < 1
    assert 0 < gap < 1


def test_the_programs_of_the_theory_page(capsys: pytest.CaptureFixture[str]) -> None:
    losses = _printed("theory.md", capsys).split("]")[0].strip("tensor([").split(",")
    first, middle, last = map(float, losses)
    assert first > middle > last >= 0
    assert last < 1e-12


def test_the_theory_page_names_functions_that_exist() -> None:
    text = (DOCS / "theory.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(ntkrun(?:\.\w+)+)", text))
    assert len(names) > 25
    for name in names:
        pkgutil.resolve_name(name)
