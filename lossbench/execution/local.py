"""Workers on the machine at hand: they import torch once and take job after job.

They are forked from a server that has imported what they need (``multiprocessing``'s), so that the driver
itself never imports torch. How many run at a time follows from the processors and, once a group's first job
has shown how much it takes, from the memory; on GPUs there is one process for each, which tunes, trains,
validates and predicts, and a helper that scores.
"""

import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, get_context
from multiprocessing.process import BaseProcess
from typing import Any

from lossbench import gpus
from lossbench.backing import absolute
from lossbench.errors import GateError, UserError
from lossbench.execution.helper import Feed, Helper, HelperGoneError, help_out
from lossbench.execution.jobs import Event, Job, Train, Where
from lossbench.execution.server import DRIVER, WORK
from lossbench.lifetime import die_with_parent, without_main
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.recipe import Compute
from lossbench.scripts.running import end_left_behind
from lossbench.store import Store
from lossbench.system import available_memory, keep_memory, peak_memory, processors, reset_peak, resident
from lossbench.telling import LESS_MEMORY
from lossbench.travelling import in_words

GRACE = 10.0
"""Seconds that workers have to write their checkpoints when training is ended."""
AMPLE = 4 * 2**30
"""Bytes for each process from which on freed memory is kept for the next step, which is faster."""
RESERVE = 512 * 2**20
"""Bytes that stay free of workers."""
SERVER = "lossbench.execution.server"
"""What the workers' server imports first."""
CALLS = "lossbench.running"
"""What it imports last: functions of it are called in processes that it forks."""
ATTEMPTS = 3
"""At starting a worker."""
LOST = 255
"""What ``multiprocessing`` says of a process whose server is gone: nobody knows how it ended."""


