"""dvc.lock cut short by a crash: its whole entries are kept, the others come from git's last commit.

An entry that is wrong or old does no harm: DVC compares it with the files and runs the stage anew. An entry
that is lost costs a run. So everything that can be read is kept, newest first.
"""

import hashlib
import io
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lossbench.doctor.finding import Finding

NAME = "dvc.lock"
HEADING = re.compile(r"(?m)^  (?=[^\s#])")
HASHES = {"md5", "etag", "checksum", "files"}
Stages = dict[str, Any]


def examine_lockfile(root: Path, keep: Path) -> list[Finding]:
    """Look at the study's dvc.lock.

    Args:
        root: the study's folder.
        keep: where a copy of a broken file goes.

    """
    path = root / NAME
    if not path.is_file():
        return []
    raw = path.read_bytes()
    try:
        content = _load(raw.decode("utf-8"))
    except (UnicodeDecodeError, YAMLError, ValueError):
        content = None
    whole = isinstance(content, dict) and _valid_file(content)
    if whole and raw.endswith(b"\n") and not _torn(content or {}):
        return []
    good = _salvage(raw.decode("utf-8", errors="replace"))
    restored = {name: one for name, one in _committed(root).items() if name not in good}
    what = f"{path}: cut short or no valid lock file"
    cure = (
        f"{len(good)} whole entries kept, {len(restored)} restored from git's last commit; "
        f"the broken file is kept in {keep}"
    )
    return [Finding(what, cure, lambda: _write(path, raw, {**good, **restored}, keep))]


def _load(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _torn(content: Mapping[str, Any]) -> bool:
    """Say whether the last entry ends before its outs do."""
    stages = content.get("stages") or {}
    return bool(stages) and not _complete(list(stages.values())[-1])


def _complete(entry: Mapping[str, Any]) -> bool:
    """Say whether an entry reaches its end: every stage of ours has outs, and every out a hash."""
    outs = entry.get("outs") or []
    return bool(outs) and all(HASHES & set(out) for out in outs)


def _salvage(text: str) -> Stages:
    """Keep what parses, entry by entry; the last one of the file only if it reaches its end."""
    end = text.rfind("\n") + 1
    rest = text[end:]
    inside = bool(rest.strip()) and len(rest) - len(rest.lstrip()) > 2  # half a line of the last entry
    _, mark, body = text[:end].partition("stages:\n")
    pieces = HEADING.split(body)[1:] if mark else []
    found: Stages = {}
    for number, piece in enumerate(pieces, start=1):
        entry = _entry("  " + piece)
        if entry is None:
            continue
        if number < len(pieces) or (not inside and _complete(next(iter(entry.values())))):
            found |= entry
    return found


def _entry(text: str) -> Stages | None:
    try:
        content = _load(text)
    except (YAMLError, ValueError):
        return None
    return content if isinstance(content, dict) and len(content) == 1 and _valid_stages(content) else None


def _committed(root: Path) -> Stages:
    """Entries of dvc.lock as committed; none where git knows none."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:./{NAME}"], cwd=root, capture_output=True, text=True, check=False
    )
    if shown.returncode:
        return {}
    try:
        content = _load(shown.stdout)
    except (YAMLError, ValueError):
        return {}
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        return {}
    return {name: one for name, one in stages.items() if _valid_stages({name: one})}


def _valid_file(content: Any) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(content)
    except Invalid:
        return False
    return True


def _valid_stages(content: Any) -> bool:
    from voluptuous import Invalid

    try:
        _stages_schema()(content)
    except Invalid:
        return False
    return True


@cache
def _stages_schema() -> Any:
    from dvc.schema import LOCKFILE_STAGES_SCHEMA
    from voluptuous import Schema

    return Schema(LOCKFILE_STAGES_SCHEMA)


def _write(path: Path, raw: bytes, stages: Stages, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{NAME}.{hashlib.sha256(raw).hexdigest()[:12]}").write_bytes(raw)
    if not stages:
        path.unlink()
        return
    yaml = YAML()
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump({"schema": "2.0", "stages": stages}, text)
    part = path.with_name(f".{NAME}.part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.replace(path)
