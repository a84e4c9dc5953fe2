"""What executors on other machines share: a job travels, and the worker makes the key itself.

Before a worker computes, it says what decides bits where it is: processor, versions, code, data. What differs
from the driver's is named and the job refused, so that no result stands under a key that is not its own.
"""

import hashlib
import os
import signal
import socket
import stat
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from lossbench import gpus
from lossbench.errors import DiedError, GateError, UserError
from lossbench.execution.identity import data_hash, machine, user_code, versions
from lossbench.execution.jobs import Event, Floors, Gallery, Job, Score, Where
from lossbench.execution.local import little_memory
from lossbench.execution.scripted import identity_of
from lossbench.params import Params
from lossbench.store import Store
from lossbench.system import keep_memory, processors, write_atomically
from lossbench.telling import LESS_MEMORY, of_the_machine, out_of_memory
from lossbench.travelling import in_words

TRIES = 4
"""Of a job whose worker or node died: the first, and three more."""
MESSAGES = 1.0
"""Seconds between two messages of a job."""
NAMED = 4
"""Modules or packages that a sentence about differing code names at most."""


@dataclass(frozen=True)
class Facts:
    """What decides the bits of an arm's results, beside params.

    Attributes:
        node: the machine's name.
        machine: its processor, or GPU.
        versions: of packages that compute.
        code: module → hash.
        data: hash of the dataset.

    """

    node: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    code: Mapping[str, str]
    data: str


def facts(params: Params, arm: str, study: Path) -> Facts:
    """Say what decides an arm's bits here."""
    identity = identity_of(params, arm, study)
    training, scoring = identity.code, identity.scoring
    return Facts(
        socket.gethostname(),
        machine(params.compute.device),
        {**versions(training), **versions(scoring)},
        {**training.files, **scoring.files},
        data_hash(identity.data.resolve()),
    )


def differences(driver: Facts, worker: Facts) -> list[str]:
    """Name what a worker has otherwise than the driver; empty where their bits are the same.

    Example:
        >>> same = Facts("a", {"processor": "P"}, {"torch": "2.15.0"}, {"m": "1"}, "d")
        >>> differences(same, same)
        []

    """
    mine, theirs = ({**one.machine, **one.versions} for one in (driver, worker))
    told = [
        f"{name} '{theirs.get(name, 'none')}' (here '{mine.get(name, 'none')}')"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]
    both = driver.code.keys() | worker.code.keys()
    changed = sorted(name for name in both if driver.code.get(name) != worker.code.get(name))
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        told.append(f"code in {', '.join(changed[:NAMED])}{more}")
    if driver.data != worker.data:
        told.append("data")
    return told


class NodeError(GateError):
    """A node that is to get no more jobs; this one is for another."""


class OtherError(NodeError):
    """A worker whose results would be others: another kind of machine, other code or data, another store."""


class BlindError(OtherError):
    """A node that does not see the study's data, and to which nothing travelled."""


@dataclass(frozen=True)
class Bundle:
    """A study's data and the user's own modules, for nodes that do not see its folder."""

    digest: str
    files: Mapping[str, Any]
    """Path from the study's folder → bytes, or an array of them."""
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """A job, and what its worker has to agree with.

    Attributes:
        job: what is computed.
        arm: whose facts these are.
        facts: of the driver.
        store: the id of the driver's store.
        weights: that a score is computed from, where they lie in a file of the driver's.

    """

    job: Job
    arm: str
    facts: Facts
    store: str
    weights: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """How a task went; an exception travels as a value, without the frames of who carries it."""

    node: str
    error: Exception | None = None
    interrupted: bool = False
    seconds: float = 0.0
    """That it took there."""


def arm_of(job: Job) -> str:
    """Name an arm that a job belongs to: of an experiment, its first."""
    if isinstance(job, Floors | Gallery):
        return next(iter(job.params.arms_of(job.experiment)))
    return job.arm


