"""Progress bars that also behave in a log file."""

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

LINES = "LOSSBENCH_PROGRESS_LINES"
"""Set where several processes show their progress on one terminal: each then writes lines."""


class Bar(tqdm):  # type: ignore[type-arg]  # of nothing: it is moved by hand
    """A bar that may be told how long the rest takes, where its parts take unequal times."""

    forecast: Callable[[], float | None] | None = None

    @property
    def format_dict(self) -> Any:
        """What tqdm writes its line from; it has the remaining time from a rate."""
        content = super().format_dict
        rest = (self.total or 0) - self.n
        if self.forecast is not None and rest > 0:
            seconds = self.forecast()
            content["rate"] = rest / seconds if seconds else 0  # which is written as "?"
        return content


class Forecast:
    """How long the rest takes, where an epoch of one experiment takes longer than one of another.

    An epoch weighs what it took in the jobs of its experiment that have ended; until one has, what was
    measured before the run. The rest takes as long, for its weight, as what is done.

    Args:
        expected: experiment → epochs known to be wanted.
        costs: experiment → seconds of an epoch as measured before, where they were.

    """

    def __init__(self, expected: Mapping[str, int], costs: Mapping[str, float]) -> None:
        self._expected, self._costs = expected, costs
        self._submitted: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._over: Counter[str] = Counter()
        self._begun: dict[object, float] = {}
        self._first: float | None = None

    @property
    def total(self) -> int:
        """Epochs, as far as is known."""
        return sum(self._wanted().values())

    def submitted(self, experiment: str, epochs: int) -> None:
        """Count what is to be done."""
        self._submitted[experiment] += epochs

    def begun(self, job: object) -> None:
        """Note when a job begins: before the first one nothing is trained."""
        self._begun.setdefault(job, time.monotonic())
        self._first = self._begun[job] if self._first is None else self._first

    def done(self, experiment: str, epochs: int) -> None:
        """Count epochs that need not be waited for any more."""
        self._done[experiment] += epochs

    def over(self, job: object, experiment: str, trained: int) -> None:
        """Note that a job has ended, which has trained so many epochs."""
        begun = self._begun.pop(job, None)
        if begun is not None and trained:
            self._spent[experiment] += time.monotonic() - begun
            self._over[experiment] += trained

    def seconds(self) -> float | None:
        """Say how long the rest takes; None where nobody knows."""
        wanted = self._wanted()
        # Of a single experiment all epochs weigh the same, whatever that is.
        weights = {name: self._weight(name) if len(wanted) > 1 else 1.0 for name in wanted}
        if self._first is None or None in weights.values():
            return None
        done = sum(self._done[name] * (weights[name] or 0) for name in wanted)
        rest = sum((wanted[name] - self._done[name]) * (weights[name] or 0) for name in wanted)
        return (time.monotonic() - self._first) * rest / done if done else None

    def _wanted(self) -> dict[str, int]:
        """Experiment → epochs, of those that have any."""
        names = {*self._expected, *self._submitted}
        most = {name: max(self._expected.get(name, 0), self._submitted[name]) for name in names}
        return {name: epochs for name, epochs in most.items() if epochs}

    def _weight(self, experiment: str) -> float | None:
        if self._over[experiment]:
            return self._spent[experiment] / self._over[experiment]
        return self._costs.get(experiment)


def bar(total: int, label: str, delay: float = 0) -> Bar:
    """Make a bar; on a terminal it moves, in a log file it writes a line every 10 seconds at most.

    With :data:`LINES` in the environment a terminal is treated as a log file.

    What ends within ``delay`` seconds shows none.
    """
    notebook = "ipykernel" in sys.modules  # whose output a carriage return overwrites, too
    moving = (sys.stderr.isatty() or notebook) and LINES not in os.environ
    return Bar(
        total=total,
        desc=label,
        delay=delay,
        mininterval=0.2 if moving else 10,
        ascii=not moving,
        ncols=None if moving and not notebook else 90,
        dynamic_ncols=moving and not notebook,
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        if moving
        else "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}\n",
    )
