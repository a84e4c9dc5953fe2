"""What this process may use of the machine: processors and memory, its container's limits respected."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
KiB = 2**10


def processors() -> int:
    """Count the processors of this process's affinity mask and of its container's quota, at least 1."""
    count = len(os.sched_getaffinity(0))
    for group in _groups():
        quota = _words(group / "cpu.max")
        if len(quota) == 2 and quota[0].isdigit():
            count = min(count, int(quota[0]) // int(quota[1]))
    return max(1, count)


def available_memory() -> int:
    """Bytes that may be taken without swapping: of the machine (MemAvailable), and of the container's limit.

    A container's file cache counts as available, as it does for the machine: the kernel gives it up.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * KiB for line in lines if line.startswith("MemAvailable:"))
    for group in _groups():
        limit, used = _words(group / "memory.max"), _words(group / "memory.current")
        if limit and used and limit[0].isdigit():
            free = min(free, int(limit[0]) - int(used[0]) + _file_cache(group))
    return max(0, free)


def _groups() -> Iterator[Path]:
    """Control groups (version 2) of this process, the innermost first; the limits of all of them hold."""
    own = next((line[3:] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::")), "/")
    group = Path(os.path.normpath(CGROUPS / own.lstrip("/")))
    # Within a container the path may be one of its host's, which does not exist here: then the root is ours.
    while group.is_relative_to(CGROUPS):
        yield group
        group = group.parent


def _file_cache(group: Path) -> int:
    """Bytes of files that were read and are not in use."""
    pairs = (line.split() for line in _lines(group / "memory.stat"))
    return next((int(value) for name, value in pairs if name == "inactive_file"), 0)


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except OSError:  # no such group, or a machine without this control
        return []
