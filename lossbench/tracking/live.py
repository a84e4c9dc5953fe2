"""The live shipper: shows running arms in MLflow while they train, from their journals.

It runs in a process of its own (``lossbench track --live``) and can be killed, starved or cut off from the
server at any time: the journal holds everything, and ``lossbench track`` completes the record. Within one
life, an attempt whose last call failed is doubtful: its runs are deleted and written again whole.
"""

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.identity import Owner, is_alive
from lossbench.lock import LockedError, lock
from lossbench.params import Params
from lossbench.system import processors
from lossbench.tracking.experiment import (
    ATTEMPT,
    BEAT,
    CURRENT,
    FINISHED,
    KILLED,
    OWNER,
    ROLE,
    SHIPPED,
    MlflowExperiment,
    close_stale,
    open_experiment,
)
from lossbench.tracking.journal import Event, Tail
from lossbench.tracking.outs import home_of, journals_of
from lossbench.tracking.provenance import settings_digest, study_shown
from lossbench.tracking.record import SETTINGS, Point, Run
from lossbench.tracking.replay import points_of
from lossbench.tracking.server import RefusedError, ServerGoneError, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL = 2.0
"""Seconds between two looks at the journals."""
RETRY = 15.0
"""Seconds before a server that did not answer is tried again."""
SHARE = 0.005
"""Of the machine's processor time that sending may take: it rests after each time until that is true."""
BEATS = 300.0
"""Seconds between two signs of life of a training in MLflow: on another machine nothing else tells it apart
from a dead one."""
LONGEST = 15.0
"""Seconds that it rests at most: the first time takes longest, and would be the last for minutes."""


@dataclass
class LiveRun:
    """One child: what the journal says of a replicate, and how much of it the server has."""

    seed: int
    start: int
    points: list[Point] = field(default_factory=list)
    end: int | None = None
    run_id: str | None = None
    sent: int = 0
    ended: bool = False


class LiveAttempt:
    """One attempt: its journal, and its runs in MLflow."""

    def __init__(self, path: Path, study: str) -> None:
        self._tail = Tail(path)
        self._runs: dict[int, LiveRun] = {}
        self._parent = ""
        self._doubtful = True
        self._beat = -math.inf
        self.status: str | None = None
        self.done = False
        first, *later = self._tail.new()
        self._header: Event = first
        self.owner = Owner(**first["owner"])
        described = first["described"]
        self.experiment = str(described["experiment"])
        shown = {
            key: str(described[key]) for key in ("arm", "experiment", "loss", "dataset") if key in described
        }
        self._tags = {**shown, "study": study, "stage": "train"}
        self._identity = {
            ATTEMPT: str(first["attempt"]),
            OWNER: str(self.owner),
            SETTINGS: settings_digest(described),
            CURRENT: "true",
        }
        self._take(later)

    def read(self) -> None:
        """Take in what training appended, and whether it is still alive."""
        dead = not self.alive()  # asked first: what it wrote before its death is then in the file
        self._take(self._tail.new())
        if self.status is None and dead:
            self.status = KILLED

    def alive(self) -> bool:
        """Say whether the process that trains lives; of another machine's the journal is the sign of life."""
        return is_alive(self.owner, self._tail.path.stat().st_mtime)

    def ship(self, target: MlflowExperiment) -> None:
        """Send what is new; after a failed call everything is sent again, into new runs."""
        if self.done:
            return
        if self._doubtful:
            self._begin_again(target)
        self._doubtful = True  # until this call has come to its end
        for run in self._runs.values():
            self._ship_run(target, run)
        if self.status is not None:
            self._close(target, self.status)
        elif time.monotonic() - self._beat >= BEATS:
            self._show_life(target)
        self._doubtful = False

    def _show_life(self, target: MlflowExperiment) -> None:
        going_on = [run.run_id for run in self._runs.values() if run.run_id and not run.ended]
        for run_id in (self._parent, *going_on):
            target.tag(run_id, {BEAT: str(int(time.time()))})
        self._beat = time.monotonic()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if event["event"] == "ended":
                self.status = str(event["status"])
            if "seed" in event:
                now = int(event["time"] * 1000)
                run = self._runs.setdefault(int(event["seed"]), LiveRun(int(event["seed"]), now))
                run.points += [Point(key, value, epoch, now) for epoch, key, value in points_of(event)]
                if event["event"] == "finished":
                    run.end = now

    def _begin_again(self, target: MlflowExperiment) -> None:
        for old in target.search(attempt=self._identity[ATTEMPT], role="arm"):
            target.delete_family(old.info.run_id)
        for run in self._runs.values():
            run.run_id, run.sent, run.ended = None, 0, False
        parent = Run(self._tags["arm"], int(self._header["time"] * 1000), 0, {}, self._tags, ())
        self._parent = target.create(parent, {**self._identity, ROLE: "arm"})

    def _ship_run(self, target: MlflowExperiment, run: LiveRun) -> None:
        if run.run_id is None:
            child = Run(f"{self._tags['arm']} seed {run.seed}", run.start, 0, {}, self._tags, ())
            tags = {**self._identity, ROLE: "replicate", "seed": str(run.seed)}
            run.run_id = target.create(child, tags, self._parent)
        if run.sent < len(run.points):
            target.log(run.run_id, run.points[run.sent :])
            run.sent = len(run.points)
        if run.end is not None and not run.ended:
            target.end(run.run_id, FINISHED, run.end)
            run.ended = True

    def _close(self, target: MlflowExperiment, status: str) -> None:
        now = int(time.time() * 1000)
        for run in self._runs.values():
            if run.run_id is not None and not run.ended:
                target.end(run.run_id, status, now)
        target.tag(self._parent, {SHIPPED: "true"} if status == FINISHED else {CURRENT: "false"})
        target.end(self._parent, status, now)
        self.done = True


