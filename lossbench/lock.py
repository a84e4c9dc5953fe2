"""One at a time: locks that die with their holder, and one that says who holds it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

from filelock import FileLock, Timeout

from lossbench.identity import Owner, is_alive

REPRO_LOCK = "repro.lock"
"""In the study's private folder: held while `lossbench run` is at work."""
BEAT = 20.0
"""Seconds between two signs of life of a holder."""
SILENCE = 10 * BEAT
"""Seconds without one after which a holder on another machine counts as dead."""


class LockedError(Exception):
    """Another process holds the lock."""


class HeldError(Exception):
    """Another process is at work; the message says which."""


@contextmanager
def lock(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold ``path`` exclusively; wait up to ``wait`` seconds for it (for ever, if that is negative).

    The kernel keeps it (``flock``), so a dead holder's lock is free at once, however it died.

    Raises:
        LockedError: another process still holds it.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, timeout=wait)
    try:
        held.acquire()
    except Timeout:
        raise LockedError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock while the block runs, and say in its file who does.

    A shared folder may not pass the kernel's locks on to other machines. There the file decides: who is named
    in it gives a sign of life every few seconds (the file's time), and holds the lock while it does.

    Args:
        path: of the lock file; it stays, empty when nobody holds it.
        what: there is to be only one of.

    Raises:
        HeldError: naming the holder's process, host and start.

    """
    try:
        with lock(path):
            if held_elsewhere(path):
                raise HeldError(f"another {what} is at work: {_holder(path)}")
            path.write_bytes(_me())
            try:
                with _beating(path):
                    yield
            finally:
                with suppress(FileNotFoundError):  # `lossbench clean` has removed it
                    os.truncate(path, 0)
    except LockedError:
        raise HeldError(f"another {what} is at work: {_holder(path)}") from None


def _me() -> bytes:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"owner": asdict(Owner.me()), "since": now}).encode() + b"\n"


def held_elsewhere(path: Path) -> str | None:
    """Describe the living process of another machine that holds a lock: the kernel may not know of it."""
    owner = _read(path)[0]
    if owner is None or owner.here() or not is_alive(owner, path.stat().st_mtime, SILENCE):
        return None
    return _holder(path)


def _read(path: Path) -> tuple[Owner | None, str]:
    """Read who holds it, and since when; one that has just begun may not have written it yet."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(**content["owner"]), str(content["since"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, ""


def _holder(path: Path) -> str:
    owner, since = _read(path)
    if owner is None:
        return "a process that has just begun"
    return f"process {owner.pid} on {owner.host}, since {since}"


@contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Touch the file while the block runs."""
    over = Event()

    def beat() -> None:
        with suppress(OSError):  # the folder has gone or cannot be written any more: the block will say so
            while not over.wait(BEAT):
                os.utime(path)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
