"""Slots: how many workers run at a time, over all the processes that train side by side.

Arms that start, load their data and end one by one leave processors idle; of arms with a fixed share of them
all wait for the longest. With slots every arm may use every processor, and none is used twice.
"""

import fcntl
import os
from pathlib import Path

from lossbench.errors import UserError

VARIABLE = "LOSSBENCH_SLOTS"


def make_slots(folder: Path, count: int) -> dict[str, str]:
    """Make ``count`` slots in a folder of their own; return the environment of those who share them."""
    where = folder.resolve() / f"slots-{count}"
    where.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (where / str(number)).touch()
    return {VARIABLE: str(where)}


class Slots:
    """One process's view of the slots that ``LOSSBENCH_SLOTS`` names; without it there is always one free.

    A slot is a file and whoever holds its lock (``flock``) may run a worker. The kernel keeps the locks, so a
    process that is killed gives its slots back.

    Raises:
        UserError: if the variable names no folder of slots.

    """

    def __init__(self) -> None:
        folder = os.environ.get(VARIABLE)
        self._limited = bool(folder)
        self._free = _open(Path(folder)) if folder else []

    def take(self) -> int | None:
        """Take a slot; None where all are in use, by us or by others. It is given back by :meth:`give`."""
        if not self._limited:
            return -1
        for place, file in enumerate(self._free):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return self._free.pop(place)
        return None

    def give(self, slot: int) -> None:
        """Give a slot back. Workers forked meanwhile have its file too, which does not keep it locked."""
        if self._limited:
            fcntl.flock(slot, fcntl.LOCK_UN)
            self._free.append(slot)

    def close(self) -> None:
        """Close the files of the slots that are not in use."""
        while self._free:
            os.close(self._free.pop())


def _open(folder: Path) -> list[int]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not files:
        raise UserError(f"{VARIABLE} is '{folder}'; allowed: a folder with a lock file for each slot")
    # For writing: on a network file system a lock is one of the file's bytes, which a reader may not have.
    return [os.open(file, os.O_RDWR | os.O_CLOEXEC) for file in files]
