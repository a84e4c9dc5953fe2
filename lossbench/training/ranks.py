"""The processes of one replicate: started here, watched, and ended together.

They meet through a file and speak over the loopback interface alone, so nothing is open on the network. The
first of them leads. Whoever dies ends all: this process computes nothing and never waits for a message of
theirs, so it notices.
"""

import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from lossbench import gpus
from lossbench.errors import DiedError, GateError, UserError
from lossbench.lifetime import die_with_parent
from lossbench.recipe import Compute
from lossbench.system import peak_memory
from lossbench.training.checkpoint import Checkpoint
from lossbench.training.interruption import EXIT_CODE, Interruption
from lossbench.training.member import Member
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting

MODULE = "lossbench.training.rank"
"""What each process runs."""
POLL = 0.2
"""Seconds between two looks at whether training is to end."""
FAREWELL = 2.0
"""Seconds that the others have to say what happened, once one has gone."""
ENDING = 10.0
"""Seconds that they have to end by themselves when all is done."""
STANDS = 10.0
"""Seconds after which it is said that a process has been stopped."""
INTERFACE = "lo"


@dataclass(frozen=True)
class Request:
    """What a process is to do.

    Attributes:
        prepare: makes the setting, from the data's folder.
        own: what of the setting is this arm's own.
        member: who is trained.
        checkpoint: the leading process's.
        rank: of the process.
        meeting: a file that does not exist yet.
        memory: share of its GPU's memory that a process may take.

    """

    prepare: Callable[[], Setting]
    own: Mapping[str, Any]
    member: Member
    checkpoint: Checkpoint | None
    rank: int
    meeting: Path
    memory: float | None

    def setting(self) -> Setting:
        """Prepare what is trained."""
        return replace(self.prepare(), **self.own)


@dataclass
class _Rank:
    process: "subprocess.Popen[bytes]"
    pipe: Connection
    sentinel: int
    peak: int = 0
    error: Exception | None = None
    lost: bool = False
    """Whether all that it knows is that another has gone."""


def train_in_ranks(
    setting: Setting,
    member: Member,
    emit: Callable[[tuple[int, dict[str, float]]], None],
    checkpoint: Checkpoint | None,
    interruption: Interruption,
    memory: Callable[[int], None],
) -> Replicate:
    """Train one replicate in ``compute.processes`` processes.

    Args:
        setting: the arm, from :func:`lossbench.training.setting.prepare`.
        member: the seed, and what it has of its own.
        emit: told (epoch, values) after each epoch.
        checkpoint: where an interrupted training left its state, and leaves it again.
        interruption: looked at all the time; the leading process writes its state, then SystemExit is raised.
        memory: told the bytes that this process and those that it started have held at most.

    Raises:
        UserError: if there are fewer GPUs than processes, or the model cannot be divided.
        DiedError: if a process has died.

    """
    with _started(setting, member, checkpoint) as ranks:
        return _Watch(ranks, member.seed, emit, interruption, memory).result()


@contextmanager
def _started(setting: Setting, member: Member, checkpoint: Checkpoint | None) -> Iterator[list[_Rank]]:
    """Start all processes; none of them outlives this block."""
    if setting.again is None:
        raise ValueError("a setting that prepare() has not made cannot be prepared in other processes")
    compute, own = setting.compute, {}
    for name in ("task", "network", "recipe", "loss", "compute"):
        own[name] = getattr(setting, name)
    devices = _devices(compute)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lossbench-ranks-")))
        ranks: list[_Rank] = []
        stack.callback(_end, ranks)
        for number in range(compute.processes):
            kept = checkpoint if number == 0 else None
            request = Request(setting.again, own, member, kept, number, folder / "meeting", _memory(compute))
            one = _start(compute, devices[number])
            ranks.append(one)
            with suppress(BrokenPipeError):  # it has died already: whoever watches is told
                one.pipe.send_bytes(pickle.dumps(request))
        yield ranks


def _devices(compute: Compute) -> list[Mapping[str, str]]:
    """Say which GPU each process sees, and by which variable.

    Raises:
        UserError: if there are too few.

    """
    if compute.device != "cuda":
        return [{}] * compute.processes
    names = gpus.ours()
    if len(names) < compute.processes:
        raise UserError(
            f"'compute.processes' is {compute.processes}, which on 'cuda' takes a GPU each; found here: "
            f"{len(names)}"
        )
    return [{gpus.VISIBLE: name} for name in names[: compute.processes]]


def _memory(compute: Compute) -> float | None:
    import torch

    return torch.cuda.get_per_process_memory_fraction() if compute.device == "cuda" else None


def _start(compute: Compute, device: Mapping[str, str]) -> _Rank:
    here, there = Pipe()
    with there:
        environment = {
            **os.environ,
            **device,
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "NCCL_SOCKET_IFNAME": INTERFACE,
            "OMP_NUM_THREADS": str(compute.threads),
            "PYTHONPATH": os.pathsep.join(sys.path),  # the user's own modules stand there too
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(there.fileno())],
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            process_group=0,
            # The child makes system calls alone between fork and exec, by a loaded library.
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
    return _Rank(process, here, os.pidfd_open(process.pid))


