"""The write lock of a results directory: every writer has a file .writers/<token>.json that names its process.

A writer holds a file lock on its file as long as it lives and touches the file every HEARTBEAT seconds. On its own
machine a writer is dead exactly when nobody holds that lock, because the system drops the lock when the process ends,
however it ends. File locks may not reach other machines. A writer on another machine is therefore dead only if it has
also not touched its file for LOCK_TIMEOUT seconds. The file of a dead writer is removed, and a writer whose file was
removed publishes nothing more. Writers register and publish within `exclusive`.
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

HEARTBEAT = 30.0  # seconds between touches of a writer's file
# Seconds without a touch after which a writer on another machine counts as dead and a temporary file as abandoned.
LOCK_TIMEOUT = 600.0
POLL = 5.0  # seconds between checks of a writer that may be dead
LOCK_WAIT = 60.0  # seconds to wait for another process to register or publish, which takes moments
WHOLE = (1, 1)
LARGEST_WRITER = 2**16  # bytes
WRITERS = ".writers"


@dataclass(frozen=True)
class Writer:
    """A process that writes: its id, its machine, when it started, and its shard of the sweep (number, total).

    `boot` tells one boot of a machine from another.
    """

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
        """Return True if the two never run the same run: they are different shards of the same division."""
        return self.shard[1] == shard[1] and self.shard[0] != shard[0]


@dataclass(frozen=True)
class WriteLock:
    """The lock that a writer holds: its file."""

    root: Path
    file: Path

    def check(self) -> None:
        """Raise StoreBusy if this process was taken for dead: another process may be working on the same runs."""
        if not self.file.exists():
            raise StoreBusy(
                f"{self.root}: this process did not touch its lock for {LOCK_TIMEOUT / 60:.0f} minutes and was taken "
                "for dead, so it writes nothing more; what it had committed is kept. Run the same command to continue"
            )

    def now(self) -> float:
        """Return the time by the clock of the file system, which may be another machine's clock."""
        os.utime(self.file)
        return self.file.stat().st_mtime


@contextmanager
def write_lock(
    root: Path, shard: tuple[int, int] = WHOLE, on_wait: Callable[[Writer], None] = lambda writer: None
) -> Iterator[WriteLock]:
    """Hold the write lock of this directory. Raises StoreBusy if another writer may do the same runs.

    A writer of the same shard on another machine may have died with that machine. This function calls `on_wait` with
    that writer and gives it time to show that it is alive.
    """
    _wait_for_twin(root / WRITERS, shard, on_wait)
    with exclusive(root):
        file, open_file = _register(root / WRITERS, _this_writer(shard))
        lock = WriteLock(root, file)
        try:
            _remove_dead_writers(lock, shard)
        except BaseException:
            _unregister(file, open_file)
            raise
    ended = threading.Event()
    heartbeat = threading.Thread(target=_send_heartbeats, args=(file, ended), daemon=True)
    heartbeat.start()
    try:
        yield lock
    finally:
        ended.set()
        _unregister(file, open_file)


def writers(root: Path) -> list[Writer]:
    """Return the writers that are alive. Reads only."""
    return [writer for _, writer, alive in _writer_files(root / WRITERS, time.time()) if alive]


