"""Helpers that score: a worker with a GPU predicts, hands over, and trains the next replicate meanwhile.

A helper is forked from the workers' server, as workers are, so before CUDA starts, and sees no GPU. It takes
scorings from its worker through a pipe of their own: where it falls behind, the worker waits. It tells the
driver of each job that it has finished, and ends with its worker.
"""

import os
import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from lossbench import gpus
from lossbench.errors import GateError, UserError
from lossbench.execution.jobs import Event, Job
from lossbench.lifetime import die_with_parent
from lossbench.system import keep_memory
from lossbench.travelling import in_words

if TYPE_CHECKING:  # it imports torch, and who only collects imports us
    from lossbench.execution.scoring import Scoring

SEES: Mapping[str, str] = {gpus.VISIBLE: ""}
"""Of a helper's environment."""


class HelperGoneError(GateError):
    """What a worker says whose helper has ended: it goes, too, and another takes the job."""


class Feed:
    """A worker's end of the pipe to its helper.

    Args:
        pipe: to the helper.

    """

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe
        self._job, self._count = 0, 0

    def __call__(self, scoring: "Scoring") -> None:
        """Hand a scoring over, once the helper has taken the one before.

        Raises:
            HelperGoneError: if the helper has ended.

        """
        self._send(scoring, scoring.job)
        self._count += 1

    def end(self, job: Job) -> int | None:
        """Say that all of a job was handed over: returns the number it goes by; None where nothing was.

        Raises:
            HelperGoneError: if the helper has ended.

        """
        if not self._count:
            return None
        self._send(None, job)
        return self._job

    def begin(self) -> None:
        """Begin with another job."""
        self._job, self._count = self._job + 1, 0

    def _send(self, content: "Scoring | None", job: Job) -> None:
        try:
            self._pipe.send((self._job, content))
        except OSError:
            raise HelperGoneError(f"{job.label}: the process that was to score it has ended") from None


@dataclass
class Helper:
    """What the driver knows of a helper.

    Attributes:
        jobs: which it has to finish, by their numbers.
        early: what it has said of jobs that its worker has not told of yet.

    """

    process: BaseProcess
    pipe: connection.Connection
    jobs: dict[int, Job] = field(default_factory=dict)
    early: dict[int, Exception | None] = field(default_factory=dict)
    over: bool = False

    def take(self, number: int, job: Job) -> list[Event]:
        """Expect a job to be finished; returns news of it, where they were faster."""
        if number in self.early:
            return [_told(job, self.early.pop(number))]
        self.jobs[number] = job
        return []

    def receive(self) -> list[Event]:
        """Hear of a job.

        Raises:
            EOFError: if the helper has ended; ``jobs`` are what it had to finish.

        """
        try:
            number, error = self.pipe.recv()
        except ConnectionResetError:
            raise EOFError from None
        job = self.jobs.pop(number, None)
        if job is None:
            self.early[number] = error
            return []
        return [_told(job, error)]

    def close(self) -> int:
        """Wait for its end; returns its exit code."""
        self.process.join()
        self.pipe.close()
        self.over = True
        return self.process.exitcode or 0


def _told(job: Job, error: Exception | None) -> Event:
    return Event(job, "done") if error is None else Event(job, "failed", error)


def help_out(driver: connection.Connection, worker: connection.Connection, threads: int, lean: bool) -> None:
    """Score what a worker hands over until it ends.

    Args:
        driver: hears (number of the job, what went wrong or None) of each job.
        worker: says (number of the job, a scoring, or None at its end).
        threads: of torch.
        lean: see :func:`lossbench.system.keep_memory`.

    """
    die_with_parent()
    keep_memory(lean)
    os.environ.update(SEES)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    import torch

    torch.set_num_threads(threads)
    current, error = 0, None
    while True:
        try:
            number, scoring = worker.recv()
        except (EOFError, ConnectionResetError):
            return
        if number != current:
            current, error = number, None
        if scoring is None:
            driver.send((number, error))
        else:
            error = error or _scored(scoring)


def _scored(scoring: "Scoring") -> Exception | None:
    from lossbench.execution.work import score_handed

    try:
        os.chdir(scoring.job.where.study)  # params.yaml names files as seen from there
        score_handed(scoring)
    except Exception as error:  # whatever it was, the driver tells it
        if not isinstance(error, UserError | GateError):
            error.add_note(f"in the scoring of the {scoring.job.label}:\n" + traceback.format_exc())
        return in_words(error)
    return None
