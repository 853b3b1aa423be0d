"""The programs in docs/ run as they stand."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["modules.md"])
def test_python_on_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    programs = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    assert programs
    with torch.random.fork_rng():
        for program in programs:
            exec(compile(program, page, "exec"), {})
    drift, gap = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert 0 < drift < 1
    assert 0 < gap < 1
