"""What becomes of a command that is asked to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ntkrun.saying import say


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
