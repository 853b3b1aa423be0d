"""Who writes in a results directory: one file a writer, .writers/<token>.json, that says which process it is.

A writer holds a lock on its file as long as it lives and touches it every BEAT seconds. On its own machine a writer is
dead exactly when nobody holds that lock: the system drops it with the process, however that ends. Seen from another
machine, where locks may not reach, it must also not have touched its file for LEASE seconds. Whoever is dead loses its
file, and whoever has lost its file publishes nothing more. Writers come, go and publish within `moment`.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, BinaryIO

import filelock

from ntkrun.errors import StoreBusy
from ntkrun.files.reading import Unreadable, open_plain_file
from ntkrun.files.writing import TEMPORARY, make_folder
from ntkrun.text import printable

HEARTBEAT = 30.0  # seconds from one touch to the next
# Seconds without a touch after which a writer on another machine counts as dead, and a temporary file as nobody's.
LOCK_TIMEOUT = 600.0
POLL = 5.0  # seconds between two looks at a writer that may be dead
LOCK_WAIT = 60.0  # seconds to wait for those who come, go or publish, which takes moments
WHOLE = (1, 1)
LARGEST_WRITER = 2**16  # bytes
WRITERS = ".writers"


@dataclass(frozen=True)
class Writer:
    """A process that writes: which one, where (`boot` tells two runs of a machine apart), since when, and which of how
    many shards of the sweep it does."""

    pid: int
    host: str
    boot: str
    since: str
    shard: tuple[int, int]

    def __str__(self) -> str:
        shard = f", shard {self.shard[0]}/{self.shard[1]}" if self.shard != WHOLE else ""
        return f"process {self.pid} on {self.host} since {self.since}{shard}"

    @property
    def is_of_this_machine(self) -> bool:
        return (self.host, self.boot) == _this_machine()

    def is_apart_from(self, shard: tuple[int, int]) -> bool:
        """Whether the two never do the same run: different shards of the same cut."""
        return self.shard[1] == shard[1] and self.shard[0] != shard[0]


@dataclass(frozen=True)
class WriteLock:
    """What a writer holds: its file."""

    root: Path
    file: Path

    def check(self) -> None:
        """Raises StoreBusy where this process has been taken for dead: another may be at the same runs."""
        if not self.file.exists():
            raise StoreBusy(
                f"{self.root}: this process did not touch its lock for {LOCK_TIMEOUT / 60:.0f} minutes and was taken "
                "for dead, so it writes nothing more; what it had committed is kept. The same command goes on"
            )

    def now(self) -> float:
        """The time by the clock of the file system, which may be another machine's."""
        os.utime(self.file)
        return self.file.stat().st_mtime


