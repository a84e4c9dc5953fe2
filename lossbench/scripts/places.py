"""Noticing that two scripts write to one place: what runs side by side must not read what another wrote.

Every run has a folder of its own. A script that writes to a fixed place as well (``best.pt`` beside itself)
overwrites what another run wrote there. Files of the study's folder that changed while a run went on are
noted, with the run; a second run that changes the same file is told.
"""

import json
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from lossbench.system import write_atomically

OURS = ("data", "models", "reports", "mlartifacts", "mlruns", "dvc.lock", "mlflow.db", "mlflow.db-journal",
    "mlflow.db-shm", "mlflow.db-wal")  # fmt: skip
"""What the chain and MLflow write in a study's folder."""
EDITED = {
    ".cfg", ".css", ".html", ".ini", ".ipynb", ".md", ".py", ".pyc", ".rst", ".sh", ".toml",
    ".txt", ".yaml", ".yml",
}  # fmt: skip
"""Suffixes of what people, editors and we ourselves write while scripts run."""
MOST = 20_000
"""Files that are looked at; a folder with more of them is not watched."""

Stamps = Mapping[str, int]
"""Path, seen from the study's folder → time of its last change in nanoseconds."""


def stamps(study: Path) -> Stamps:
    """Note when the files of a study's folder were changed last."""
    found: dict[str, int] = {}
    for path, changed in _files(study, ""):
        found[path] = changed
        if len(found) > MOST:
            return {}
    return found


def _files(folder: Path, inside: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            ours = not inside and entry.name in OURS
            if ours or entry.name.startswith(".") or entry.is_symlink():
                continue
            if entry.is_dir():
                environment = Path(entry.path, "pyvenv.cfg").exists()
                if not environment and entry.name != "__pycache__":
                    yield from _files(Path(entry.path), f"{inside}{entry.name}/")
            elif Path(entry.name).suffix not in EDITED:
                try:
                    yield inside + entry.name, entry.stat().st_mtime_ns
                except FileNotFoundError:  # gone since it was listed
                    continue


def written_twice(
    study: Path, before: Stamps, ledger: Path, run: str, who: str, allowed: tuple[str, ...]
) -> tuple[str, str] | None:
    """Find a file that this run and another have written.

    Args:
        study: whose folder is looked at.
        before: its files when the run began; see :func:`stamps`.
        ledger: folder in which runs note what they wrote.
        run: key of this run; the same run may write a place again.
        who: what it is, for messages.
        allowed: patterns of places that may be written to.

    Returns:
        The file and the other run; None where there is none.

    """
    after = stamps(study)
    changed = {path: time for path, time in after.items() if before.get(path) != time} if before else {}
    kept = {path: time for path, time in changed.items() if not _allowed(path, allowed)}
    if not kept:
        return None
    ledger.mkdir(parents=True, exist_ok=True)
    found = None
    with FileLock(ledger / "writes.lock"):
        for path, time in sorted(kept.items()):
            note = ledger / f"{sha256(os.fsencode(path)).hexdigest()}.json"
            other = _read(note)
            if other is not None and other["run"] != run and other["time"] != time:
                found = found or (path, str(other["who"]))
            write_atomically(note, json.dumps({"run": run, "who": who, "time": time}))
    return found


def _allowed(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, one) or path.startswith(f"{one.rstrip('/')}/") for one in patterns)


def _read(note: Path) -> dict[str, object] | None:
    try:
        content = json.loads(note.read_bytes())
    except (FileNotFoundError, ValueError):  # nobody wrote there; or what was noted is damaged
        return None
    return content if isinstance(content, dict) and {"run", "who", "time"} <= content.keys() else None
