"""Being asked to stop: SIGTERM ends training with its checkpoint written, and exit code 143."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Interruption:
    """Set by SIGTERM, looked at between two steps."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: int | FrameType | None) -> None:
        """Ask for an end (a signal handler)."""
        self.asked = True


@contextmanager
def noticing_sigterm() -> Iterator[Interruption]:
    """Let SIGTERM ask for an end; whoever trains looks, saves and raises SystemExit."""
    interruption = Interruption()
    with _handling(interruption.ask):
        yield interruption


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143) here, at once: ``finally`` blocks end the workers."""

    def end(*_: int | FrameType | None) -> None:
        raise SystemExit(EXIT_CODE)

    with _handling(end):
        yield


@contextmanager
def _handling(handler: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
