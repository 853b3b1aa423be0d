"""Handle Ctrl-C, SIGTERM and SIGHUP while a sweep runs: the first ends it cleanly, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 5.0  # seconds from the first interrupt until KeyboardInterrupt; a last checkpoint takes less


class Interrupts:
    """Counts interrupts. After the first, the sweep may end by itself; a second, or the end of GRACE, raises
    KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self._deferred = self._overdue = False

    def requested(self) -> bool:
        """Return True if the sweep is to end."""
        return self.count > 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals within this context: only those that have a Python handler, such as the one that raises
        KeyboardInterrupt, and only in the main thread, which alone receives signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [number for number in STOP if callable(signal.getsignal(number))]
        previous = {number: signal.signal(number, self._on_signal) for number in handled}
        previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_grace_over)
        try:
            yield
        finally:
            self.cancel_grace()
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the end of GRACE until this context ends."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._overdue:
            raise KeyboardInterrupt

    def raise_if_requested(self) -> None:
        """Raise KeyboardInterrupt if the sweep is to end."""
        if self.requested():
            raise KeyboardInterrupt

    def cancel_grace(self) -> None:
        """Cancel the end of GRACE: the sweep is ending and may take its time."""
        self._overdue = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _on_grace_over(self, number: int, frame: FrameType | None) -> None:
        self._overdue = self._deferred
        if not self._deferred:
            raise KeyboardInterrupt
