"""What watches training: it writes the journal and the timings, and wakes the shipper in long runs.

Nothing here imports MLflow, waits for a network, or lets a full disk stop training.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.identity import Owner, part_name
from lossbench.tracking import places
from lossbench.tracking.environment import versions
from lossbench.tracking.events import EventFile
from lossbench.tracking.identity import digest
from lossbench.tracking.revision import revision
from lossbench.tracking.sampler import Sampler
from lossbench.tracking.shipper import spawn_shipper

if TYPE_CHECKING:
    from lossbench.training.replicate import Replicate

LIVE_AFTER = 120.0
"""Seconds of training after which a shipper shows it in MLflow live: its start (about 2 core-seconds)
then costs at most 1 % of two cores, and short arms, which `stages.track` records at the end, pay nothing."""


class JournalObserver:
    """Writes one attempt's journal; an ``Observer`` of training.

    Use :meth:`open`, which also closes the attempt with its outcome.
    """

    def __init__(self, home: Path, described: Mapping[str, Any], system_metrics: bool = True) -> None:
        self.arm = str(described["arm"])
        self._home = home
        owner = Owner.me()
        born = time.time_ns()
        # Names sort by time, to the nanosecond: the newest journal is the last, also within one second.
        stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(born // 10**9))}.{born % 10**9:09d}"
        attempt = f"{stamp}-{digest(str(owner), born)[:12]}"
        self._events: EventFile | None = None
        self._seen: dict[int, set[tuple[int, str]]] = {}
        self._seconds: dict[int, float] = {}
        self._born = time.monotonic()
        self._shipping = False
        self._sampler = Sampler() if system_metrics else None
        try:
            path = places.journals(home) / str(described["experiment"]) / self.arm / f"{attempt}.jsonl"
            self._events = EventFile(path)
        except OSError as error:
            self._give_up(error)
        header = {
            "attempt": attempt,
            "owner": asdict(owner),
            "described": dict(described),
            "versions": versions(),
            "revision": revision(Path.cwd()),
        }
        self._append("attempt", header, sync=True)

    @classmethod
    @contextmanager
    def open(
        cls, home: Path, described: Mapping[str, Any], system_metrics: bool = True
    ) -> Iterator["JournalObserver"]:
        """Journal one arm's training; the outcome of the block is the outcome of the attempt.

        Args:
            home: the study's private folder, ``.lossbench``.
            described: what is trained, as ``arm.json`` will say; holds at least arm and experiment.
            system_metrics: sample the load of the machine too.

        """
        observer = cls(home, described, system_metrics)
        status = "FAILED"
        try:
            yield observer
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            observer.close(status)

    def started(self, seed: int, epochs: int) -> None:
        """Note that a replicate begins (or goes on)."""
        self._seen.setdefault(seed, set())
        self._append("started", {"seed": seed, "epochs": epochs})

    def epoch(self, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        """Note an epoch's values, keyed ``split/metric``."""
        self._seen.setdefault(seed, set()).update((epoch, key) for key in values)
        numbers = {key: float(value) for key, value in values.items()}
        self._append("epoch", {"seed": seed, "epoch": epoch, "values": numbers})
        self._sample_load()
        self._ship_if_long()

    def finished(self, replicate: "Replicate") -> None:
        """Note that a replicate is complete, with what of its history was not seen epoch by epoch."""
        seen = self._seen.setdefault(replicate.seed, set())
        unseen = [
            [record.epoch, f"{record.split}/{record.metric}", float(record.value)]
            for record in replicate.history
            if (record.epoch, f"{record.split}/{record.metric}") not in seen
        ]
        outcome = {
            "seed": replicate.seed,
            "history": unseen,
            "epoch": replicate.epoch,
            "diverged": replicate.diverged,
            "seconds": round(replicate.seconds, 3),
            "fresh": replicate.fresh,
        }
        self._append("finished", outcome, sync=True)
        if replicate.seconds > 0:
            self._seconds[replicate.seed] = round(replicate.seconds, 3)

    def close(self, status: str) -> None:
        """End the attempt; ``status`` is FINISHED, FAILED or KILLED."""
        self._append("ended", {"status": status}, sync=True)
        try:
            self._write_timings()
            if self._events is not None:
                self._events.close()
        except OSError as error:
            self._give_up(error)

    def _append(self, event: str, values: Mapping[str, Any], sync: bool = False) -> None:
        if self._events is None:
            return
        try:
            self._events.append(event, values, sync)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Say once that the journal cannot be written; the outs are the truth, so training goes on."""
        self._events = None
        print(
            f"warning: the journal of '{self.arm}' cannot be written ({error.strerror or error}); "
            "training goes on, and `make track` will record the arm from its outs",
            file=sys.stderr,
        )

    def _sample_load(self) -> None:
        load = self._sampler.due() if self._sampler is not None else None
        if load is not None:
            self._append("system", {"values": load})

    def _ship_if_long(self) -> None:
        if self._events is None or self._shipping or time.monotonic() - self._born < LIVE_AFTER:
            return
        self._shipping = True
        spawn_shipper(self._home)

    def _write_timings(self) -> None:
        if not self._seconds:
            return
        path = places.timings(self._home, self.arm)
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = {**read_timings(self._home, self.arm), **self._seconds}
        draft = path.with_name(part_name(path.name))
        draft.write_text(json.dumps({str(seed): merged[seed] for seed in sorted(merged)}) + "\n")
        draft.replace(path)


def read_timings(home: Path, arm: str) -> dict[int, float]:
    """Read an arm's seconds per replicate; empty where nothing was measured here."""
    try:
        content = json.loads(places.timings(home, arm).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {int(seed): float(seconds) for seed, seconds in content.items()}
