"""Whether anything has changed since the last finished retraining."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from lossbench.errors import GateError
from lossbench.params import Params


def pending(root: Path) -> list[str]:
    """Ask ``dvc status`` which stages would run: data, code, params or the lock of packages changed.

    Sources that are downloaded are pinned by checksum in the code: they change with it or not at all.

    Raises:
        GateError: if dvc cannot say.

    """
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise GateError(f"`dvc status` failed: {_last_line(ended.stderr)}; `make doctor` may help")
    return sorted(json.loads(ended.stdout or "{}"))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def fingerprint(root: Path, params: Params) -> str:
    """Hash what a retraining's outcome follows from: all of ``dvc.lock``, and the gate's keys."""
    lock = root / "dvc.lock"
    digest = hashlib.sha256(lock.read_bytes() if lock.exists() else b"")
    digest.update(params.retraining.model_dump_json().encode())
    return digest.hexdigest()[:32]
