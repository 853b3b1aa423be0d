"""The locks of a results directory, in .locks/:

    I-of-K    held by the process that runs shard I of K, 1-of-1 for a whole sweep; its text says who that is
    commit    held for a moment while a process takes its shard, or publishes a folder
    merge     held while a process merges folders

They are `flock` locks: the system drops them when their process ends, however it ends, so a dead process holds none and
a living one, even a stopped one, keeps its own. The files stay. Where a file system has no such locks, or they do not
reach other machines, everybody gets them: then two processes may compute the same run, which counts once (stacks.py).
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import IO

from ntkrun.errors import StoreBusy
from ntkrun.files.reading import Unreadable, open_plain_file
from ntkrun.files.writing import inside, make_folder
from ntkrun.text import printable

LOCKS = ".locks"
WHOLE = (1, 1)
COMMIT_WAIT = 60.0  # seconds to wait for another process to publish, which takes moments
SHARD_WAIT = 2.0  # seconds to wait for a reader to have looked at a lock
POLL = 0.01  # seconds between two tries
LARGEST_WRITER = 2**16  # bytes
NOT_SUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # by the file system


@dataclass(frozen=True)
class Writer:
    """A process that writes: its id, its machine, when it started, and its shard of the sweep (number, total)."""

    pid: int
    host: str
    since: str
    shard: tuple[int, int]

    def __str__(self) -> str:
        shard = f", shard {self.shard[0]}/{self.shard[1]}" if self.shard != WHOLE else ""
        return f"process {self.pid} on {self.host} since {self.since}{shard}"

    def is_apart_from(self, shard: tuple[int, int]) -> bool:
        """Return True if the two never run the same run: they are different shards of the same division."""
        return self.shard[1] == shard[1] and self.shard[0] != shard[0]


@contextmanager
def shard_lock(root: Path, shard: tuple[int, int] = WHOLE) -> Iterator[None]:
    """Hold the lock of a shard. Raises StoreBusy if another process may do the same runs."""
    with _opened(root, f"{shard[0]}-of-{shard[1]}") as file:
        with commit_lock(root):
            if others := [writer for writer in writers(root) if not writer.is_apart_from(shard)]:
                busy = f"another ntkrun process is writing here, {others[0]}"
                raise StoreBusy(f"{root}: {busy}; wait for it or choose --results")
            _take(file, SHARD_WAIT)
            now = datetime.now().astimezone().isoformat(" ", "seconds")
            file.truncate(0)
            file.write(json.dumps(asdict(Writer(os.getpid(), socket.gethostname(), now, shard))).encode())
        yield


@contextmanager
def commit_lock(root: Path) -> Iterator[None]:
    """Let one process at a time publish. Raises StoreBusy if another one does not end."""
    with _opened(root, "commit") as file:
        _take(file, COMMIT_WAIT)
        yield


@contextmanager
def merge_lock(root: Path) -> Iterator[bool]:
    """Yield True if no other process merges at this moment, and keep others from it; else yield False."""
    with _opened(root, "merge") as file:
        yield _flock(file, fcntl.LOCK_EX)


@contextmanager
def no_merge(root: Path) -> Iterator[None]:
    """Keep other processes from merging. Raises StoreBusy if one does not end."""
    with _opened(root, "merge") as file:
        _take(file, COMMIT_WAIT)
        yield


def writers(root: Path) -> list[Writer]:
    """Return the processes that hold a shard. Reads only, also in a directory that this process may not write."""
    present = []
    for path in sorted(inside(root, LOCKS).glob("*-of-*")):
        with suppress(Unreadable), open_plain_file(path, LARGEST_WRITER) as file:
            if _held_by_another(file):
                present.append(_parsed(file.read(LARGEST_WRITER)))
    return present


@contextmanager
def _opened(root: Path, name: str) -> Iterator[FileIO]:
    """Open a lock's file, which is created if it does not exist. Closing it releases the lock."""
    make_folder(root / LOCKS)
    path = inside(root, LOCKS, name)
    with FileIO(str(path), "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666)) as file:
        yield file


def _take(file: FileIO, wait: float) -> None:
    """Take the lock of an open file. Raises StoreBusy if another process keeps it for `wait` seconds."""
    deadline = time.monotonic() + wait
    while not _flock(file, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            raise StoreBusy(f"another process holds the lock {file.name} and does not release it; wait until it ends")
        time.sleep(POLL)


def _held_by_another(file: IO[bytes]) -> bool:
    if not _flock(file, fcntl.LOCK_SH):
        return True
    _flock(file, fcntl.LOCK_UN)
    return False


def _flock(file: IO[bytes] | FileIO, kind: int) -> bool:
    """Take a lock at once. Return False if another process holds it; True where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
    return True


def _parsed(text: bytes) -> Writer:
    """Return the writer that a lock's file names, or an unknown writer if ntkrun did not write the file."""
    try:
        fields = json.loads(text)
        number, total = map(int, fields["shard"])
        host, since = (printable(str(fields[key]))[:100] for key in ("host", "since"))
        return Writer(int(fields["pid"]), host, since, (number, total))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return Writer(0, "an unknown machine", "an unknown time", WHOLE)