def ship_live(params: Params, root: Path) -> None:
    """Show this study's running arms until none is alive; one shipper at a time, others return at once."""
    os.nice(10)
    try:
        with lock(home_of(root) / "shipper.lock"):
            Shipper(params, root).run()
    except LockedError:
        return


class Shipper:
    """Follows the journals of living trainings."""

    def __init__(self, params: Params, root: Path) -> None:
        self._params = params
        self._root = root
        self._seen: set[Path] = set()
        self._attempts: list[LiveAttempt] = []
        self._client: MlflowClient | None = None
        self._targets: dict[str, MlflowExperiment] = {}

    def run(self) -> None:
        """Ship until no training is alive; what could not be sent then is left to ``lossbench track``."""
        due, reached = time.monotonic(), True
        while True:
            self._find()
            for attempt in self._attempts:
                attempt.read()
            over = all(attempt.status is not None for attempt in self._attempts)
            ended = any(attempt.status is not None and not attempt.done for attempt in self._attempts)
            if over or (ended and reached) or time.monotonic() >= due:
                before = time.process_time()
                reached = self.ship()
                spent = time.process_time() - before
                rest = min(spent / (SHARE * processors()), LONGEST)
                due = time.monotonic() + (rest if reached else RETRY)
            if over:
                return
            time.sleep(POLL)

    def ship(self) -> bool:
        """Send what is new; say whether the server answered."""
        try:
            self._client = self._client or connect(self._root)
            for attempt in self._attempts:
                self._ship_one(self._client, attempt)
        except ServerGoneError as error:
            print(f"{time.strftime('%H:%M:%S')} {error}; trying again", flush=True)
            return False
        return True

    def _ship_one(self, client: "MlflowClient", attempt: LiveAttempt) -> None:
        if attempt.experiment not in self._targets:
            target = open_experiment(client, self._params, self._root, attempt.experiment)
            close_stale(target)
            self._targets[attempt.experiment] = target
        try:
            attempt.ship(self._targets[attempt.experiment])
        except RefusedError as error:  # someone deleted the runs: `lossbench track` writes them from the outs
            print(f"{time.strftime('%H:%M:%S')} no longer shown live: {error}", flush=True)
            attempt.done = True

    def _find(self) -> None:
        """Follow new journals of living trainings."""
        for path in journals_of(home_of(self._root)).glob("*/*/*.jsonl"):
            if path in self._seen or not _begun(path):
                continue
            self._seen.add(path)
            attempt = LiveAttempt(path, study_shown(self._params, self._root))
            if attempt.status is None and attempt.alive():
                self._attempts.append(attempt)


def _begun(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")
