"""Checkpoints where the store is: an interrupted training goes on wherever its job comes next."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbench.backing import folder_of
from lossbench.errors import GateError, UserError
from lossbench.execution.jobs import Where
from lossbench.store import Store
from lossbench.training.checkpoint import SHARE, Checkpoint

FOLDER = "checkpoints"


def checkpoint_of(where: Where, store: Store, name: str) -> Checkpoint:
    """Find a training's checkpoint: beside the store's entries.

    Args:
        where: of the job.
        store: that holds its results.
        name: of the training.

    """
    folder = folder_of(where.store)
    if folder is not None:
        return Checkpoint(folder / FOLDER / f"{name}.pt")
    return SharedCheckpoint(where.home / FOLDER / f"{name}.pt", store)


class SharedCheckpoint(Checkpoint):
    """A file in a store that is no folder; one of this machine while the store does not take it.

    It does not stay here: another machine may go on from the store's, and what lay here would be older.
    """

    def __init__(self, file: Path, store: Store) -> None:
        super().__init__(file)
        self._store, self._copy = store, f"{FOLDER}/{file.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process by name: a connection to the store cannot."""
        return _shared, (self.file, self._store.address)

    def save(self, content: dict[str, Any]) -> None:
        """Write it; a store that does not answer now may do so later, and training goes on."""
        super().save(content)
        began = time.monotonic()
        # The results will tell if it lasts; who trains the same beside us may have put it there.
        with suppress(GateError, UserError, FileNotFoundError):
            self._store.place.write(self._copy, self.file.read_bytes())
            self.file.unlink()
        took = time.monotonic() - began
        self._next = max(self._next, time.monotonic() + took / SHARE)

    def load(self) -> dict[str, Any] | None:
        """Read what the store did not take, or where this machine has none, the store's."""
        if self.file.is_file():
            return super().load()
        with suppress(FileNotFoundError), tempfile.TemporaryDirectory(prefix="lossbench-") as folder:
            file = Path(folder) / self.file.name
            file.write_bytes(self._store.place.read(self._copy))
            return Checkpoint(file).load()
        return None

    def remove(self) -> None:
        """Forget both."""
        super().remove()
        self._store.place.remove(self._copy)


def _shared(file: Path, address: str) -> SharedCheckpoint:
    return SharedCheckpoint(file, Store(address))
