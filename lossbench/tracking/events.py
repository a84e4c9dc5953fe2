"""The journal: what training appends to before anyone else hears of it, a JSON object a line.

An *attempt* is one process training one arm; it has a file of its own,
``.lossbench/journal/<experiment>/<arm>/<attempt>.jsonl``. Every event has ``event`` and ``time`` (seconds
since the epoch). A process killed in the middle of a write leaves a torn last line, which readers drop.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

SYNC_EVERY = 1.0
"""Seconds between two fsyncs. Every event reaches the kernel at once, so that a killed process loses none;
only a power cut can take what came in the last second, and the outs still hold that."""

Event = dict[str, Any]


class EventFile:
    """An append-only file of events, opened for one attempt."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._synced = time.monotonic()

    def append(self, event: str, values: Mapping[str, Any], sync: bool = False) -> None:
        """Append one event in one write; ``sync`` waits until it is on the disk."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        self._file.write(line.encode() + b"\n")
        if sync or time.monotonic() - self._synced > SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()


class Tail:
    """Reads what was appended to a journal since the last call; a torn last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def new(self) -> list[Event]:
        """Read the complete lines that came since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(_parse(whole))


def read(path: Path) -> list[Event]:
    """Read all complete events of a journal."""
    return Tail(path).new()


def _parse(raw: bytes) -> Iterator[Event]:
    for line in raw.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn by a crash and then appended to: the line is lost, its neighbours are not
        if isinstance(event, dict) and "event" in event:
            yield event
