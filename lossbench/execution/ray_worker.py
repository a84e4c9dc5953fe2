"""What runs on a Ray cluster's nodes: a task, the look at a node, and the channel that news go through."""

import asyncio
import os
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import ray

from lossbench.execution.jobs import Job, Measure, Where
from lossbench.execution.remote import (
    BlindError,
    Bundle,
    Facts,
    Outcome,
    Reporter,
    Task,
    compute,
    facts_here,
    find_study,
)
from lossbench.params import Params
from lossbench.store import Store

PULL = 1.0
"""Seconds that whoever asks for news waits for the first."""
GATHERS = 0.2
"""Seconds in which news of several jobs become one answer to the driver."""


@dataclass(frozen=True)
class Seen:
    """What a node says of itself; no facts where it does not see the study's data."""

    facts: Facts | None
    store: str | None


def look_here(params: Params, arm: str, where: Where, data: str, bundle: list[Any]) -> Seen:
    """Say what decides an arm's bits on this node, and which store it sees."""
    known = Store(where.store).known()
    try:
        study = find_study(Measure(where, params, arm), arm, data, lambda: fetched(bundle))
    except BlindError:
        return Seen(None, known)
    os.chdir(study)  # what is known of files' code lies there
    return Seen(facts_here(params, arm, study), known)


@dataclass(frozen=True)
class Common:
    """What an arm's jobs have in common: it travels to a node once, not with each of them.

    Attributes:
        params: of the study.
        facts: of the driver.
        store: the id of the driver's store.
        channel: for news.
        bundle: reference to the study's files, where they travelled.

    """

    params: Params
    facts: Facts
    store: str
    channel: Any
    bundle: Any


@dataclass(frozen=True)
class Parcel:
    """What a task has of its own; params, which grow with a study's arms, are not among it.

    It travels pickled: what Ray pickles with costs the driver ten times as much.

    Attributes:
        kind: of the job.
        fields: of the job, without its params.
        arm: whose facts are meant.
        weights: that a score is computed from, where they lie in a file of the driver's.

    """

    kind: type[Job]
    fields: Mapping[str, Any]
    arm: str
    weights: bytes | None

    @classmethod
    def of(cls, task: Task) -> "Parcel":
        """Take it out of a task."""
        own = {one.name: getattr(task.job, one.name) for one in fields(task.job) if one.name != "params"}
        return cls(type(task.job), own, task.arm, task.weights)

    def task(self, common: Common) -> Task:
        """Put the task together again."""
        job = self.kind(params=common.params, **self.fields)
        return Task(job, self.arm, common.facts, common.store, self.weights)


@dataclass(frozen=True)
class Ending:
    """What a task brings with it.

    Attributes:
        news: what was not told before, each with its job's number in the task.
        messages: how many were sent before.

    """

    news: tuple[tuple[int, Any], ...]
    messages: int


def serve_here(number: int, written: bytes, common: Common) -> Ending:
    """Compute the jobs of a task one after another, ``written`` as pickled Parcels.

    Their news, and how each went, go through the channel and have arrived when the task ends, the last with
    it. A job that was asked to end is the last.
    """
    sent, last = 0, None

    def send(gathered: list[Any]) -> None:
        nonlocal sent, last
        sent, last = sent + 1, common.channel.push.remote(number, gathered)

    reporter = Reporter(send)
    node = ray.get_runtime_context().get_node_id()
    parcels: list[Parcel] = pickle.loads(written)  # noqa: S301  # of our driver
    for at, parcel in enumerate(parcels):
        reporter.flush()  # whoever loses the task knows that all before this one have ended
        outcome = _serve_one(at, parcel, common, reporter)
        reporter((at, replace(outcome, node=node)))
        if outcome.interrupted:
            break
    if last is not None:
        ray.get(last)
    return Ending(reporter.rest(), sent)


def _serve_one(at: int, parcel: Parcel, common: Common, reporter: Reporter) -> Outcome:
    began = time.monotonic()
    outcome = compute(
        parcel.task(common), lambda news: reporter((at, news)), lambda: fetched([common.bundle])
    )
    return replace(outcome, seconds=time.monotonic() - began)


def fetched(bundle: list[Any]) -> Bundle | None:
    """Fetch the study's files, where they travelled; in a list a reference is fetched when asked for."""
    if bundle[0] is None:
        return None
    found: Bundle = ray.get(bundle[0])
    return found


class Channel:
    """Holds what jobs tell until the driver asks."""

    def __init__(self) -> None:
        self._held: list[tuple[int, list[Any]]] = []
        self._some = asyncio.Event()

    async def push(self, number: int, gathered: list[Any]) -> None:
        """Take a job's news."""
        self._held.append((number, gathered))
        self._some.set()

    async def pull(self) -> list[tuple[int, list[Any]]]:
        """Give what has come, or wait for it for a second; a little longer for what other jobs tell."""
        try:
            await asyncio.wait_for(self._some.wait(), PULL)
        except TimeoutError:
            return []
        await asyncio.sleep(GATHERS)
        self._some.clear()
        held, self._held = self._held, []
        return held

    async def drain(self) -> list[tuple[int, list[Any]]]:
        """Give what has come, and let whoever waits go."""
        held, self._held = self._held, []
        self._some.set()
        return held


look = ray.remote(look_here)
serve = ray.remote(serve_here)
News = ray.remote(num_cpus=0, max_restarts=0)(Channel)
