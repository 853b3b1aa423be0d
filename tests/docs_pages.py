"""The documentation as the tests read it: pages, their blocks, their links, and a shell for their commands."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"\n]*)\")?\n(.*?)^```", re.M | re.S)


class Block(NamedTuple):
    """A fenced block. With a title it is a file of that name; else python and bash are to be run."""

    language: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(language, title or None, text) for language, title, text in BLOCK.findall(page.read_text("utf-8"))]


def has_programs(page: Path) -> bool:
    return any(block.language in ("python", "bash") and not block.title for block in blocks(page))


def run_page(page: Path) -> None:
    """Write the page's files into the present directory, and run its programs, in order, as one."""
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.title and "," not in block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and not block.title:
            if "import duckdb" in block.text:
                pytest.importorskip("duckdb", reason="duckdb is not installed: the rest of this page was not run")
            exec(compile(block.text, page.name, "exec"), names)
        elif block.language == "bash":
            for words, wanted in commands_of(block.text):
                assert run_command(words) == wanted, shlex.join(words)


def commands_of(text: str) -> Iterator[tuple[list[str], int]]:
    """The arguments of each `ntkrun` line, and the exit code that its comment tells, 0 if none does."""
    for line in text.splitlines():
        words = shlex.split(re.split(r" >>? |  \|", line)[0], comments=True)
        assert words[0] == "ntkrun", f"not a command of ntkrun: {line}; indent what is not to be run"
        told = re.search(r"# exits (\d+)", line)
        yield words[1:], int(told[1]) if told else 0


def run_command(words: list[str]) -> int:
    """`ntkrun` in this process, which has paid for its imports. Its exit code."""
    from ntkrun.cli import main

    kept_arguments, kept_handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["ntkrun", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = kept_arguments
        signal.signal(signal.SIGTERM, kept_handler)
    return 0


def shown_commands(page: Path) -> list[str]:
    """Every line of a page's blocks, indented ones too, that calls ntkrun."""
    found = re.findall(r"^(?:    )?(ntkrun [a-z].*)$", page.read_text("utf-8"), re.M)
    return [line for line in found if not re.match(r"ntkrun \w+(,|\.| [a-z]+ [a-z]+ [a-z]+)", line)]


# ---------------------------------------------------------------- links

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def links(page: Path) -> list[str]:
    return LINK.findall(without_code(page.read_text("utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and the repository's web view make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#{1,6} (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere; those to the network are not followed."""
    wrong = []
    for link in links(page):
        if link.startswith(("https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / file)) if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong
