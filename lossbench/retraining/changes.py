"""Whether a retraining has judged what is there now."""

import hashlib
from pathlib import Path

from lossbench.params import Params


def fingerprint(root: Path, params: Params) -> str:
    """Hash what a retraining's outcome follows from: all of ``dvc.lock``, and the gate's keys."""
    lock = root / "dvc.lock"
    digest = hashlib.sha256(lock.read_bytes() if lock.exists() else b"")
    digest.update(params.retraining.model_dump_json().encode())
    return digest.hexdigest()[:32]
