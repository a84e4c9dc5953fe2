"""How long an epoch takes, from a few steps: what is said before a run begins."""

import time
from contextlib import suppress
from statistics import median

from lossbench.training.interruption import Interruption
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.setting import Setting

STEPS = 6
SECONDS = 5.0
"""After which no further step is waited for."""
FORWARD = 1 / 3
"""Of a training step's time that predicting as many samples takes."""


class _Stopwatch(Interruption):
    """Asks for an end after some steps, and notes when each was over."""

    def __init__(self) -> None:
        self.marks = [time.perf_counter()]

    @property
    def asked(self) -> bool:  # type: ignore[override]  # looked at after each step, as the attribute is
        """Whether there were steps enough."""
        self.marks.append(time.perf_counter())
        return len(self.marks) > STEPS or self.marks[-1] - self.marks[0] > SECONDS


def seconds_per_epoch(setting: Setting, member: Member) -> float:
    """Train a few steps and tell from them how long an epoch takes, validation included."""
    watch = _Stopwatch()
    with suppress(SystemExit):  # how training ends when it is asked to
        train_replicate(setting, member, interruption=watch)
    took = [after - before for before, after in zip(watch.marks, watch.marks[1:], strict=False)]
    step = median(took[1:] or took)
    batch = min(setting.recipe.batch_size, len(setting.train))
    samples = len(setting.train) + FORWARD * len(setting.validation)
    return step * samples / batch
