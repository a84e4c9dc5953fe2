"""Where a record comes from, and what makes two of them the same: hashes, the commit, versions."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lossbench.params import Params

RESULTS = ("constant_loss", "kept_bytes", "epochs", "diverged", "budgets")
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


def study_shown(params: Params, root: Path) -> str:
    """Name the study in a tag, which cannot be empty."""
    return study_name(params, root) or "(root)"


def settings_digest(described: Mapping[str, Any]) -> str:
    """Hash what an arm was trained with: ``arm.json`` without its results."""
    return digest({key: value for key, value in described.items() if key not in RESULTS})


PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "mlflow", "dvc")


def versions() -> dict[str, str]:
    """List versions of Python and of the packages above that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def revision(root: Path) -> dict[str, str]:
    """Read commit and dirty flag (of tracked files); nothing where git does not answer."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": "unknown" if changed is None else str(bool(changed)).lower()}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
