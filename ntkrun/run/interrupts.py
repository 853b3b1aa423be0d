"""Ctrl-C, SIGTERM and SIGHUP while a sweep runs: once ends it well, twice at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 5.0  # seconds after the first interrupt for those who ask whether to stop: a last checkpoint takes less


class Interrupts:
    """The first is noted, and whoever asks may end well; a second, or the end of GRACE, is KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self._held = False

    def requested(self) -> bool:
        """Whether the sweep is to end."""
        return self.count > 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Listen within; only to what would otherwise be KeyboardInterrupt or the like, and in the main thread, which
        alone hears of signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in STOP if callable(signal.getsignal(number))]
        before = {number: signal.signal(number, self._interrupted) for number in heard}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._grace_is_over)
        try:
            yield
        finally:
            self.cancel_grace()
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What is done within is not cut in two by a first interrupt."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.raise_if_requested()

    def raise_if_requested(self) -> None:
        """Raises KeyboardInterrupt if the sweep is to end."""
        if self.requested():
            raise KeyboardInterrupt

    def cancel_grace(self) -> None:
        """The sweep is ending: wait for it as long as it takes."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _grace_is_over(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
