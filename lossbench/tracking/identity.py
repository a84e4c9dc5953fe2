"""What makes two recordings the same: hashes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossbench.params import Params

RESULTS = ("epochs", "diverged")
"""Keys of arm.json that say what came out."""
DATA_FILES = ("dataset.json", "provenance.json", "manifest.parquet")


def digest(*parts: Any) -> str:
    """Hash JSON-able values and bytes: 32 hex digits, the same on every machine."""
    total = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()[:32]


def data_digest(folder: Path) -> str:
    """Hash a dataset through its manifest, which holds the SHA-256 of every sample."""
    return digest(*((folder / name).read_bytes() for name in DATA_FILES if (folder / name).exists()))


def study_name(params: Params, root: Path) -> str:
    """Name the study: its folder's name, or nothing for the root study."""
    return "" if params.root in (".", "./", "") else root.resolve().name


def settings_digest(described: Mapping[str, Any]) -> str:
    """Hash what an arm was trained with: ``arm.json`` without its results."""
    return digest({key: value for key, value in described.items() if key not in RESULTS})
