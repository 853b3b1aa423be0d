"""A command in this process as a user would meet it: its exit code and what it said, and whatever it wrote elsewhere
than it may."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.command import ntkrun_command

CODES = {0, 1, 2, 3, 4, 5}  # docs/interface: 130 is for interrupts
# A hang: six times what drawing every figure takes, the longest that a whole store asks for; the second is for waiting
# on a pipe, on a machine that may be busy.
CPU_SECONDS, REAL_SECONDS = 60, 600


class Hang(BaseException):
    """A command that does not come to an end."""


class _Watch:
    """Audit hooks cannot be removed: one that is told when to look, and where writing is allowed."""

    allowed: tuple[str, ...] | None = None
    seen: list[str]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in ("pickle.find_class", "os.system", "os.exec", "socket.connect"):
            self.seen.append(f"{event} {arguments!r}")
        paths: tuple[Any, ...] = ()
        if event == "open" and (_writes(arguments[1], arguments[2])):
            paths = arguments[:1]
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod"):
            paths = arguments[:1]
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = arguments[:2]
        self.seen += [f"{event} {path}" for path in paths if not self._may(path)]

    def _may(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return True
        there = Path(os.fsdecode(path))
        folder = os.path.realpath(there.parent)  # a link itself is where it lies
        harmless = folder == "/dev" or folder.endswith("__pycache__")
        where = f"{folder}/{there.name}"
        return harmless or any(where == root or where.startswith(root + "/") for root in self.allowed or ())


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


_WATCH = _Watch()
sys.addaudithook(_WATCH)


@contextlib.contextmanager
def jailed(*allowed: Path) -> Iterator[None]:
    """Fails if within it something is written elsewhere than below `allowed`, unpickled, run or fetched."""
    _WATCH.seen, _WATCH.allowed = [], tuple(os.path.realpath(path) for path in allowed)
    try:
        yield
    finally:
        _WATCH.allowed = None
    assert not _WATCH.seen, _WATCH.seen


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Raises Hang where what is within does not end."""

    def stop(*_: object) -> None:
        raise Hang

    old = [signal.signal(kind, stop) for kind in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, REAL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in zip((signal.SIGPROF, signal.SIGALRM), old, strict=True):
            signal.signal(kind, handler)


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and all that `ntkrun ARGUMENTS` says; any exception but its exit passes. Nothing that it says can drive
    a terminal, and a code of a mistake comes with a sentence."""
    with warnings.catch_warnings(), ending():
        warnings.simplefilter("ignore")  # of overflow in damaged numbers
        done = ntkrun_command(*arguments, cwd=Path.cwd())
    code, said = done.returncode, done.stdout + done.stderr
    assert code in CODES, (arguments, code, done.stderr)
    assert "Traceback" not in said, (arguments, said)
    assert said.replace("\n", "").isprintable(), (arguments, said)
    assert done.stderr.strip() or code not in (2, 4), (arguments, code)
    return code, said
