"""Printing of the commands. Every line passes through this module, so that no file name or text controls the terminal.
Characters that the terminal cannot show are spelled out (text.py); in JSON, where that would change the value, they are
escaped."""

import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from ntkrun.text import json_text, printable_lines


def say(text: object, error: bool = False) -> None:
    """Print lines on standard output, or on standard error."""
    print(printable_lines(str(text)), file=sys.stderr if error else sys.stdout)


def print_table(*tables: Any) -> None:
    """Print rich tables and lines. Their text was made printable when it was read."""
    from ntkrun.evidence.cells import PlainConsole

    console = PlainConsole()
    for table in tables:
        console.print(table)


def print_json(document: Any) -> None:
    """Print strict JSON: a number that is not finite becomes null."""
    print(json_text(document, getattr(sys.stdout, "encoding", None)))


@contextmanager
def under_way(what: str, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal what is being done, such as "loading PyTorch", while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * (len(what) + 4)}\r", end="", file=sys.stderr, flush=True)


def loading_torch(quiet: bool = False) -> AbstractContextManager[None]:
    """Show "loading PyTorch" during imports of torch, which take seconds on a slow or busy machine."""
    return under_way("loading PyTorch", quiet)


# ---------------------------------------------------------------- interrupts


@contextmanager
def interruptible(comfort: str) -> Iterator[None]:
    """End the block on Ctrl-C, SIGTERM and SIGHUP with the sentence `comfort`, which says what is kept. Signals that
    were ignored when the command began, by nohup or in a shell's background, stay ignored."""

    def stop(*_: object) -> None:
        # Raised directly and not through SIGINT, which background jobs of a shell ignore.
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
    return f"finished runs are kept in {where}. Run the same command again to continue."
