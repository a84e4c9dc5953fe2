"""Calls of functions side by side, in processes that have imported torch, in the folder where we are."""

import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lossbench.errors import GateError, UserError
from lossbench.execution.local import warm_up, worker_count
from lossbench.lifetime import die_with_parent, without_main
from lossbench.params import Params

PATIENCE = 10.0
"""Seconds for a process that is asked to end."""


class EndedError(GateError):
    """A process ended, or was ended, before it had done what it was to do."""


def parts_of(params: Params, names: Collection[str]) -> list[tuple[str, ...]]:
    """Divide names among as many processes as run side by side."""
    listed, several = tuple(names), min(worker_count(params.compute), len(names))
    return [listed[len(listed) * at // several : len(listed) * (at + 1) // several] for at in range(several)]


def in_worker(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a module where torch is imported already, in the folder where we are.

    Raises:
        UserError: what it says.
        GateError: what it says, or that its process ended.

    """
    in_workers(function, [arguments])


def in_workers(function: Callable[..., None], calls: Sequence[Sequence[Any]]) -> None:
    """Make several calls of a function side by side; see :func:`workers`."""
    with workers(function, calls):
        pass


@contextmanager
def workers(function: Callable[..., None], calls: Sequence[Sequence[Any]]) -> Iterator[None]:
    """Make calls of a function side by side, and with what is done meanwhile.

    Raises:
        UserError: what the first of them says that fails.
        GateError: what it says, or that its process ended.

    """
    warm_up()
    context, began = get_context("forkserver"), []
    try:
        for arguments in calls:
            here, there = context.Pipe(duplex=False)
            told = (there, function, arguments, str(Path.cwd()))
            process = context.Process(target=_called, args=told, daemon=True)
            with without_main():
                process.start()
            there.close()
            began.append((process, here))
        yield
        for _, here in began:
            try:
                error = here.recv()
            except EOFError:
                raise EndedError(
                    f"the process that was to{function.__name__.replace('_', ' ')} ended without an answer"
                ) from None
            if error is not None:
                raise error
    except BaseException:
        for process, _ in began:
            process.terminate()
        for process, _ in began:
            process.join(timeout=PATIENCE)
            process.kill()  # it was asked before it could heed that
        raise
    finally:
        for process, here in began:
            process.join()
            here.close()


def _called(pipe: Connection, function: Callable[..., None], arguments: Sequence[Any], folder: str) -> None:
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the workers' server ignores
    os.chdir(folder)
    answer: Exception | None = None
    try:
        function(*arguments)
    except (UserError, GateError) as error:
        answer = error
    with suppress(BrokenPipeError):  # whoever asked was ended meanwhile
        pipe.send(answer)
