"""Pruning a store: what is old goes, then the oldest of the rest until it is small enough.

Nothing is lost but time: what is needed again is computed again. What is being written meanwhile is young,
and stays.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lossbench.backing import Place
from lossbench.errors import UserError
from lossbench.store import IN_ENTRY, MARKER

DAY = 86_400.0
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class Item:
    """What goes or stays as a whole: an entry, or a file beside them such as a checkpoint.

    Attributes:
        kind: of the entry, or the folder that the file lies in.
        path: from the store's root.
        first: the file that goes first: without it there is no entry.
        size: in bytes.
        written: when the youngest of its files was, in seconds since the epoch.

    """

    kind: str
    path: str
    first: str
    size: int
    written: float


def items(place: Place) -> list[Item]:
    """List what a store holds, the oldest first."""
    found: dict[str, Item] = {}
    for file in place.files():
        if file.path == MARKER:
            continue
        named = IN_ENTRY.fullmatch(file.path)
        path = file.path.rpartition("/")[0] if named else file.path
        first = f"{path}/entry.json" if named else path
        old = found.get(path, Item(file.path.partition("/")[0], path, first, 0, 0.0))
        size, written = old.size + file.size, max(old.written, file.written)
        found[path] = Item(old.kind, path, first, size, written)
    return sorted(found.values(), key=lambda one: (one.written, one.path))


def to_prune(place: Place, days: float | None, size: int | None, now: float | None = None) -> Iterator[Item]:
    """Choose what goes.

    Args:
        place: of the store.
        days: what was written longer ago goes; None: no age is too old.
        size: bytes that may stay; None: no size is too large.
        now: seconds since the epoch.

    Raises:
        UserError: if neither is given: everything would stay.

    """
    if days is None and size is None:
        raise UserError(
            "store prune: neither --older-than nor --keep is given; allowed: one of them, or both"
        )
    oldest = -float("inf") if days is None else (now if now is not None else time.time()) - days * DAY
    there = items(place)
    left = sum(one.size for one in there)
    for one in there:
        if one.written < oldest or (size is not None and left > size):
            left -= one.size
            yield one


def remove(place: Place, one: Item) -> None:
    """Remove an item, so that whoever looks finds it whole or not at all."""
    place.remove(one.first)
    if one.first != one.path:
        place.remove(one.path)


def read_size(text: str) -> int:
    """Read a size such as ``20GB``, ``1.5 TiB`` or ``500000``; returns bytes.

    Raises:
        UserError: if it is none.

    Example:
        >>> read_size("2kB"), read_size("1.5KiB"), read_size("7")
        (2000, 1536, 7)

    """
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UserError(f"store prune: --keep is '{text}'; allowed: a size such as 20GB, 1.5TiB or 500000")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** POWERS[unit.lower()])


def say_size(size: float) -> str:
    """Write a size as one would say it.

    Example:
        >>> say_size(999), say_size(1_234_567)
        ('999 B', '1.2 MB')

    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
