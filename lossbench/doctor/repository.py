"""DVC's locks: who holds them, and what a killed DVC left in them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lossbench.doctor.finding import Finding, removal, remove
from lossbench.doctor.living import gone
from lossbench.lock import LockedError, lock
from lossbench.system import write_atomically

LOCK, RWLOCK, GUARD = "lock", "rwlock", "rwlock.lock"
PROCESS = {"pid": int, "cmd": str}


def find_repository(root: Path) -> Path | None:
    """Find the folder with ``.dvc`` that a study belongs to."""
    return next((one for one in (root.resolve(), *root.resolve().parents) if (one / ".dvc").is_dir()), None)


@contextmanager
def guarded(repository: Path | None) -> Iterator[bool]:
    """Hold DVC's locks while the block runs, so that no dvc command begins under it.

    Yields whether they could be had: the kernel frees those of the dead, so a held one has a living holder.
    """
    folder = repository / ".dvc" / "tmp" if repository is not None else None
    with ExitStack() as stack:
        try:
            for name in (LOCK, GUARD):
                if folder is not None and folder.is_dir() and not (folder / name).is_dir():
                    stack.enter_context(lock(folder / name))
            had = True
        except LockedError:
            had = False
        yield had


def examine_locks(repository: Path) -> list[Finding]:
    """Look at the locks that DVC keeps in files; call it only where no DVC is at work."""
    folder = repository / ".dvc" / "tmp"
    found = [
        removal(folder / name, "a folder where DVC keeps a lock file")
        for name in (LOCK, GUARD)
        if (folder / name).is_dir()
    ]
    path = folder / RWLOCK
    if path.is_dir():
        return [*found, removal(path, "a folder where DVC keeps a lock file")]
    if not path.exists():
        return found
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return [*found, removal(path, "torn by a crash; every dvc command stops at it")]
    if not _well_formed(content):
        return [*found, removal(path, "not what DVC writes; every dvc command stops at it")]
    left = _living(content, path.stat().st_mtime)
    if left != content:
        what = f"{path}: locked by processes that are gone"
        found.append(Finding(what, "their entries were taken out", lambda: _write(path, left)))
    return found


def _well_formed(content: Any) -> bool:
    """Say whether DVC would take it."""
    if not isinstance(content, dict) or not set(content) <= {"read", "write"}:
        return False
    readers, writers = content.get("read", {}), content.get("write", {})
    if not isinstance(readers, dict) or not isinstance(writers, dict):
        return False
    lists = list(readers.values())
    if not all(isinstance(some, list) for some in lists):
        return False
    return all(_is_process(one) for one in [*writers.values(), *(one for some in lists for one in some)])


def _is_process(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and set(one) == set(PROCESS)
        and all(type(one[key]) is kind for key, kind in PROCESS.items())
    )


def _living(content: Mapping[str, Any], since: float) -> dict[str, Any]:
    """Keep the entries of living processes."""
    kept: dict[str, Any] = {}
    if "write" in content:
        kept["write"] = {path: one for path, one in content["write"].items() if not gone(one["pid"], since)}
    if "read" in content:
        readers = {
            path: [one for one in some if not gone(one["pid"], since)]
            for path, some in content["read"].items()
        }
        kept["read"] = {path: some for path, some in readers.items() if some}
    return kept


def _write(path: Path, content: Mapping[str, Any]) -> None:
    if not any(content.values()):
        remove(path)
        return
    write_atomically(path, json.dumps(content))
