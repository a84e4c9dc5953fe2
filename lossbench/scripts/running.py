"""Running a script: in a process group of its own, which ends with whoever started it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil

from lossbench.errors import GateError
from lossbench.identity import Owner
from lossbench.lifetime import die_with_parent
from lossbench.telling import LESS_MEMORY

POLL = 0.2
"""Seconds between two looks at a script."""
SAMPLED = 3.0
"""Seconds after which, and from then on between which, its memory is told."""
GRACE = 5.0
"""Seconds that a script has to end when it is asked to, before it is killed."""
LINES, CHARACTERS = 6, 800
"""Of what a script said last that are shown."""
PYTHON = ("python", "python3")
"""As the first argument they mean the Python that runs Lossbench."""
MARK = "LOSSBENCH_SCRIPT"
"""In the environment of a script and of all that it starts, in whatever session: whose run they belong to."""


@dataclass(frozen=True)
class Ran:
    """A run that ended well: its seconds, and the most bytes of memory that its processes held."""

    seconds: float
    peak: int


def program(name: str) -> str:
    """Resolve the first argument of a command."""
    return sys.executable if name in PYTHON else name


def exists(name: str, study: Path) -> bool:
    """Whether the first argument of a command can be run."""
    found = program(name)
    return shutil.which(found if os.sep not in found else str(study / found)) is not None


def run_script(
    arguments: Sequence[str],
    study: Path,
    logs: Path,
    threads: int,
    timeout: float | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Ran:
    """Run a script to its end.

    Args:
        arguments: placeholders filled in; never given to a shell.
        study: its working directory.
        logs: folder for ``stdout.txt`` and ``stderr.txt``.
        threads: that libraries may use.
        timeout: seconds it may take; None: any.
        tell: hears the bytes of memory that it has held at most, now and then.

    Raises:
        GateError: a clause: it cannot be started, took too long, or ended with another exit code than 0.

    """
    began, mark = time.monotonic(), f"{uuid4()} {Owner.me()}"
    end_left_behind()
    with (logs / "stdout.txt").open("wb") as out, (logs / "stderr.txt").open("wb") as err:
        try:
            process = subprocess.Popen(
                [program(arguments[0]), *arguments[1:]],
                cwd=study,
                env={**os.environ, **_environment(threads), MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
                # No other thread holds a lock at the fork: it makes system calls alone, by a loaded library.
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise GateError(f"'{arguments[0]}' cannot be started: {said}") from None
        try:
            code, peak = _wait(process, timeout, began, tell)
        finally:
            end_group(process)
            _end_marked(lambda found: found == mark)
    if code is None:
        raise GateError(f"took longer than its 'timeout' of {timeout:g} s and was ended{_last_words(logs)}")
    if code:
        raise GateError(f"{_how(code)}{_last_words(logs)}")
    return Ran(time.monotonic() - began, peak)


def _environment(threads: int) -> Mapping[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def _wait(
    process: "subprocess.Popen[bytes]", timeout: float | None, began: float, tell: Callable[[int], None]
) -> tuple[int | None, int]:
    """Wait for an exit code (None: it took too long), and measure memory meanwhile."""
    peak, sampled = 0, began
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL), peak
        now = time.monotonic()
        if timeout is not None and now - began > timeout:
            return None, peak
        if now - sampled >= SAMPLED:
            sampled, peak = now, max(peak, held(process.pid))
            tell(peak)


def held(pid: int) -> int:
    """Bytes of memory that a process and its children hold."""
    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return 0
    total = 0
    for one in family:
        with suppress(psutil.Error):
            total += one.memory_info().rss
    return total


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a script and its process group, at once where it has ended itself."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def end_left_behind() -> None:
    """End what scripts left running whose worker was killed, and so could not end it."""
    _end_marked(_is_left_behind)


def _is_left_behind(mark: str) -> bool:
    try:
        owner = Owner.read(mark.partition(" ")[2])
    except (ValueError, TypeError):  # somebody else's
        return False
    # Processes of a container are seen from outside, where their numbers mean nothing.
    return owner.here() and owner.dead()


def _end_marked(wanted: Callable[[str], bool]) -> None:
    """Kill the processes whose mark is wanted, until there are none: they may start others meanwhile."""
    deadline = time.monotonic() + GRACE
    while found := [one for one in psutil.process_iter() if _marked(one, wanted)]:
        for one in found:
            with suppress(psutil.Error):
                one.kill()
        if time.monotonic() > deadline:  # one that the kernel holds ends when that lets go of it
            return
        time.sleep(0.01)


def _marked(process: psutil.Process, wanted: Callable[[str], bool]) -> bool:
    try:
        mark = process.environ().get(MARK)
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False
    return mark is not None and process.pid != os.getpid() and wanted(mark)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left in it
        os.killpg(group, number)


def _how(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    hint = f" (the machine may be out of memory: {LESS_MEMORY})" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({signal.Signals(-code).name}){hint}"


def _last_words(logs: Path) -> str:
    """Quote what a script said last, on stderr or else on stdout."""
    for name in ("stderr.txt", "stdout.txt"):
        with (logs / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64 * 2**10))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            quoted = "\n".join(f"    {line}" for line in lines[-LINES:])
            return f"; its last lines:\n{quoted[-CHARACTERS:]}"
    return "; it said nothing"
