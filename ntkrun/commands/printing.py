"""What the commands print. Every line goes through here, so that no file's name or text drives the terminal. What the
terminal cannot show is spelled out (text.py); in JSON, where that would be another value, it is escaped."""

import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from ntkrun.text import json_text, printable_lines


def say(text: object, error: bool = False) -> None:
    """Lines on standard output, or on standard error."""
    print(printable_lines(str(text)), file=sys.stderr if error else sys.stdout)


def print_table(*tables: Any) -> None:
    """Tables of rich, and lines. The text in them was made printable as it was read."""
    from ntkrun.report.tables import PlainConsole

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


# ---------------------------------------------------------------- interrupts


@contextmanager
def interruptible(comfort: str) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end what runs within, with a sentence that says what is kept. What was ignored as the
    command began, by nohup or in a shell's background, stays ignored."""

    def stop(*_: object) -> None:
        # Not by way of SIGINT, which a shell's background jobs ignore.
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):  # after SIGHUP the terminal may be gone
            say(f"interrupted; {comfort}", error=True)
        raise


def kept_in(where: Path) -> str:
    return f"finished runs are kept in {where}. The same command goes on."
