"""The journal of training: what it appends to before anyone else hears of it, a JSON object a line.

An *attempt* is one process training one arm; it has a file of its own,
``.lossbench/journal/<experiment>/<arm>/<attempt>.jsonl``. Every event has ``event`` and ``time`` (seconds
since the epoch). A process killed in the middle of a write leaves a torn last line, which readers drop.

Nothing here imports MLflow, waits for a network, or lets a full disk stop training. In long runs another
process, which training never waits for, reads the journal and shows it in MLflow live
(:mod:`lossbench.tracking.live`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from lossbench.identity import Owner, part_name
from lossbench.tracking.outs import journals_of, timings_of
from lossbench.tracking.provenance import digest, revision, versions

if TYPE_CHECKING:
    from lossbench.training.replicate import Replicate

LIVE_AFTER = 120.0
"""Seconds of training after which a shipper shows it in MLflow live: its start (about 2 core-seconds)
then costs at most 1 % of two cores; short arms, which `lossbench track` records at the end, pay nothing."""


class JournalObserver:
    """Writes one attempt's journal.

    Args:
        home: the study's private folder, ``.lossbench``.
        described: what is trained, as ``arm.json`` will say; holds at least arm and experiment.
        system_metrics: sample the load of the machine too.
        study: its folder.

    """

    def __init__(
        self,
        home: Path,
        described: Mapping[str, Any],
        system_metrics: bool = True,
        study: Path = Path(),
    ) -> None:
        self.arm = str(described["arm"])
        self._home, self._study = home, study
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
            path = journals_of(home) / str(described["experiment"]) / self.arm / f"{attempt}.jsonl"
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
            "training goes on, and `lossbench track` will record the arm from its outs",
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
        spawn_shipper(self._home, self._study)

    def _write_timings(self) -> None:
        if not self._seconds:
            return
        path = timings_of(self._home, self.arm)
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = {**read_timings(self._home, self.arm), **self._seconds}
        draft = path.with_name(part_name(path.name))
        draft.write_text(json.dumps({str(seed): merged[seed] for seed in sorted(merged)}) + "\n")
        draft.replace(path)


def read_timings(home: Path, arm: str) -> dict[int, float]:
    """Read an arm's seconds per replicate; empty where nothing was measured here."""
    try:
        content = json.loads(timings_of(home, arm).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {int(seed): float(seconds) for seed, seconds in content.items()}


SYNC_EVERY = 1.0
"""Seconds between two fsyncs. Every event reaches the kernel at once, so that a killed process loses none;
only a power cut can take what came in the last second, and the outs still hold that."""

Event = dict[str, Any]


class EventFile:
    """An append-only file of events, opened for one attempt."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._synced = time.monotonic()

    def append(self, event: str, values: Mapping[str, Any], sync: bool = False) -> None:
        """Append one event in one write; ``sync`` waits until it is on the disk."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        self._file.write(line.encode() + b"\n")
        if sync or time.monotonic() - self._synced > SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()


class Tail:
    """Reads what was appended to a journal since the last call; a torn last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def new(self) -> list[Event]:
        """Read the complete lines that came since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(_parse(whole))


def read(path: Path) -> list[Event]:
    """Read all complete events of a journal."""
    return Tail(path).new()


def _parse(raw: bytes) -> Iterator[Event]:
    for line in raw.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn by a crash and then appended to: the line is lost, its neighbours are not
        if isinstance(event, dict) and "event" in event:
            yield event


EVERY = 10.0
"""Seconds between samples."""
FIRST = 0.5
"""Seconds before the first one, so that a short arm has one too."""
MEGABYTE = 1e6


class Sampler:
    """Gives a sample every ``every`` seconds at most; processor load is the mean since the last one."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._next = time.monotonic() + min(FIRST, every)
        psutil.cpu_percent()  # its first value is meaningless

    def due(self) -> dict[str, float] | None:
        """Take a sample if it is time for one."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self._every
        return {**_machine(), **_gpu()}


def _machine() -> dict[str, float]:
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(".")
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": round(disk.free / MEGABYTE, 1),
    }


def _gpu() -> dict[str, float]:
    """Read the GPU that torch uses, where one is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "gpu_0_memory_usage_megabytes": round((total - free) / MEGABYTE, 1),
        "gpu_0_memory_usage_percentage": round(100 * (1 - free / total), 1),
    }


def spawn_shipper(home: Path, study: Path = Path()) -> None:
    """Start ``lossbench track --live`` in a session of its own (it lowers its own priority).

    It shows running arms in MLflow until no training of this study is
    alive, then exits. A second one finds the first one's lock and exits at once. It outlives a Ctrl-C of
    `dvc repro` for a moment, to close the runs that the Ctrl-C killed.
    """
    log = home / "shipper.log"
    try:
        with log.open("ab") as output:
            subprocess.Popen(
                [sys.executable, "-m", "lossbench", "track", "--live"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=study,
            )
    except OSError as error:
        print(f"warning: no live shipper ({error}); `lossbench track` will record the run", file=sys.stderr)
