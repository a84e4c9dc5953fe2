"""Who wrote something, and what makes two recordings the same: hashes and process identities."""

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from lossbench.params import Params

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
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


@dataclass(frozen=True)
class Owner:
    """A process that cannot be confused with a later one of the same number."""

    host: str
    boot: str
    pid: int
    started: float

    @classmethod
    def me(cls) -> "Owner":
        """Describe the calling process."""
        boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
        return cls(socket.gethostname(), boot, os.getpid(), psutil.Process().create_time())

    @classmethod
    def read(cls, text: str) -> "Owner":
        """Read what ``str(owner)`` wrote."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def dead(self) -> bool:
        """Say whether the process is known to be gone; of another host's processes nothing is known."""
        here = Owner.me()
        if self.host != here.host:
            return False
        if self.boot != here.boot:
            return True
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True