def compute(task: Task, emit: Callable[[Any], None], bundle: Callable[[], Bundle | None]) -> Outcome:
    """Compute a task, on whatever machine this is.

    Args:
        task: what.
        emit: hears of progress.
        bundle: fetches the study's files, if there are any for whoever does not see its folder.

    """
    node = socket.gethostname()
    try:
        job = settle(task, bundle)
        agree(task, facts_here(job.params, task.arm, job.where.study), job.where.store)
        import torch

        from lossbench.execution.work import work

        threads = job.params.compute.threads
        torch.set_num_threads(threads)
        keep_memory(little_memory(max(1, processors() // threads)))
        gpus.keep_to_part(job.params.compute.device, job.where.share)
        with _asked_to_end():
            work(job, emit)
    except SystemExit:  # asked to end: what was trained so far is in the checkpoint
        return Outcome(node, interrupted=True)
    except DiedError as error:
        return Outcome(node, error, interrupted=True)
    except (UserError, GateError) as error:
        return Outcome(node, error)
    except Exception as error:  # of any kind: it goes to the driver, which tells it of its arm
        if told := of_the_machine(error):  # but of which machine, only this one knows
            told = f"the {task.job.label}, on {node}: {told}"
            # What is too large for one node's memory is so for others of its kind; a disk is its own.
            kind = GateError if out_of_memory(error) else NodeError
            return Outcome(node, kind(told), interrupted=kind is NodeError)
        error.add_note(f"in the {task.job.label}, on {node}")
        return Outcome(node, in_words(error))
    return Outcome(node)


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """Take an interruption as SIGTERM: training then writes its checkpoint before it ends."""
    if threading.current_thread() is not threading.main_thread():  # nobody interrupts there
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def agree(task: Task, mine: Facts, store: str) -> None:
    """Refuse a task whose results would be others here.

    Raises:
        OtherError: naming the node, and what differs.

    """
    if told := differences(task.facts, mine):
        raise OtherError(
            f"node {mine.node} would compute other bits than {task.facts.node}: {'; '.join(told)}"
        )
    if Store(store).known() != task.store:
        raise OtherError(
            f"node {mine.node} does not see the same store at {Store(store).shown}; set LOSSBENCH_STORE to a "
            "folder or an address that all nodes see"
        )


def settle(task: Task, bundle: Callable[[], Bundle | None]) -> Job:
    """Go to the study's folder, or make one of what travelled; return the job as it is to be computed there.

    Raises:
        BlindError: if there is no such folder here and nothing travelled.

    """
    job = task.job
    study = find_study(job, task.arm, task.facts.data, bundle)
    compute = job.params.compute
    # Jobs beside it take of the node's memory; of a GPU's those that the driver lets share it.
    share = job.where.share if compute.device == "cuda" else max(1, processors() // compute.threads)
    job = replace(job, where=Where(study, _home(study, job), job.where.store, share))
    if task.weights is not None and isinstance(job, Score):
        file = _scratch() / f"{hashlib.sha256(task.weights).hexdigest()}.safetensors"
        write_atomically(file, task.weights)
        job = replace(job, weights=file)
    os.chdir(study)  # params.yaml names files as seen from there
    return job


def find_study(job: Job, arm: str, data: str, bundle: Callable[[], Bundle | None]) -> Path:
    """Find the study's folder on this machine: the driver's, if it holds the same data, or what travelled."""
    params, study = job.params, job.where.study
    folder = study / "data" / params.arms[arm].dataset
    with suppress(OSError):
        if data_hash(folder.resolve()) == data:
            return study
    found = bundle()
    if found is None:
        raise BlindError(
            f"node {socket.gethostname()} does not see the data in {folder}, or has others there"
        )
    return unpack(found)


def pack(params: Params, study: Path, most: int) -> Bundle:
    """Read a study's data and the user's modules, to send them where its folder is not seen.

    Args:
        params: of the study.
        study: its folder.
        most: bytes that may be sent.

    Raises:
        GateError: if there are more.

    """
    import numpy as np

    folders = [(f"data/{name}", (study / "data" / name).resolve(), "*") for name in params.datasets]
    if (code := user_code(params, study)) is not None:
        folders.append((params.code, code, "*.py"))
    paths = {
        f"{name}/{one.relative_to(folder).as_posix()}": one
        for name, folder, pattern in folders
        for one in folder.rglob(pattern)
        if one.is_file()
    }
    total = sum(one.stat().st_size for one in paths.values())
    if total > most:
        raise GateError(
            f"the data take {total / 1e9:.1f} GB, above the {most / 1e9:.1f} GB that travel to nodes; put "
            "the study's folder where all nodes see it, or have a clone of it at the same path on each, "
            "after `dvc pull`"
        )
    files = {name: np.frombuffer(one.read_bytes(), dtype=np.uint8) for name, one in sorted(paths.items())}
    hashes = {name: hashlib.sha256(content.tobytes()).hexdigest() for name, content in files.items()}
    digest = hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()
    return Bundle(digest, files, hashes)


def unpack(bundle: Bundle) -> Path:
    """Write a bundle to this machine's disk, once; every file is held against its hash.

    Raises:
        GateError: if a file is not what was sent.

    """
    study = _scratch() / bundle.digest
    for name, content in bundle.files.items():
        file = study / name
        if file.is_file() and _digest(file, file.stat().st_mtime_ns) == bundle.hashes[name]:
            continue
        written = bytes(content)
        if hashlib.sha256(written).hexdigest() != bundle.hashes[name]:
            raise GateError(f"node {socket.gethostname()}: {name} did not arrive as it was sent")
        write_atomically(file, written)
    return study


@cache
def _digest(file: Path, _as_of: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _scratch() -> Path:
    """A folder of our own on this machine's disk; another user's, or a link, is not taken for it.

    Raises:
        GateError: if somebody else has made it.

    """
    folder = Path(tempfile.gettempdir()) / f"lossbench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise GateError(f"{folder} is not a folder that is ours alone; remove it, or set TMPDIR")
    return folder


def _home(study: Path, job: Job) -> Path:
    if study == job.where.study:
        return job.where.home
    home = study / ".lossbench"
    home.mkdir(exist_ok=True)
    return home


_KNOWN: dict[tuple[str, str, Path], Facts] = {}


def facts_here(params: Params, arm: str, study: Path) -> Facts:
    """Say what decides an arm's bits on this machine; asked once for each arm."""
    key = (hashlib.sha256(repr(params).encode()).hexdigest(), arm, study)
    if key not in _KNOWN:
        _KNOWN[key] = facts(params, arm, study)
    return _KNOWN[key]


@dataclass
class Reporter:
    """Collects a job's news and sends them: the first at once, and no more messages than a job has seconds.

    Attributes:
        send: takes what has gathered.

    """

    send: Callable[[list[Any]], None]
    _gathered: list[Any] = field(default_factory=list)
    _due: float | None = None

    def __call__(self, news: Any) -> None:
        """Take note of one."""
        self._gathered.append(news)
        now = time.monotonic()
        if self._due is None or now >= self._due:
            first = self._due is None
            self.flush()
            self._due = now + MESSAGES * (2 if first else 1)  # the first came before its second

    def flush(self) -> None:
        """Send what is left; the next message is due when a job's second would be."""
        if left := self.rest():
            self.send(list(left))
            self._due = time.monotonic() + 2 * MESSAGES

    def rest(self) -> tuple[Any, ...]:
        """Hand over what is left, for whoever carries it otherwise."""
        left, self._gathered = tuple(self._gathered), []
        return left


@dataclass
class Account:
    """Jobs of an executor and what is known of them: nothing is told twice, nothing tried for ever."""

    waiting: deque[Job] = field(default_factory=deque)
    news: deque[Event] = field(default_factory=deque)
    say: Callable[[str], None] = print
    _lost: Counter[int] = field(default_factory=Counter)
    _told: dict[int, set[tuple[Any, ...]]] = field(default_factory=dict)

    def progress(self, job: Job, gathered: Sequence[Any]) -> None:
        """Tell what is new: a job that is tried again goes through epochs that were told before."""
        told = self._told.setdefault(id(job), set())
        for one in gathered:
            what = tuple(one[:3]) if one[0] == "epoch" else tuple(one[:2])
            if what not in told:
                told.add(what)
                self.news.append(Event(job, "progress", one))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Tell how a job went."""
        if outcome.interrupted:
            why = "" if outcome.error is None else f" ({outcome.error})"
            self.lost(job, f"was ended on {outcome.node}{why}")
            return
        self._forget(job)
        kind = "done" if outcome.error is None else "failed"
        self.news.append(Event(job, "done") if kind == "done" else Event(job, "failed", outcome.error))

    def lost(self, job: Job, how: str, hint: str = "") -> None:
        """Have a job tried again whose worker or node died, three times at most."""
        self._lost[id(job)] += 1
        count = self._lost[id(job)]
        if count < TRIES:
            self.say(f"the {job.label} {how}; it is tried again ({count} of {TRIES - 1})")
            self.waiting.append(job)
            return
        told = f"the {job.label} {how}, and so {TRIES} times{hint}"
        self._forget(job)
        self.news.append(Event(job, "failed", GateError(told)))

    def _forget(self, job: Job) -> None:
        """Forget a job that has ended: another that is made later may have its number."""
        self._told.pop(id(job), None)
        self._lost.pop(id(job), None)


MEMORY = f"; the nodes may be out of memory: {LESS_MEMORY}"
"""What may have killed a worker."""
