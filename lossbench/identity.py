"""Which process wrote something, and whether it still lives: on this machine, in a pod, on another host.

A process's number alone says nothing on a folder that several machines share. An :class:`Owner` therefore
names its host, that host's boot, the space its number is valid in (each container has its own), and when it
began. Of a process of another machine only its signs of life are known: whoever gives none for long enough
counts as dead. Needs the standard library only.
"""

import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SPACE = Path("/proc/self/ns/pid")
SILENCE = 3600.0
"""Seconds without a sign of life after which a process of another machine counts as dead."""
BOOT_DIGITS = 8
"""Of a boot's id, which are compared."""
TICKS = os.sysconf("SC_CLK_TCK")
PART = re.compile(r"\.(?P<pid>\d+)-(?P<ticks>\d+)-(?P<boot>[0-9a-f]*)-(?P<space>\d*)-(?P<host>[^/]*)\.part$")


@dataclass(frozen=True)
class Owner:
    """A process that cannot be confused with another one of the same number.

    Attributes:
        host: name of the machine.
        boot: id of the machine's boot.
        pid: number of the process.
        started: seconds between boot and its start.
        space: id of the namespace that its number is valid in; empty if unknown.

    """

    host: str
    boot: str
    pid: int
    started: float
    space: str = ""

    @classmethod
    def me(cls) -> "Owner":
        """Describe the calling process."""
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()) or 0.0, _space())

    @classmethod
    def read(cls, text: str) -> "Owner":
        """Read what ``str(owner)`` wrote."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def here(self) -> bool:
        """Say whether its number means a process that can be seen from here."""
        same = self.boot[:BOOT_DIGITS] == _boot()[:BOOT_DIGITS] and self.space in ("", _space())
        return same and (self.space != "" or self.host == socket.gethostname())

    def dead(self) -> bool:
        """Say whether the process is known to be gone; what cannot be seen from here is not known."""
        if self.here():
            started = _started(self.pid)
            return started is None or abs(started - self.started) > 1.0
        # Its machine has been started anew since.
        return self.host == socket.gethostname() and self.boot[:BOOT_DIGITS] != _boot()[:BOOT_DIGITS]


def is_alive(owner: Owner, sign: float, silence: float = SILENCE) -> bool:
    """Say whether a process lives, as far as can be known.

    Args:
        owner: the process.
        sign: when it last gave a sign of life, in seconds since the epoch.
        silence: seconds after which one that cannot be seen from here counts as dead.

    """
    if owner.here():
        return not owner.dead()
    return not owner.dead() and time.time() - sign < silence


def part_name(name: str) -> str:
    """Name a file or folder that is being written: its later ``name``, a token, then who writes it.

    Each call gives another name: threads of one process do not take each other's part.

    Example:
        >>> part_name("weights").startswith("weights.")
        True

    """
    me = Owner.me()
    writer = f"{me.pid}-{round(me.started * TICKS)}-{me.boot[:BOOT_DIGITS]}-{me.space}-{me.host}"
    return f"{name}.{uuid4().hex[:12]}.{writer}.part"


def abandoned(part: Path, silence: float = SILENCE) -> bool:
    """Say whether nobody writes a ``.part`` (see :func:`part_name`) any more.

    A name that does not say who writes it, and one of another machine's process, count as abandoned when
    nothing in them has been written for ``silence`` seconds.
    """
    owner = _writer(part.name)
    if owner is not None and owner.here():
        return owner.dead()
    if owner is not None and owner.dead():
        return True
    return time.time() - max(_written(part), default=0.0) >= silence


def _writer(name: str) -> Owner | None:
    found = PART.search(name)
    if found is None:
        return None
    return Owner(found["host"], found["boot"], int(found["pid"]), int(found["ticks"]) / TICKS, found["space"])


def _written(path: Path) -> Iterator[float]:
    """When a file, or all in a folder, was written; nothing of what has gone meanwhile."""
    for one in (path, *path.rglob("*")):
        try:
            yield one.lstat().st_mtime
        except FileNotFoundError:
            continue


@cache
def _boot() -> str:
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


@cache
def _space() -> str:
    """Number of the process namespace; it cannot change while a process lives, nor for its children."""
    try:
        return "".join(filter(str.isdigit, str(SPACE.readlink())))
    except OSError:
        return ""


def _started(pid: int) -> float | None:
    """Seconds between boot and the start of a living process: a clock that is set does not change them.

    None where there is no such process, NaN where its start is hidden from us.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # another user's
    try:
        # After the name, which may hold anything: state, then 18 more numbers, then the start in ticks.
        after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except ProcessLookupError:  # it ended in between
        return None
    except OSError:
        return math.nan
    return None if after[0] == "Z" else int(after[19]) / TICKS