@contextmanager
def write_lock(
    root: Path, shard: tuple[int, int] = WHOLE, waits: Callable[[Writer], None] = lambda writer: None
) -> Iterator[WriteLock]:
    """Be a writer of this directory. Raises StoreBusy where one is there that might do the same runs; one that does the
    same shard on another machine may have died with it, and is given time to show that it has not. `waits` is told."""
    _wait_for_twin(root / WRITERS, shard, waits)
    with exclusive(root):
        file, lock = _register(root / WRITERS, _this_writer(shard))
        lease = WriteLock(root, file)
        try:
            _remove_dead_writers(lease, shard)
        except BaseException:
            _unregister(file, lock)
            raise
    over = threading.Event()
    beat = threading.Thread(target=_send_heartbeats, args=(file, over), daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        over.set()
        _unregister(file, lock)


def writers(root: Path) -> list[Writer]:
    """The living ones. Reads only."""
    return [writer for _, writer, alive in _writer_files(root / WRITERS, time.time()) if alive]


def dead_writers(root: Path) -> list[Path]:
    """The files of those that have died. Reads only."""
    return [file for file, _, alive in _writer_files(root / WRITERS, time.time()) if not alive]


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """One process at a time. Raises StoreBusy where another does not come to an end."""
    lock = filelock.FileLock(root / ".lock")
    try:
        lock.acquire(timeout=LOCK_WAIT)
    except filelock.Timeout:
        raise StoreBusy(f"{root}: another process holds {root / '.lock'} and does not let go; wait for it") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive_if_free(path: Path) -> Iterator[bool]:
    """Whether nobody else is within at this moment; nobody waits."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _register(folder: Path, writer: Writer) -> tuple[Path, IO[bytes]]:
    """The writer's file and the open file that holds its lock, which it has before anybody sees it."""
    make_folder(folder)
    name = uuid.uuid4().hex
    temporary = folder / f"{TEMPORARY}{name}"
    temporary.write_text(json.dumps(asdict(writer)), encoding="utf-8")
    lock = temporary.open("rb+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return temporary.rename(folder / f"{name}.json"), lock


def _remove_dead_writers(lease: WriteLock, shard: tuple[int, int]) -> None:
    """Take the dead out. Raises StoreBusy where a living one is in the way."""
    folder = lease.file.parent
    for file, writer, alive in _writer_files(folder, lease.now()):
        if file == lease.file:
            continue
        if not alive:
            file.unlink(missing_ok=True)
        elif not writer.is_apart_from(shard):
            raise StoreBusy(
                f"{lease.root}: another ntkrun process is writing here, {writer}; wait for it or choose --results"
            )
    for stray in folder.glob(f"{TEMPORARY}*"):  # made within `moment` alone, which is ours
        stray.unlink(missing_ok=True)


def _wait_for_twin(folder: Path, shard: tuple[int, int], waits: Callable[[Writer], None]) -> None:
    """Wait while a writer of this very shard on another machine neither touches its file nor is dead by that. (A job
    array's task that is queued again when its node has failed meets what it was there.)"""
    touched: dict[Path, float] = {}
    while twin := _silent_twin(folder, shard):
        file, writer, last = twin
        if file not in touched:
            waits(writer)
        if touched.setdefault(file, last) != last:
            return  # it lives, and is in the way
        time.sleep(POLL)


def _silent_twin(folder: Path, shard: tuple[int, int]) -> tuple[Path, Writer, float] | None:
    """Such a writer that may be dead, or soon will be, and when it last touched its file."""
    for file, writer, _ in _writer_files(folder, time.time()):
        if shard == writer.shard != WHOLE and not writer.is_of_this_machine:
            with suppress(FileNotFoundError):  # it has just left
                last = file.stat().st_mtime
                if time.time() - last < LOCK_TIMEOUT + HEARTBEAT:  # clocks of machines differ a little
                    return file, writer, last
    return None


def _writer_files(folder: Path, now: float) -> Iterator[tuple[Path, Writer, bool]]:
    """Every writer's file, who it is, and whether it lives."""
    for file in sorted(folder.glob("*.json")):
        with suppress(Unreadable), open_plain_file(file, LARGEST_WRITER) as found:  # gone: it has just left
            writer = _parse_writer(found.read(LARGEST_WRITER))
            untouched = now - os.fstat(found.fileno()).st_mtime
            yield file, writer, _is_locked(found) or (not writer.is_of_this_machine and untouched < LOCK_TIMEOUT)


def _is_locked(open_plain_file: BinaryIO) -> bool:
    try:
        fcntl.flock(open_plain_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(open_plain_file, fcntl.LOCK_UN)
    return False


def _unregister(file: Path, lock: IO[bytes]) -> None:
    file.unlink(missing_ok=True)
    lock.close()


def _send_heartbeats(file: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        with suppress(OSError):  # a file system that is away for a moment; what counts is looked at on publishing
            os.utime(file)


def _this_writer(shard: tuple[int, int]) -> Writer:
    return Writer(os.getpid(), *_this_machine(), datetime.now().astimezone().isoformat(" ", "seconds"), shard)


def _this_machine() -> tuple[str, str]:
    """The machine's name, and which of its runs this is where the system tells."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname(), boot.read_text(encoding="ascii").strip() if boot.exists() else ""


def _parse_writer(text: bytes) -> Writer:
    """Who a file speaks of; nobody of any machine where it was not written by us."""
    try:
        said = json.loads(text)
        shard, of = map(int, said["shard"])
        host, boot, since = (printable(str(said[key]))[:100] for key in ("host", "boot", "since"))
        return Writer(int(said["pid"]), host, boot, since, (shard, of))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return Writer(0, "a machine unknown", "", "a time unknown", WHOLE)
