"""The installed package, as a study in a repository of the user's own depends on it: ``lossbench.lock``.

In a checkout the stage ``check`` depends on our source and on requirements.lock. Elsewhere neither is there,
and the study's dvc.yaml names this small file in their place. It holds the package's version, a hash of its
files and the versions of what computes; git should track it.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lossbench.errors import UserError
from lossbench.params import Params
from lossbench.system import write_atomically
from lossbench.written import CHAIN

PACKAGE = Path(__file__).parent
LOCK = "lossbench.lock"
"""Beside the dvc.yaml that names it."""
COMPUTING = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pycocotools", "pandas", "pyarrow", "pillow",
    "great-expectations", "altair", "jinja2",
)  # fmt: skip
"""Distributions from which numbers and pages come."""
HEAD = """\
# The Lossbench that this study runs, and what it computes with: the stage `check` depends on it. Written by
# `lossbench run` (and `lossbench lock`), which take what is installed; git should track it.
"""
LINE = re.compile(r"([\w.-]+): (\S+)")


@cache
def files() -> Mapping[str, bytes]:
    """The package's files as they are, by their paths from the folder that the package lies in."""
    return {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@cache
def digest() -> str:
    """Hash of the package's files."""
    total = hashlib.sha256()
    for name, content in files().items():
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:16]


def is_checkout(folder: Path) -> bool:
    """Whether a folder holds Lossbench's own source."""
    return (folder / PACKAGE.name / "closure.py").is_file()


def present() -> dict[str, str]:
    """Say what is installed: the package, a hash of its files, what computes."""
    found = {"lossbench": _version("lossbench") or "unknown", "code": digest()}
    return found | {name: known for name in COMPUTING if (known := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def lock_of(params: Params, study: Path) -> Path | None:
    """Find the file that stands for the installed package; None where the source itself is depended on."""
    chain = study / CHAIN
    named = chain.is_file() and f"/{LOCK}" in chain.read_text(encoding="utf-8", errors="replace")
    return study / params.root / LOCK if named else None


def read(lock: Path) -> dict[str, str]:
    """Read what was written down; {} where nothing was.

    Raises:
        UserError: naming the first line that none of ours is.

    """
    if not lock.exists():
        return {}
    found = {}
    for number, line in enumerate(lock.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if line.startswith("#") or not line.strip():
            continue
        known = LINE.fullmatch(line)
        if known is None:
            raise UserError(
                f"{lock}, line {number}: '{line[:60]}' is no 'name: version'; `lossbench lock` writes it anew"
            )
        found[known[1]] = known[2]
    return found


def write(lock: Path) -> None:
    """Write down what is installed."""
    lines = "".join(f"{name}: {one}\n" for name, one in present().items())
    write_atomically(lock, HEAD + lines)


def refresh(params: Params, study: Path, say: Callable[[str], None] = print) -> None:
    """Write down what is installed where that has changed, so that DVC sees it; a line for each change."""
    lock = lock_of(params, study)
    if lock is None:
        return
    changes = _changes(_read_or_none(lock))
    for one in changes if lock.exists() else ():
        say(f"{LOCK}: {one}")
    if changes:
        write(lock)


def _read_or_none(lock: Path) -> dict[str, str]:
    """Read it where it can be: a merge conflict in it is solved by what is installed."""
    try:
        return read(lock)
    except UserError:
        return {}


def _changes(before: Mapping[str, str]) -> list[str]:
    now = present()
    names = list(dict.fromkeys([*now, *before]))
    return [
        f"{name} {before.get(name, '(none)')} → {now.get(name, '(none)')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def expect_locked(params: Params, study: Path) -> None:
    """Refuse to run stages with another package than the study's lock file names.

    Raises:
        UserError: naming the first difference.

    """
    lock = lock_of(params, study)
    if lock is not None and (changes := _changes(read(lock))):
        raise UserError(
            f"{lock}: another installation than the one it names: {changes[0]}; `lossbench run`, or "
            "`lossbench lock` and `dvc repro`, goes on with what is installed"
        )
