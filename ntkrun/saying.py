"""What the commands print. Every line goes through here, so that no file's name or text drives the terminal. What the
terminal cannot show is spelled out (spelling.py); in JSON, where that would be another value, it is escaped."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ntkrun.closing import json_text
from ntkrun.printable import printable_lines


def say(text: object, error: bool = False) -> None:
    """Lines on standard output, or on standard error."""
    print(printable_lines(str(text)), file=sys.stderr if error else sys.stdout)


def print_table(*tables: Any) -> None:
    """Tables of rich, and lines. The text in them was made printable as it was read."""
    from ntkrun.console import PlainConsole

    console = PlainConsole()
    for table in tables:
        console.print(table)


def print_json(document: Any) -> None:
    """Strict JSON: what is not a number is null."""
    print(json_text(document, getattr(sys.stdout, "encoding", None)))


@contextmanager
def under_way(what: str, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal what keeps it waiting, such as "loading PyTorch", for as long as the block takes."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * (len(what) + 4)}\r", end="", file=sys.stderr, flush=True)


def loading_torch(quiet: bool = False) -> AbstractContextManager[None]:
    """Around the imports that bring torch, which take seconds on a slow or busy machine."""
    return under_way("loading PyTorch", quiet)
