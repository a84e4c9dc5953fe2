"""What DVC says about the chain."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lossbench.errors import GateError


def changed_stages(study: Path, targets: Sequence[str] = ("dvc.yaml",)) -> set[str]:
    """Ask ``dvc status`` which stages would run: data, code, params or the lock of packages changed.

    Sources that are downloaded are pinned by checksum in the code: they change with it or not at all. What
    follows a changed stage is named only where something of its own changed too.

    Args:
        study: its folder.
        targets: stages; else all of the study's, and those of no other study beside it.

    Raises:
        GateError: if dvc cannot say.

    """
    command = [sys.executable, "-m", "dvc", "status", "--json", *targets]
    ended = subprocess.run(command, cwd=study, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise GateError(f"`dvc status` failed: {_last_line(ended.stderr)}; `make doctor` may help")
    return set(json.loads(ended.stdout or "{}"))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