def dead_writers(root: Path) -> list[Path]:
    """Return the files of the writers that have died. Reads only."""
    return [file for file, _, alive in _writer_files(root / WRITERS, time.time()) if not alive]


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Let one process at a time into the context. Raises StoreBusy if another process stays in it for LOCK_WAIT
    seconds."""
    lock = filelock.FileLock(root / ".lock")
    try:
        lock.acquire(timeout=LOCK_WAIT)
    except filelock.Timeout:
        raise StoreBusy(
            f"{root}: another process holds {root / '.lock'} and does not release it; wait until it ends"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive_if_free(path: Path) -> Iterator[bool]:
    """Yield True if no other process is in the context at this moment, else False. Does not wait."""
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
    """Write the writer's file. Return its path and the open file that holds its lock, which is locked before other
    processes can see it."""
    make_folder(folder)
    name = uuid.uuid4().hex
    temporary = folder / f"{TEMPORARY}{name}"
    temporary.write_text(json.dumps(asdict(writer)), encoding="utf-8")
    open_file = temporary.open("rb+")
    fcntl.flock(open_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return temporary.rename(folder / f"{name}.json"), open_file


def _remove_dead_writers(lock: WriteLock, shard: tuple[int, int]) -> None:
    """Remove the files of dead writers. Raises StoreBusy if a live writer may do the same runs."""
    folder = lock.file.parent
    for file, writer, alive in _writer_files(folder, lock.now()):
        if file == lock.file:
            continue
        if not alive:
            file.unlink(missing_ok=True)
        elif not writer.is_apart_from(shard):
            raise StoreBusy(
                f"{lock.root}: another ntkrun process is writing here, {writer}; wait for it or choose --results"
            )
    for stray in folder.glob(f"{TEMPORARY}*"):  # these are made only within `exclusive`, which this process holds
        stray.unlink(missing_ok=True)


def _wait_for_twin(folder: Path, shard: tuple[int, int], on_wait: Callable[[Writer], None]) -> None:
    """Wait while a writer of this very shard on another machine neither touches its file nor counts as dead.

    This happens when a job array's task is queued again after its node failed: it meets its own earlier writer.
    """
    touched: dict[Path, float] = {}
    while twin := _silent_twin(folder, shard):
        file, writer, last_touch = twin
        if file not in touched:
            on_wait(writer)
        if touched.setdefault(file, last_touch) != last_touch:
            return  # the twin is alive and keeps this process out
        time.sleep(POLL)


def _silent_twin(folder: Path, shard: tuple[int, int]) -> tuple[Path, Writer, float] | None:
    """Return the file of a writer of this shard on another machine that may be dead or soon count as dead, the writer,
    and the time of its last touch."""
    for file, writer, _ in _writer_files(folder, time.time()):
        if shard == writer.shard != WHOLE and not writer.is_of_this_machine:
            with suppress(FileNotFoundError):  # the writer has just ended
                last_touch = file.stat().st_mtime
                if time.time() - last_touch < LOCK_TIMEOUT + HEARTBEAT:  # clocks of machines differ a little
                    return file, writer, last_touch
    return None


def _writer_files(folder: Path, now: float) -> Iterator[tuple[Path, Writer, bool]]:
    """Yield the file of each writer, the writer, and whether it is alive."""
    for path in sorted(folder.glob("*.json")):
        with suppress(Unreadable), open_plain_file(path, LARGEST_WRITER) as file:  # unreadable: it has just ended
            writer = _parse_writer(file.read(LARGEST_WRITER))
            age = now - os.fstat(file.fileno()).st_mtime
            yield path, writer, _is_locked(file) or (not writer.is_of_this_machine and age < LOCK_TIMEOUT)


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _unregister(file: Path, open_file: IO[bytes]) -> None:
    file.unlink(missing_ok=True)
    open_file.close()


def _send_heartbeats(file: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):  # the file system may be unavailable for a moment; `WriteLock.check` is what counts
            os.utime(file)


def _this_writer(shard: tuple[int, int]) -> Writer:
    return Writer(os.getpid(), *_this_machine(), datetime.now().astimezone().isoformat(" ", "seconds"), shard)


def _this_machine() -> tuple[str, str]:
    """Return the machine's name and the id of its current boot, or "" where the system has no such id."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname(), boot.read_text(encoding="ascii").strip() if boot.exists() else ""


def _parse_writer(text: bytes) -> Writer:
    """Return the writer that a file describes, or an unknown writer if ntkrun did not write the file."""
    try:
        fields = json.loads(text)
        number, total = map(int, fields["shard"])
        host, boot, since = (printable(str(fields[key]))[:100] for key in ("host", "boot", "since"))
        return Writer(int(fields["pid"]), host, boot, since, (number, total))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return Writer(0, "an unknown machine", "", "an unknown time", WHOLE)
