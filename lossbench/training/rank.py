"""One process of a replicate: `python -m lossbench.training.rank FD`, started by `training.ranks`."""

import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import torch

from lossbench.errors import GateError, UserError
from lossbench.system import keep_memory, peak_memory
from lossbench.training.determinism import threads
from lossbench.training.distributed import among
from lossbench.training.faults import GONE
from lossbench.training.interruption import Interruption, noticing_sigterm
from lossbench.training.loop import train_replicate
from lossbench.training.ranks import Request
from lossbench.travelling import in_words


def main() -> int:
    """Train with the others, and tell how it went; returns the exit code."""
    keep_memory()
    pipe = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the leading process answers it, once it trains
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        content = pipe.recv_bytes()
    except EOFError:  # it has gone
        return 1

    def say(kind: str, content: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, content)))

    try:
        _train(pickle.loads(content), say)  # noqa: S301  # of who started us
    except SystemExit as asked:  # it was asked to end, and has written its state
        return asked.code if isinstance(asked.code, int) else 1
    except Exception as error:  # whatever it was, whoever started us tells it
        if not isinstance(error, UserError | GateError):
            error.add_note("in one of a replicate's processes:\n" + traceback.format_exc())
        lost = isinstance(error, RuntimeError) and GONE.search(str(error)) is not None
        say("lost" if lost else "failed", in_words(error))
        return 1
    return 0


def _train(request: Request, say: Any) -> None:
    if request.memory is not None:
        torch.cuda.set_per_process_memory_fraction(request.memory)
    setting = request.setting()
    leads, told = request.rank == 0, False

    def emit(news: tuple[int, dict[str, float]]) -> None:
        nonlocal told
        if not told:  # an epoch has seen all that a training takes
            say("memory", peak_memory())
            told = True
        if leads:
            say("epoch", news)

    with threads(setting.compute.threads), among(request.rank, setting.compute, request.meeting) as group:
        if not leads:
            train_replicate(setting, request.member, emit, None, Interruption(), group)
            return
        with noticing_sigterm() as interruption:
            made = train_replicate(setting, request.member, emit, request.checkpoint, interruption, group)
        say("done", made)


if __name__ == "__main__":
    code = main()
    # The interpreter's own end takes down threads that still talk to the others: that may abort the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
