"""Replays journals: when each epoch of an arm ended, which the outs must not hold."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lossbench.tracking.journal import Event, read
from lossbench.tracking.outs import ArmOuts, History, home_of, journals_of


@dataclass(frozen=True)
class Replay:
    """What a journal tells of one arm: times that the outs must not hold."""

    header: Event
    histories: History
    times: Mapping[tuple[int, int, str], float]
    spans: Mapping[int, tuple[float, float]]
    system: Sequence[Event]
    ended: float


def find_replay(outs: ArmOuts) -> Replay | None:
    """Find the newest journal that tells the history which the outs hold."""
    folder = journals_of(home_of(outs.root)) / outs.experiment / outs.arm
    for path in sorted(folder.glob("*.jsonl"), reverse=True):
        found = replay(read(path))
        if found is not None and _same(found.histories, outs.history):
            return found
    return None


def replay(events: Sequence[Event]) -> Replay | None:
    """Replay a journal; None where it lacks its first line."""
    if not events or events[0]["event"] != "attempt":
        return None
    histories: History = {}
    times: dict[tuple[int, int, str], float] = {}
    spans: dict[int, tuple[float, float]] = {}
    for event in events:
        if "seed" not in event:
            continue
        seed, now = int(event["seed"]), float(event["time"])
        start = spans.get(seed, (now, now))[0]
        spans[seed] = (start, now)
        for epoch, key, value in points_of(event):
            histories.setdefault(seed, {})[epoch, key] = value
            times[seed, epoch, key] = now
    system = [event for event in events if event["event"] == "system"]
    return Replay(events[0], histories, times, spans, system, float(events[-1]["time"]))


def points_of(event: Event) -> Iterable[tuple[int, str, float]]:
    """List an event's values: (epoch, split/metric, value)."""
    if event["event"] == "epoch":
        return [(int(event["epoch"]), key, float(value)) for key, value in event["values"].items()]
    if event["event"] == "finished":
        return [(int(epoch), key, float(value)) for epoch, key, value in event["history"]]
    return []


def _same(journal: History, outs: History) -> bool:
    """Compare histories; the last digits may have been rounded on the way to the file."""
    if journal.keys() != outs.keys():
        return False
    for seed, values in outs.items():
        if journal[seed].keys() != values.keys():
            return False
        for at, value in values.items():
            other = journal[seed][at]
            close = math.isclose(value, other, rel_tol=1e-5, abs_tol=1e-9)
            if not close and not (math.isnan(value) and math.isnan(other)):
                return False
    return True
