"""What this process may use of the machine, its container's limits respected; memory; atomic writes."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from lossbench.identity import part_name

CGROUPS = Path("/sys/fs/cgroup")
KiB = 2**10
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h


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


def write_atomically(file: Path, content: bytes | str, durable: bool = False) -> None:
    """Write a file that is there whole or not at all, whoever else writes it at the same time.

    Args:
        file: whose folder is made where there is none.
        content: a text is written as UTF-8, its line ends as they are.
        durable: its bytes are on the disk before it has its place, for what nobody can compute again.

    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{part_name(file.name)}")
    try:
        with part.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def keep_memory(lean: bool = False) -> None:
    """Tell the C library to reuse freed memory and not to hand it back to the kernel after every step.

    Otherwise the pages of large activations are mapped and zeroed anew in each step: a third of the time of
    a small CNN. Only glibc has the switch.

    Args:
        lean: give tensors of 32 MiB and more back at once: two thirds of the memory where they are many, at
            more time for each step.

    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        if lean:
            library.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        else:
            library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def reset_peak() -> None:
    """Let :func:`peak_memory` begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # a kernel or container that does not allow it: the peak is then that of the process
        return


def peak_memory() -> int:
    """Most bytes of memory that this process has held at a time."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KiB for line in lines if line.startswith("VmHWM:"))


def resident(process: int | None) -> int:
    """Bytes of memory that a process holds; 0 where it has ended."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


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
