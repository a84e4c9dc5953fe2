"""One thing that a crash left behind."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """What is wrong and what helps.

    Attributes:
        what: a clause: where, and what is wrong with it.
        cure: a clause in the past tense: what :attr:`repair` does.
        repair: does it; harmless if done before.

    """

    what: str
    cure: str
    repair: Callable[[], None]


def repair_all(findings: Iterable[Finding], say: Callable[[str], None]) -> int:
    """Repair one after the other and say so, a sentence each; count those that could not be repaired."""
    failed = 0
    for one in findings:
        try:
            one.repair()
        except OSError as error:
            say(f"{one.what}; cannot be repaired: {error.strerror or error}")
            failed += 1
        else:
            say(f"repaired: {one.what}; {one.cure}")
    return failed


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def removal(path: Path, what: str) -> Finding:
    """Build a finding whose cure is to remove ``path``."""
    return Finding(f"{path}: {what}", "removed", lambda: remove(path))
