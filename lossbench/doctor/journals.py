"""Journals of attempts that were killed: they get the end that their process could not write."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lossbench.doctor.finding import Finding, removal
from lossbench.identity import Owner, is_alive
from lossbench.tracking import journal
from lossbench.tracking.experiment import KILLED
from lossbench.tracking.outs import journals_of


def examine_journals(home: Path) -> Iterator[Finding]:
    """Look at all journals of a study."""
    for path in sorted(journals_of(home).glob("*/*/*.jsonl")):
        told = journal.read(path)
        if not told or told[0]["event"] != "attempt":
            yield from _headless(path, told)
            continue
        if any(event["event"] == "ended" for event in told) or _alive(path, told[0]):
            continue
        yield Finding(
            f"{path}: the journal of a killed training has no end",
            f"closed as {KILLED} at its last event",
            partial(close, path, float(told[-1]["time"])),
        )


def _headless(path: Path, told: list[Any]) -> Iterator[Finding]:
    """A journal without its first line tells nothing; one with other events is left to a person."""
    if not told:
        yield removal(path, "a journal without a single whole line")


def _alive(path: Path, header: journal.Event) -> bool:
    """Say whether the training lives; of another machine's, what it last wrote is the sign of life."""
    return is_alive(Owner(**header["owner"]), path.stat().st_mtime)


def close(path: Path, at: float) -> None:
    """Append the end, dated as the last event: the record of what happened does not change."""
    line = json.dumps({"event": "ended", "time": at, "status": KILLED}).encode() + b"\n"
    with path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) is not None and file.read(1) != b"\n":
            line = b"\n" + line  # the torn line becomes one that readers drop
        file.seek(0, os.SEEK_END)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
