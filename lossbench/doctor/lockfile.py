"""dvc.lock cut short by a crash: git's last one takes its place, or none.

An entry that is old or lost costs no training: DVC's run cache knows what its stages made, and the store what
was computed, so the next run writes it anew in seconds.
"""

import hashlib
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lossbench.doctor.finding import Finding
from lossbench.system import write_atomically

NAME = "dvc.lock"
HASHES = {"md5", "etag", "checksum", "files"}


def examine_lockfile(root: Path, keep: Path) -> list[Finding]:
    """Look at the study's dvc.lock.

    Args:
        root: the study's folder.
        keep: where a copy of a broken file goes.

    """
    path = root / NAME
    if not path.is_file() or _whole(path.read_bytes()):
        return []
    committed = _committed(root)
    taken = "removed" if committed is None else "git's last commit of it was put back"
    cure = f"{taken}; the next run notes the rest anew and trains nothing; the broken file is kept in {keep}"
    return [
        Finding(f"{path}: cut short or no valid lock file", cure, partial(_replace, path, committed, keep))
    ]


def _whole(raw: bytes) -> bool:
    """Say whether DVC would take it, and its last entry reaches its end: every out of ours has a hash."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        content: dict[str, Any] = YAML(typ="safe").load(raw.decode("utf-8"))
        COMPILED_LOCKFILE_SCHEMA(content)
    except (UnicodeDecodeError, YAMLError, ValueError, Invalid):
        return False
    last = list((content.get("stages") or {}).values())[-1:]
    outs = [out for entry in last for out in entry.get("outs") or [{}]]
    return raw.endswith(b"\n") and all(HASHES & set(out) for out in outs)


def _committed(root: Path) -> bytes | None:
    """Read dvc.lock as committed; None where git knows none that is whole."""
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{NAME}"], cwd=root, capture_output=True, check=False)
    except OSError:  # no git on this machine
        return None
    return shown.stdout if shown.returncode == 0 and _whole(shown.stdout) else None


def _replace(path: Path, committed: bytes | None, keep: Path) -> None:
    raw = path.read_bytes()
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{NAME}.{hashlib.sha256(raw).hexdigest()[:12]}").write_bytes(raw)
    if committed is None:
        path.unlink()
    else:
        write_atomically(path, committed)
