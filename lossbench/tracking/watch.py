"""Watches jobs: one line for the whole, and a journal for each arm that trains."""

from collections.abc import Sequence
from typing import Any

from lossbench.execution.declared import seeds_of
from lossbench.execution.fill import Watch
from lossbench.execution.jobs import TRAIN, Event, Job, Train
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.progress import Bar, Forecast, bar
from lossbench.store import Entry, Store
from lossbench.tracking.journal import JournalObserver
from lossbench.training.replicate import Record, Replicate


class Watcher(Watch):
    """Shows how far everything is, and journals what is trained.

    Args:
        params: of the study.
        outs: of the study.
        store: where results lie.
        label: of the line.
        forecast: what is known to be wanted, beside what will turn out to be, and how long it takes.
        journal: whether anything is journalled at all.

    """

    def __init__(
        self,
        params: Params,
        outs: Outs,
        store: Store,
        label: str,
        forecast: Forecast | None = None,
        journal: bool = True,
    ) -> None:
        self._params, self._outs, self._store, self._label = params, outs, store, label
        self._bar: Bar | None = None
        self._forecast = forecast or Forecast({}, {})
        self._journalled = journal
        self._seen: dict[tuple[str, str], set[int]] = {}
        self._journals: dict[str, JournalObserver] = {}
        self._left: dict[str, int] = {}
        self._failed: set[str] = set()

    def submitted(self, jobs: Sequence[Job]) -> None:
        """Count what is to be done."""
        for job in jobs:
            if isinstance(job, Train):
                self._forecast.submitted(_experiment(job), job.epochs)
        total = self._forecast.total
        if self._bar is None and total:
            self._bar = bar(total, self._label)
            self._bar.forecast = self._forecast.seconds
        elif self._bar is not None:
            self._bar.total = total
        for job in jobs:
            if isinstance(job, Train) and not job.trial:
                self._left[job.arm] = self._left.get(job.arm, 0) + 1

    def event(self, event: Event) -> None:
        """Take note of an epoch, a start or an end."""
        job = event.job
        if not isinstance(job, Train):
            return
        if event.kind == "progress":
            self._progress(job, event.content)
            return
        key = (job.arm, job.keys[0])
        trained = len(self._seen.pop(key, ()))
        self._forecast.over(key, _experiment(job), trained)
        self._advance(job, job.epochs - trained)  # resumed, or stopped early
        if not job.trial:
            if event.kind == "failed":
                self._failed.add(job.arm)
            self._left[job.arm] -= 1
            if not self._left[job.arm] and job.arm in self._journals:
                status = "FAILED" if job.arm in self._failed else "FINISHED"
                self._journals.pop(job.arm).close(status)

    def close(self, failed: bool) -> None:
        """End the line and the journals of what was broken off."""
        for journal in self._journals.values():
            journal.close("FAILED" if failed and self._failed else "KILLED")
        self._journals.clear()
        if self._bar is not None:
            self._bar.close()

    def _progress(self, job: Train, news: Any) -> None:
        match news:
            case ("begun", seed, described):
                self._forecast.begun((job.arm, job.keys[0]))
                if self._tells(job):
                    self._journal(job, described).started(seed, job.recipe.epochs)
            case ("epoch", seed, epoch, values):
                seen = self._seen.setdefault((job.arm, job.keys[0]), set())
                fresh = seed * job.recipe.epochs + epoch not in seen
                seen.add(seed * job.recipe.epochs + epoch)
                self._advance(job, 1 if fresh else 0)
                if self._tells(job):
                    self._journals[job.arm].epoch(seed, epoch, values)
            case ("finished", _, key):
                if self._tells(job) and (entry := self._store.get(TRAIN, key)) is not None:
                    self._journals[job.arm].finished(read_replicate(entry))

    def _tells(self, job: Train) -> bool:
        return self._journalled and not job.trial

    def _advance(self, job: Train, epochs: int) -> None:
        self._forecast.done(_experiment(job), epochs)
        if self._bar is not None and epochs:
            self._bar.update(epochs)

    def _journal(self, job: Train, described: dict[str, Any]) -> JournalObserver:
        """Open an arm's journal; replicates that were there already stand at its head."""
        if job.arm not in self._journals:
            chosen = self._params.arms[job.arm]
            names = {"arm": job.arm, "experiment": chosen.experiment}
            names |= {"dataset": chosen.dataset, "loss": chosen.loss}
            shown = {key: value for key, value in described.items() if not key.startswith("monitor")}
            content = {**names, **shown, "seeds": list(seeds_of(self._params, self._outs.study)[job.arm])}
            self._journals[job.arm] = JournalObserver(
                self._outs.home, content, self._params.tracking.system_metrics, self._outs.study
            )
        return self._journals[job.arm]


def _experiment(job: Train) -> str:
    return job.params.arms[job.arm].experiment


def read_replicate(entry: Entry, fresh: bool = True) -> Replicate:
    """Read a finished replicate, without its weights."""
    content = entry.content
    return Replicate(
        seed=content["seed"],
        state={},
        history=tuple(Record(*one) for one in content["history"]),
        epoch=content["epoch"],
        diverged=content["diverged"],
        seconds=content["seconds"],
        fresh=fresh,
    )