def _end(ranks: list[_Rank]) -> None:
    """End what still runs, at once."""
    for one in ranks:
        with suppress(ProcessLookupError):
            one.process.kill()
    for one in ranks:
        one.process.wait()
        one.pipe.close()
        os.close(one.sentinel)


def _is_stopped(child: int) -> bool:
    """Whether somebody has stopped a child of ours."""
    try:
        return os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it has ended, and nobody has asked for its exit code yet
        return False


@dataclass
class _Watch:
    """Hears the processes of a replicate until they have ended."""

    ranks: list[_Rank]
    seed: int
    emit: Callable[[tuple[int, dict[str, float]]], None]
    interruption: Interruption
    memory: Callable[[int], None]
    made: Replicate | None = None
    asked: bool = False
    open: list[_Rank] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)
    """Number of a process that was stopped → since when."""

    def result(self) -> Replicate:
        """Wait for the replicate.

        Raises:
            SystemExit: if training was asked to end; its state is written.
            UserError: a process's own.
            GateError: likewise.
            DiedError: if one has died.

        """
        self.open = list(self.ranks)
        running = list(self.ranks)
        deadline = float("inf")
        while running and time.monotonic() < deadline:
            self._look(running)
            self._tell_of_stopped(running)
            for one in [each for each in running if each.process.poll() is not None]:
                self._hear(one)
                running.remove(one)
                if one.process.returncode or one.error is not None:
                    deadline = min(deadline, time.monotonic() + FAREWELL)
            if self.made is not None:
                deadline = min(deadline, time.monotonic() + ENDING)
            if self.asked and self.ranks[0] not in running:  # its state is written
                break
        if self.made is not None:
            return self.made
        if self.asked and self.ranks[0].process.poll() == EXIT_CODE:
            raise SystemExit(EXIT_CODE)
        raise self._why()

    def _look(self, running: list[_Rank]) -> None:
        """Wait for news a moment."""
        if self.interruption.asked:  # again and again: before it trains, the leading process does not listen
            self.asked = True
            self.ranks[0].process.terminate()
        ready = wait([*(one.pipe for one in self.open), *(one.sentinel for one in running)], POLL)
        for one in [each for each in self.open if each.pipe in ready]:
            self._hear(one)

    def _tell_of_stopped(self, running: Sequence[_Rank]) -> None:
        """Say once of each process that somebody has stopped (SIGSTOP) that all wait for it."""
        for number in (one.process.pid for one in running):
            if not _is_stopped(number):
                self.stopped.pop(number, None)
            elif time.monotonic() - self.stopped.setdefault(number, time.monotonic()) >= STANDS:
                self.stopped[number] = math.inf
                print(
                    f"warning: process {number}, one of {self._who}, was stopped, and the others wait; "
                    f"`kill -CONT {number}` lets it go on",
                    file=sys.stderr,
                )

    def _hear(self, one: _Rank) -> None:
        """Take all that a process has said."""
        try:
            while one in self.open and one.pipe.poll():
                self._take(one, *pickle.loads(one.pipe.recv_bytes()))  # noqa: S301  # our own bytes
        except (EOFError, OSError):
            self.open.remove(one)

    def _take(self, one: _Rank, kind: str, content: Any) -> None:
        match kind:
            case "epoch":
                self.emit(content)
            case "memory":
                one.peak = max(one.peak, content)
                self.memory(peak_memory() + sum(each.peak for each in self.ranks))
            case "done":
                self.made = content
            case "failed" | "lost":
                one.error, one.lost = content, kind == "lost"

    def _why(self) -> Exception:
        """Say what ended them: a process's own sentence, a death, another error, a lost connection."""
        told = [one.error for one in self.ranks if isinstance(one.error, UserError | GateError)]
        dead = [one for one in self.ranks if one.error is None and one.process.poll()]
        other = [one.error for one in self.ranks if one.error is not None and not one.lost]
        if told:
            return told[0]
        if dead:
            return DiedError(self._died(dead[0]))
        if other:
            return other[0]
        lost = " ".join(str(one.error).splitlines()[0] for one in self.ranks if one.error is not None)
        return DiedError(f"{self._who} lost one another ({lost}); run the same again")

    @property
    def _who(self) -> str:
        return f"the {len(self.ranks)} processes that train seed {self.seed}"

    def _died(self, one: _Rank) -> str:
        code = one.process.returncode
        how = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.Signals(-code).name})"
        memory = code == -signal.SIGKILL
        hint = (
            "; the machine may be out of memory: lower 'recipe.batch_size' or run fewer jobs"
            if memory
            else ""
        )
        return (
            f"one of {self._who} ended by {how}, and the others with it{hint}; run the same again: it goes "
            "on from its last checkpoint"
        )
