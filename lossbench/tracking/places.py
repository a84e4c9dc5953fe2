"""Where tracking keeps its files: never inside an out."""

from pathlib import Path

from lossbench.written import home

__all__ = ["home", "journals", "timings"]


def journals(home: Path) -> Path:
    """Find the folder that holds ``<experiment>/<arm>/<attempt>.jsonl``."""
    return home / "journal"


def timings(home: Path, arm: str) -> Path:
    """Find the file with an arm's seconds per replicate: ``{seed: seconds}``."""
    return home / "timings" / f"{arm}.json"
