"""Where tracking keeps its files: never inside an out."""

import os
from pathlib import Path


def home(root: Path) -> Path:
    """Find the study's private folder: ``LOSSBENCH_HOME``, or ``.lossbench`` under the study's ``root``."""
    return root / os.environ.get("LOSSBENCH_HOME", ".lossbench")


def journals(home: Path) -> Path:
    """Find the folder that holds ``<experiment>/<arm>/<attempt>.jsonl``."""
    return home / "journal"


def timings(home: Path, arm: str) -> Path:
    """Find the file with an arm's seconds per replicate: ``{seed: seconds}``."""
    return home / "timings" / f"{arm}.json"
