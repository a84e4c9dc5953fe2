"""One at a time: a lock that says who holds it, and that dies with its holder."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

REPRO_LOCK = "repro.lock"
"""In the study's private folder: held while `make repro` is at work."""


class HeldError(Exception):
    """Another process is at work; the message says which."""


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock while the block runs.

    The kernel keeps it (``flock``), so a dead holder's lock is free at once, however it died; the file only
    says who holds it. On a network file system that does not pass locks on, two hosts do not see each other.

    Args:
        path: of the lock file; it stays.
        what: there is to be only one of.

    Raises:
        HeldError: naming the holder's process, host and start.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(f"another {what} is at work: {_holder(path)}") from None
        file.seek(0)
        file.truncate()
        file.write(json.dumps(_me()) + "\n")
        file.flush()
        yield


def _me() -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}


def _holder(path: Path) -> str:
    """Say who wrote the lock file; a holder that has just begun may not have done so yet."""
    try:
        one = json.loads(path.read_text(encoding="utf-8"))
        return f"process {one['process']} on {one['host']}, since {one['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just begun"
