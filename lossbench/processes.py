"""Commands that run side by side and end together."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from lossbench.errors import GateError
from lossbench.lifetime import die_with_parent


class Commands:
    """Commands that run side by side and end together, each with its group: dvc leaves its stages running."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def call(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        stdin: IO[str] | None = None,
    ) -> int:
        """Run a command, ended with us; its exit code. After :meth:`end` none is started any more."""
        with self._lock:
            if self._over:
                return -signal.SIGTERM
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=stdin,
                process_group=0,
                # Ruff warns of it beside threads: the child could wait for ever for a lock that another of
                # them held at the fork. This one takes none: only system calls, by a loaded library.
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
            self._running.add(process)
        try:
            return process.wait()
        except BaseException:
            self.end()
            raise
        finally:
            self._running.discard(process)

    def end(self) -> None:
        """End what runs, by SIGTERM, and what still runs ten seconds later by SIGKILL."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in running:
            try:
                process.wait(timeout=max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, number)


def step(*command: str, stdin: IO[str] | None = None, commands: Commands | None = None) -> None:
    """Run one step of a whole, ended with us.

    Args:
        command: with its arguments.
        stdin: of the command.
        commands: among which it runs.

    Raises:
        GateError: if it fails; its own output says why.

    """
    if (commands or Commands()).call(command, stdin=stdin):
        shown = " ".join(command).removeprefix(f"{sys.executable} ").removeprefix("-m ")
        raise GateError(f"`{shown}` failed; its output stands above")
