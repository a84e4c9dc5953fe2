"""A file lock that the kernel releases when its holder dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockedError(Exception):
    """Another process holds the lock."""


@contextmanager
def lock(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold ``path`` exclusively; wait up to ``wait`` seconds for it.

    Raises:
        LockedError: another process still holds it.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LockedError(f"{path} is held by another process") from None
                time.sleep(0.05)
        yield
