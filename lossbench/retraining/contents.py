"""What a version's answers depend on, by its SHA-256."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from lossbench.errors import GateError, UserError

WEIGHTS = "weights.safetensors"
CODE = "lossbench-*.zip"
"""The package that MLflow's own server answers by."""
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, UserError
)  # fmt: skip
"""What files that are cut short, emptied, of another version or no model of ours make their readers raise."""
FILES = (WEIGHTS, "arm.json", "dataset.json", "serving.json")


def file_digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a replicate's folder: what its version's tags say."""
    names = [*FILES, *(one.name for one in folder.glob(CODE))]
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


def expect_contents(folder: Path, said: Mapping[str, str], what: str) -> None:
    """Hold a replicate's folder against the digests that were written down when it was promoted.

    Args:
        folder: with the files.
        said: name → SHA-256; empty for a version of a time when none were written.
        what: for the sentence.

    Raises:
        GateError: naming the first file that is missing or another.

    """
    for name, digest in said.items():
        file = folder / name
        if not file.is_file():
            raise GateError(f"{what}: {name} is missing")
        if file_digest(file) != digest:
            raise GateError(
                f"{what}: {name} is not what was promoted (another SHA-256 than its version's tags say); "
                "restore it from a backup, or roll back"
            )
