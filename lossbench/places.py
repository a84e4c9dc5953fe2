"""Where a path really leads, through links, mounts, ``..`` and whatever case a file system takes names in."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
ESCAPED = re.compile(r"\\([0-7]{3})")

Key = tuple[str | int, ...]
"""One of the names that a file or a folder is known by."""


@dataclass(frozen=True)
class Mount:
    """One mount of this process: where it stands, and which folder of which file system stands there."""

    point: str
    device: str
    root: str


def read_mounts(table: Path = MOUNTS) -> tuple[Mount, ...]:
    """List the mounts, the latest first; none where the kernel has no such table."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    fields = [line.split(" ") for line in lines]
    return tuple(Mount(_plain(one[4]), one[2], _plain(one[3])) for one in reversed(fields) if len(one) > 4)


def _plain(text: str) -> str:
    """Undo the kernel's escapes: a backslash and three octal digits for a blank."""
    return ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


@dataclass(frozen=True)
class Place:
    """A file or a folder, there or not, by all names it has.

    Two paths are one place where they resolve to one text, have one inode (a bind mount, another case on a
    file system that has none) or are one folder of a file system mounted twice.

    Attributes:
        path: resolved.
        own: names of the place itself.
        around: names of it and of every folder that it lies in.

    """

    path: Path
    own: frozenset[Key]
    around: frozenset[Key]

    def lies_in(self, other: "Place") -> bool:
        """Say whether it is the other place or something in it."""
        return bool(other.own & self.around)

    def meets(self, other: "Place") -> str | None:
        """Say in a word how it stands to another place: "is", "lies in", "contains", or None."""
        if self.own & other.own:
            return "is"
        if self.lies_in(other):
            return "lies in"
        return "contains" if other.lies_in(self) else None


class Atlas:
    """Looks places up; what it has seen once it does not ask the file system for again."""

    def __init__(self, mounts: Sequence[Mount] | None = None) -> None:
        self._mounts = read_mounts() if mounts is None else mounts
        self._seen: dict[Path, tuple[Key, ...]] = {}

    def place(self, path: Path) -> Place:
        """Look where a path leads; it need not exist."""
        real = Path(os.path.realpath(path))
        own = frozenset(self._names(real))
        above = (key for parent in real.parents for key in self._names(parent))
        return Place(real, own, own.union(above, self._beyond(real)))

    def _names(self, path: Path) -> tuple[Key, ...]:
        if path not in self._seen:
            self._seen[path] = tuple(self._found(path))
        return self._seen[path]

    def _found(self, path: Path) -> Iterator[Key]:
        yield ("path", str(path))
        with suppress(OSError, ValueError):  # not there, not to be seen, or no name that a file can have
            found = path.stat()
            yield ("inode", found.st_dev, found.st_ino)
        if mounted := self._mounted(path):
            yield ("mounted", *mounted)

    def _mounted(self, path: Path) -> tuple[str, str] | None:
        """Return (file system, path within it), by the innermost mount that a path lies in."""
        text = str(path)
        around = [one for one in self._mounts if f"{text}/".startswith(f"{one.point.rstrip('/')}/")]
        if not around:
            return None
        inner = max(around, key=lambda one: len(one.point))  # of those at one point the latest, listed first
        rest = text[len(inner.point.rstrip("/")) :].rstrip("/")
        return inner.device, inner.root.rstrip("/") + rest or "/"

    def _beyond(self, path: Path) -> Iterator[Key]:
        """Name the folders around a path on its own file system, above what is mounted of it too."""
        if mounted := self._mounted(path):
            device, inner = mounted
            yield from (("mounted", device, str(parent)) for parent in Path(inner).parents)
