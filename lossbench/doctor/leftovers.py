"""Halves of files: of checkpoints, finished replicates, datasets and downloads.

What is written by us appears under its name whole or not at all; until then it has another name, which a
killed writer leaves behind.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lossbench.doctor.finding import Finding, removal
from lossbench.identity import abandoned
from lossbench.store import Store
from lossbench.written import DOWNLOADED, PRIVATE, UNFINISHED, foreign

DIGEST = hashlib.sha256().digest_size
"""Bytes at the head of a checkpoint: the SHA-256 of the rest (lossbench.training.checkpoint)."""
ABANDONED = 30 * 86400.0
"""Seconds without use after which a checkpoint is an orphan: code or params moved on."""
HALF = re.compile(r"\.(part|tmp)$")
UNSEEN = 600.0
"""Seconds after which a half whose name does not say who writes it counts as left behind: a stage on another
machine, which shares this folder, may be writing it."""
POOCH = re.compile(r"^tmp[a-z0-9_]{8}$")
"""Names of unfinished downloads (tempfile's, which pooch uses)."""


def examine_leftovers(root: Path, home: Path) -> list[Finding]:
    """Look at all of them; call it only where no stage is at work.

    Args:
        root: the study's folder.
        home: its private folder, ``.lossbench``.

    """
    return [
        *_halves(root, home),
        *_checkpoints(home),
        *_store(home),
        *_downloads(home / "downloads"),
    ]


def _halves(root: Path, home: Path) -> Iterator[Finding]:
    for folder in ("store/checkpoints", "timings"):
        for path in _kept(home, folder):
            if HALF.search(path.name) and abandoned(path, UNSEEN):
                yield removal(path, "half a file of a process that is gone")
    for path in (
        *_entries(root / "data"),
        *(path for kind in ("csv", "html") for path in (root / "reports").glob(f".retraining.{kind}*.part")),
    ):
        half = path.name.startswith(".") and path.name.endswith(".part")
        if half and path.exists() and _ours(path) and abandoned(path, UNSEEN):
            yield removal(path, "half written by a process that is gone")


def _ours(path: Path) -> bool:
    """Say whether it was us that wrote it: others name their halves so, too."""
    if path.parent.name == "data":
        return path.is_dir() and foreign(path, UNFINISHED, known=True) is None
    return path.is_file()


def _checkpoints(home: Path) -> Iterator[Finding]:
    for path in _kept(home, "store/checkpoints"):
        if path.suffix != ".pt":
            continue
        written = path.read_bytes()
        if hashlib.sha256(written[DIGEST:]).digest() != written[:DIGEST]:
            yield removal(path, "a torn checkpoint")
        elif time.time() - path.stat().st_mtime > ABANDONED:
            yield removal(path, "a checkpoint that nothing went on from for 30 days")


def _store(home: Path) -> Iterator[Finding]:
    """Entries that are not what was written, and half files of dead writers."""
    if not (home / "store").is_dir():
        return
    for path in sorted((home / "store").rglob(".*.part")):
        if abandoned(path, UNSEEN):
            yield removal(path, "half a file of a process that is gone")
    store = Store(str(home / "store"))
    for kind, key, sentence in store.damaged():
        what = f"{home / 'store'}: {sentence}"
        yield Finding(what, "dropped, to be computed anew", partial(store.drop, kind, key))


def _downloads(folder: Path) -> Iterator[Finding]:
    for path in (one for name in DOWNLOADED for one in sorted((folder / name).rglob("*"))):
        half = POOCH.match(path.name) or path.name.startswith(".part-") or path.name.endswith(".part")
        inner = any(parent.name.startswith(".part-") for parent in path.parents)
        if half and not inner and abandoned(path, UNSEEN):
            yield removal(path, "half a download")


def _kept(home: Path, folder: str) -> list[Path]:
    """List what is in a folder of ours under a name that we give: others' files may lie there, too."""
    return [path for path in _entries(home / folder) if PRIVATE.inside.fullmatch(f"{folder}/{path.name}")]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
