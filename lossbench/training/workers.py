"""Jobs side by side in forked workers: each sees the parent's memory, and none sees its neighbours."""

import ctypes
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from lossbench.errors import LESS_MEMORY, GateError, UserError
from lossbench.lifetime import die_with_parent
from lossbench.progress import bar
from lossbench.training.slots import Slots

T = TypeVar("T")
Emit = Callable[[Any], None]
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
GRACE = 3.0
"""Seconds that workers have to write their checkpoints when training is ended."""
PAUSE = 0.05
"""Seconds between two looks for a free slot."""


class WorkerError(GateError):
    """A worker ended without a result."""


def worker_count(threads: int = 1) -> int:
    """How many jobs of ``threads`` threads run side by side.

    ``LOSSBENCH_WORKERS``, or as many as the processors that this process may use have room for.

    Raises:
        UserError: if the variable is no positive number.

    """
    wanted = os.environ.get("LOSSBENCH_WORKERS")
    if wanted is not None:
        if not wanted.isdigit() or int(wanted) < 1:
            raise UserError(f"LOSSBENCH_WORKERS is {wanted!r}; allowed: a whole number from 1")
        return int(wanted)
    return max(1, _processors() // threads)


def _processors() -> int:
    """Count the processors of this process's affinity mask and of its container's quota."""
    count = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        most, period = quota.read_text().split()
        if most != "max":
            count = min(count, max(1, int(most) // int(period)))
    return count


def run_side_by_side(
    jobs: Sequence[Callable[[], T]], label: str, workers: int | None = None, threads: int = 1
) -> list[T]:
    """Run jobs in forked workers; results come back in the order of the jobs.

    Args:
        jobs: callables; their results are pickled.
        label: of the progress bar.
        workers: how many at a time; see :func:`worker_count`.
        threads: torch threads of each.

    Raises:
        Exception: whatever a job raised.
        WorkerError: if a worker died.

    """
    with bar(len(jobs), label) as progress:

        def advance(*_: object) -> None:
            progress.update()

        pool = Pool([_deaf(job) for job in jobs], workers or worker_count(threads), threads)
        return pool.run(on_result=advance)


def _deaf(job: Callable[[], T]) -> Callable[[Emit], T]:
    return lambda _: job()


class Pool(Generic[T]):
    """Runs ``job(emit)`` for each job, each in a process of its own; events arrive while they run.

    At most ``workers`` run at a time, and no more than there are :class:`Slots`.
    """

    def __init__(self, jobs: Sequence[Callable[[Emit], T]], workers: int, threads: int = 1) -> None:
        self.jobs = jobs
        self.workers = workers
        self.threads = threads
        self.slots = Slots()
        self.running: dict[connection.Connection, tuple[int, BaseProcess, int]] = {}
        self.results: dict[int, T] = {}

    def run(
        self,
        on_event: Callable[[int, Any], None] = lambda *_: None,
        on_result: Callable[[int, T], None] = lambda *_: None,
    ) -> list[T]:
        """Run all jobs; callbacks run here, in the parent."""
        # A forked child hangs in OpenMP if its parent's thread pool was ever used: keep to one thread.
        torch.set_num_threads(1)
        waiting = list(range(len(self.jobs)))
        try:
            while waiting or self.running:
                short = self._start_some(waiting)
                for pipe in connection.wait(list(self.running), PAUSE if short else None):
                    self._receive(pipe, on_event, on_result)  # type: ignore[arg-type]  # wait gives back our pipes
        finally:
            self._end_all()
            self.slots.close()
        return [self.results[index] for index in range(len(self.jobs))]

    def _start_some(self, waiting: list[int]) -> bool:
        """Start what there are workers and slots for; say whether it was a slot that was wanting."""
        while waiting and len(self.running) < self.workers:
            slot = self.slots.take()
            if slot is None:
                return True
            self._start(waiting.pop(0), slot)
        return False

    def _start(self, index: int, slot: int) -> None:
        context = get_context("fork")
        here, there = context.Pipe(duplex=False)
        sys.stdout.flush()
        sys.stderr.flush()
        process = context.Process(target=_work, args=(self.jobs[index], there, self.threads), daemon=True)
        process.start()
        there.close()
        self.running[here] = (index, process, slot)

    def _receive(
        self,
        pipe: connection.Connection,
        on_event: Callable[[int, Any], None],
        on_result: Callable[[int, T], None],
    ) -> None:
        index, process, slot = self.running[pipe]
        try:
            kind, content = pickle.loads(pipe.recv_bytes())  # noqa: S301  # our own worker's bytes
        except EOFError:
            process.join()
            code = process.exitcode or 0
            reason = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            hint = f"; the machine may be out of memory: {LESS_MEMORY}" if code == -signal.SIGKILL else ""
            raise WorkerError(f"worker {index + 1} of {len(self.jobs)} ended by {reason}{hint}") from None
        if kind == "event":
            on_event(index, content)
            return
        del self.running[pipe]
        pipe.close()
        process.join()
        self.slots.give(slot)
        if kind == "error":
            raise content
        self.results[index] = content
        on_result(index, content)

    def _end_all(self) -> None:
        for _, process, _ in self.running.values():
            process.terminate()
        deadline = time.monotonic() + GRACE
        for pipe, (_, process, slot) in self.running.items():
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
            self.slots.give(slot)
        self.running.clear()


def keep_memory() -> None:
    """Tell the C library to reuse freed memory and not to hand it back to the kernel after every step.

    Otherwise the pages of large activations are mapped and zeroed anew in each step: a third of the time of
    a small CNN. Only glibc has the switch.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _work(job: Callable[[Emit], Any], pipe: connection.Connection, threads: int) -> None:
    die_with_parent()
    keep_memory()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(threads)
    try:
        result = job(lambda event: _send(pipe, "event", event))
        _send(pipe, "result", result)
    except Exception as error:  # whatever it was, the parent raises it again
        error.add_note("in a worker:\n" + traceback.format_exc())
        _send(pipe, "error", _picklable(error))
    finally:
        pipe.close()


def _send(pipe: connection.Connection, kind: str, content: Any) -> None:
    # Plain pickle: multiprocessing's own would pass tensors as shared memory, gone when the worker ends.
    pipe.send_bytes(pickle.dumps((kind, content), protocol=5))


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    except Exception:  # an exception that cannot travel is told in words
        return WorkerError("".join(traceback.format_exception(error)))
    return error