def worker_count(compute: Compute) -> int:
    """How many jobs run side by side, memory permitting.

    ``LOSSBENCH_WORKERS``, or as many as this process's processors have room for; one a GPU, or one for as
    many as a replicate's processes take.

    Raises:
        UserError: if the variable is no positive number, or a replicate asks for more than there is.

    """
    _check_processes(compute)
    wanted = os.environ.get("LOSSBENCH_WORKERS")
    if wanted is not None:
        if not wanted.isdigit() or int(wanted) < 1:
            raise UserError(f"LOSSBENCH_WORKERS is {wanted!r}; allowed: a whole number from 1")
        return int(wanted)
    if compute.device == "cuda":
        return max(1, len(gpus.ours()) // compute.processes)
    return max(1, processors() // (compute.threads * compute.processes))


def _check_processes(compute: Compute) -> None:
    """Refuse more processes of one replicate than can run side by side."""
    if compute.processes == 1:
        return
    cuda = compute.device == "cuda"
    there, what = (len(gpus.ours()), "GPU") if cuda else (processors(), "processor")
    each = 1 if cuda else compute.threads
    if compute.processes * each > there:
        raise UserError(
            f"'compute.processes' is {compute.processes}, each with {each} {what}{'s' * (each > 1)}, but we "
            f"have {there} of this machine; allowed here: 1 to {max(1, there // each)}"
        )


def where(params: Params, outs: Outs, store: Store) -> Where:
    """Say to workers of this machine where the study lies."""
    share = sharing(params.compute, worker_count(params.compute))
    return Where(outs.study.resolve(), outs.home.resolve(), absolute(store.address), share)


def sharing(compute: Compute, workers: int) -> int:
    """Among how many processes that train a memory is shared: all of the machine's, or those of one GPU."""
    sharers = workers * compute.processes
    if compute.device != "cuda":
        return sharers
    return -(-sharers // max(1, len(gpus.ours())))


def little_memory(sharers: int) -> bool:
    """Whether processes that train are to give memory back at once: where there is little of it for each."""
    return available_memory() < AMPLE * sharers


def warm_up() -> None:
    """Let the workers' server start and import torch while the caller does something else."""
    context = get_context("forkserver")
    context.set_forkserver_preload([SERVER, WORK, CALLS])
    os.environ[DRIVER] = str(os.getpid())
    forkserver.ensure_running()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    place: int
    helper: Helper | None = None
    job: Job | None = None


@dataclass
class LocalExecutor:
    """Runs jobs in processes of this machine.

    Attributes:
        compute: device and threads of each worker.
        workers: how many at a time; see :func:`worker_count`.
        helping: whether each worker has a helper that scores; None: where they have GPUs.

    """

    compute: Compute
    workers: int
    helping: bool | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    _waiting: deque[Job] = field(default_factory=deque)
    _alive: list[_Worker] = field(default_factory=list)
    _helpers: list[Helper] = field(default_factory=list)
    _news: deque[Event] = field(default_factory=deque)
    _again: set[int] = field(default_factory=set)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs; the long ones that others wait for come first as given."""
        self._waiting.extend(jobs)

    def next(self) -> Event | None:
        """Begin what there is room for, and wait for news."""
        while not self._news:
            self._begin()
            busy = [worker for worker in self._alive if worker.job is not None]
            if not busy and not any(helper.jobs for helper in self._helpers):
                return None
            speakers: list[_Worker | Helper] = [*busy, *self._helpers]
            heard: dict[Any, _Worker | Helper] = {one.pipe: one for one in speakers}
            for pipe in connection.wait(list(heard)):
                one = heard[pipe]
                self._news.extend(self._hear(one) if isinstance(one, Helper) else self._receive(one))
        return self._news.popleft()

    def cancel(self) -> None:
        """End all workers; those that train have time to write their checkpoints."""
        self._waiting.clear()
        for worker in self._alive:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in self._alive:
            worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        for helper in self._helpers:
            helper.process.terminate()
            helper.close()
        self._alive.clear()
        self._helpers.clear()

    def _begin(self) -> None:
        full: set[str] = set()
        for _ in range(len(self._waiting)):
            idle = self._idle()
            if idle is None and len(self._alive) >= self.workers:
                return
            job = self._waiting[0]
            if job.group in full or not self._room(job):
                # Another group's job may fit meanwhile.
                full.add(job.group)
                self._waiting.rotate(-1)
                continue
            self._waiting.popleft()
            worker = idle or self._start()
            worker.job = job
            with suppress(OSError):  # it has just died: whoever reads from it is told
                worker.pipe.send(job)

    def _idle(self) -> _Worker | None:
        """Find a worker that has nothing to do; one that was killed meanwhile, or its helper, is let go."""
        for worker in [one for one in self._alive if one.job is None]:
            if worker.process.is_alive() and (worker.helper is None or not worker.helper.over):
                return worker
            self._bury(worker)
        return None

    def _room(self, job: Job) -> bool:
        """Whether there is memory for a job: the first of a group shows how much it takes."""
        running = [(worker.process.pid, worker.job.group) for worker in self._alive if worker.job is not None]
        peak = self.peaks.get(job.group)
        if not running:
            return True
        if peak is None:
            return all(group != job.group for _, group in running)
        growing = sum(max(0, self.peaks.get(group, 0) - resident(pid)) for pid, group in running)
        return peak + growing + RESERVE <= available_memory()

    def _start(self) -> _Worker:
        taken = {worker.place for worker in self._alive}
        place = next(number for number in range(self.workers) if number not in taken)
        helper, feed = self._start_helper()
        here, there = connection.Pipe()
        environment, share = self._environment(place), sharing(self.compute, self.workers)
        process = _forked(_serve, there, self.compute, environment, little_memory(self.workers), share, feed)
        for end in (there, feed):
            if end is not None:
                end.close()
        worker = _Worker(process, here, place, helper)
        self._alive.append(worker)
        return worker

    def _start_helper(self) -> tuple[Helper | None, connection.Connection | None]:
        """Start a helper, where there are to be any; returns it, and its worker's end of their pipe."""
        if not (self.compute.device == "cuda" if self.helping is None else self.helping):
            return None, None
        here, there = connection.Pipe(duplex=False)
        fed, feed = connection.Pipe(duplex=False)
        process = _forked(help_out, there, fed, self.compute.threads, little_memory(self.workers))
        there.close()
        fed.close()
        helper = Helper(process, here)
        self._helpers.append(helper)
        return helper, feed

    def _environment(self, place: int) -> Mapping[str, str]:
        if self.compute.device != "cuda":
            return {}
        names = gpus.ours()
        each = self.compute.processes
        ours = [names[number % len(names)] for number in range(place * each, (place + 1) * each) if names]
        return {gpus.VISIBLE: ",".join(ours)} if names else {}

    def _receive(self, worker: _Worker) -> list[Event]:
        job = worker.job
        assert job is not None  # noqa: S101  # only busy workers are waited for
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            return self._died(worker, job)
        if kind == "peak":
            self.peaks[job.group] = max(self.peaks.get(job.group, 0), content)
            return []
        if kind == "progress":
            return [Event(job, "progress", content)]
        worker.job = None
        if kind == "handed":
            assert worker.helper is not None  # noqa: S101  # who hands over has one
            return self._lost(job, LOST) if worker.helper.over else worker.helper.take(content, job)
        if kind == "ending":
            self._bury(worker)  # or it were given another job, which it would not do
            if isinstance(content, HelperGoneError) and self._once_more(job):
                return []
            kind = "failed"
        return [Event(job, kind, content)]

    def _hear(self, helper: Helper) -> list[Event]:
        try:
            return helper.receive()
        except EOFError:
            code = helper.close()
            self._helpers.remove(helper)
            # Its replicates are in the store: to score them again costs little, even if nothing runs beside.
            why = LOST if code == -signal.SIGKILL and self.workers == 1 else code
            return [event for job in helper.jobs.values() for event in self._lost(job, why)]

    def _died(self, worker: _Worker, job: Job) -> list[Event]:
        code = self._bury(worker)
        end_left_behind()
        return self._lost(job, code)

    def _lost(self, job: Job, code: int) -> list[Event]:
        """Have a job done once more whose process was killed; else say how that ended."""
        if code == LOST and self._once_more(job):  # the workers' server was killed, and they with it
            return []
        if code == -signal.SIGKILL and self.workers > 1 and self._once_more(job):
            # Most likely for memory: from its checkpoint, beside fewer.
            self.workers -= 1
            print(
                f"warning: the {job.label} was killed, most likely for memory; it goes on with "
                f"{self.workers} at a time",
                file=sys.stderr,
            )
            return []
        reason = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        hint = f"; the machine may be out of memory: {LESS_MEMORY}" if code == -signal.SIGKILL else ""
        return [Event(job, "failed", GateError(f"the {job.label} ended by {reason}{hint}"))]

    def _once_more(self, job: Job) -> bool:
        if id(job) in self._again:
            return False
        self._again.add(id(job))
        self._waiting.appendleft(job)
        return True

    def _bury(self, worker: _Worker) -> int:
        """Forget a worker that has ended, or has nothing to do and ends; returns its exit code."""
        worker.pipe.close()
        worker.process.join()
        self._alive.remove(worker)
        return worker.process.exitcode or 0


def _forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process of the workers' server, which is started anew where it has just been killed."""
    for attempt in range(ATTEMPTS):
        warm_up()
        process = get_context("forkserver").Process(target=target, args=arguments, daemon=True)
        try:
            with without_main():
                process.start()
        except (EOFError, OSError):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.2)
        else:
            break
    return process


def _serve(
    pipe: connection.Connection,
    compute: Compute,
    environment: Mapping[str, str],
    lean: bool = False,
    share: int = 1,
    feed: connection.Connection | None = None,
) -> None:
    """Take job after job until there is nobody to give any; have a helper score, where one is fed."""
    die_with_parent()
    keep_memory(lean)
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    import torch

    from lossbench.execution.work import work
    from lossbench.training.faults import lost

    torch.set_num_threads(compute.threads)
    gpus.keep_to_part(compute.device, share)
    hand = None if feed is None else Feed(feed)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        os.chdir(job.where.study)  # params.yaml names files as seen from there
        reset_peak()
        told = False

        def emit(news: Any, group: bool = isinstance(job, Train)) -> None:
            nonlocal told
            if news[0] == "memory":  # of a process that it has started
                pipe.send(("peak", news[1]))
                return
            if group and not told and news[0] == "epoch":  # an epoch has seen all of a job but its scores
                pipe.send(("peak", peak_memory()))
                told = True
            pipe.send(("progress", news))

        try:
            if hand is not None:
                hand.begin()
            work(job, emit, hand)
            pipe.send(("peak", peak_memory()))
            handed = None if hand is None else hand.end(job)
            pipe.send(("done", None) if handed is None else ("handed", handed))
        except Exception as error:  # whatever it was, the driver tells it
            if not isinstance(error, UserError | GateError):
                error.add_note(f"in the {job.label}:\n" + traceback.format_exc())
            # Whatever this process does with a lost GPU fails from now on: another one begins.
            ends = isinstance(error, HelperGoneError) or (compute.device == "cuda" and lost(error))
            pipe.send(("ending" if ends else "failed", in_words(error)))
            if ends:
                return
