"""Jobs in the calling process, one after another: for a debugger, a notebook, and tests."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lossbench.execution.jobs import Event, Job


@dataclass
class InlineExecutor:
    """Computes a job when its news are asked for."""

    _waiting: deque[Job] = field(default_factory=deque)
    _news: deque[Event] = field(default_factory=deque)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs."""
        self._waiting.extend(jobs)

    def next(self) -> Event | None:
        """Compute the next job; its events come one by one."""
        from lossbench.execution.work import work

        if not self._news and self._waiting:
            job = self._waiting.popleft()

            def emit(news: Any) -> None:
                self._news.append(Event(job, "progress", news))

            try:
                work(job, emit)
            except Exception as error:  # whatever it was, whoever waits is told
                self._news.append(Event(job, "failed", error))
            else:
                self._news.append(Event(job, "done"))
        return self._news.popleft() if self._news else None

    def cancel(self) -> None:
        """Take nothing more."""
        self._waiting.clear()
