"""Jobs as tasks of a Ray cluster: ``RAY_ADDRESS`` says which.

Nodes are asked first what decides bits there. Those that differ from the driver's are named and get no job.
Results go to the shared store, news through one actor, at most one message a second a job; what dies is tried
again. Ray's own frames reach nobody.
"""

import math
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lossbench.backing import absolute
from lossbench.errors import GateError, UserError
from lossbench.execution.jobs import Event, Job, Score, Train, Where
from lossbench.execution.ray_worker import Common, Ending, News, Parcel, Seen, look, serve
from lossbench.execution.remote import (
    MEMORY,
    TRIES,
    Account,
    BlindError,
    Facts,
    NodeError,
    Outcome,
    Task,
    arm_of,
    differences,
    facts,
    pack,
)
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.store import Store
from lossbench.telling import LESS_MEMORY

ADDRESS = "RAY_ADDRESS"
GPU_SHARE = "LOSSBENCH_GPU_SHARE"
TRAVELS = 10**9
"""Bytes of data that are sent to nodes which do not see the study's folder."""
PATIENCE = 300.0
"""Seconds that a node has to answer what decides bits there: it may have to start a process first."""
KNOCK = 10.0
"""Seconds that the head's port has to take a connection."""
GRACE = 10.0
"""Seconds that tasks have to write their checkpoints when training is ended."""
LONGEST = 300
"""Characters of what Ray says that are told."""
COUNTED = 5.0
"""Seconds between two looks at which nodes there are."""
AHEAD = 2
"""Tasks in Ray's hands for each that can run."""
TOGETHER = 10.0
"""Seconds that several jobs of a task take at most: what Ray does for a task is done once for them."""
SHARES = 4
"""Parts of what waits, for each task that can run, of which a task takes one: or one node would have several
jobs before it while others have none."""
GONE = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OwnerDiedError,
    exceptions.ObjectLostError,
    exceptions.RaySystemError,
)
"""What Ray says of a worker or node that died, or was ended."""
NOBODY = "no node of the cluster is left that computes what is wanted here"
UNSET = (
    f"{ADDRESS} is not set; allowed: host:port of the cluster's head, as `ray start --head` prints it, or "
    "'auto' on one of its nodes"
)


@dataclass
class RaySite:
    """A cluster; it is connected to when it is needed."""

    params: Params
    outs: Outs
    store: Store

    def __post_init__(self) -> None:
        address = os.environ.get(ADDRESS, "")
        if not address:
            raise UserError(UNSET)
        if address.startswith("ray://"):
            raise UserError(
                f"{ADDRESS} is '{address}', for Ray's client; allowed: host:port of the head, from a machine "
                "of the cluster (`ray job submit` starts a driver there)"
            )
        self._share = gpu_share(self.params.compute.processes)

    @property
    def workers(self) -> int:
        """Jobs at a time, on nodes whose bits are ours."""
        return max(1, sum(self._cluster.seats.values()))

    def where(self) -> Where:
        """Where the study lies; a worker that does not see it makes its own."""
        share = math.ceil(1 / self._share)
        return Where(self.outs.study.resolve(), self.outs.home.resolve(), absolute(self.store.address), share)

    def executor(self) -> "RayExecutor":
        """Make an executor."""
        return RayExecutor(self._cluster)

    @cached_property
    def _cluster(self) -> "Cluster":
        return Cluster(self.params, self.where(), self.store.identify(), self._share)


def gpu_share(processes: int = 1) -> float:
    """Part of a GPU that a job takes, by ``LOSSBENCH_GPU_SHARE``; small nets may share one.

    Args:
        processes: of a replicate; several take a whole GPU each.

    Raises:
        UserError: if it is no such part.

    """
    text = os.environ.get(GPU_SHARE, "1")
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"{GPU_SHARE} is '{text}'; allowed: a part of a GPU, above 0 and up to 1")
    if processes > 1 and share < 1:
        raise UserError(
            f"{GPU_SHARE} is '{text}', but 'compute.processes' is {processes}, which take a whole GPU each; "
            "allowed with it: 1"
        )
    return share


def tell(sentence: str) -> None:
    """Say on standard error what a person may want to know."""
    print(f"warning: {sentence}", file=sys.stderr)


class Cluster:
    """A connection, and the nodes that may compute.

    Args:
        params: of the study.
        where: it lies.
        store: its id.
        share: part of a GPU that a job takes.

    Raises:
        UserError: if no cluster answers at the address.
        GateError: if no node's bits would be the driver's.

    """

    def __init__(self, params: Params, where: Where, store: str, share: float) -> None:
        self.params, self.where, self.store = params, where, store
        compute = params.compute
        self.processors = compute.threads * compute.processes
        self.demand: dict[str, Any] = {"num_cpus": self.processors, "max_retries": 0}
        if compute.device == "cuda":
            self.demand["num_gpus"] = share if compute.processes == 1 else compute.processes
        connect()
        self._facts: dict[str, Facts] = {}
        self.bundle: Any = None
        self.seats: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self._examine()

    def facts(self, arm: str) -> Facts:
        """What decides an arm's bits at the driver."""
        if arm not in self._facts:
            self._facts[arm] = facts(self.params, arm, self.where.study)
        return self._facts[arm]

    def refuse(self, node: str, why: str) -> None:
        """Give a node no more jobs.

        Raises:
            GateError: if none is left.

        """
        self.seats.pop(node, None)
        self.refused[node] = why
        tell(f"{why}; it gets no job")
        if not self.seats:
            raise GateError(f"{NOBODY}: {why}")

    def count(self) -> None:
        """Go by the nodes that are there now: some have died, others came, where a job looks before it runs.

        Where nodes were refused, jobs go to named ones only, and none of these is added.

        Raises:
            GateError: if none of these is left.

        """
        known, self.seats = self.seats, self._living()
        if self.refused:
            self.seats = {node: seats for node, seats in self.seats.items() if node in known}
            if not self.seats:
                raise GateError(
                    "no node is left that computes the bits that are wanted here; run the same again"
                )

    def send(self) -> None:
        """Have the study's files travel to whoever does not see its folder."""
        if self.bundle is None:
            self.bundle = ray.put(pack(self.params, self.where.study, TRAVELS))

    def options(self) -> dict[str, Any]:
        """What a task asks for: processors, GPUs, and to keep away from refused nodes."""
        if not self.refused:
            return self.demand
        return {**self.demand, "label_selector": {"ray.io/node-id": f"in({','.join(self.seats)})"}}

    def _examine(self) -> None:
        """Ask all nodes what decides bits there."""
        self.seats = self._living()
        if not self.seats:
            gpus = self.demand.get("num_gpus")
            raise GateError(
                f"no node of the cluster has the {self.processors} processors that 'compute.threads' and "
                f"'compute.processes' ask for{f', and {gpus:g} of a GPU' if gpus else ''}"
            )
        names = {one["NodeID"]: one["NodeManagerHostname"] for one in ray.nodes()}
        seen = self._look(list(self.seats))
        blind = [node for node, one in seen.items() if isinstance(one, Seen) and one.facts is None]
        if blind:
            try:
                self.send()
                seen |= self._look(blind)
            except GateError as error:  # those that see the folder need nothing sent
                seen |= dict.fromkeys(blind, said(error))
        for node, one in seen.items():
            if why := self._objection(names[node], one):
                self.refuse(node, why)

    def _living(self) -> dict[str, int]:
        """Say for how many jobs each node that lives has room; those that have none for any are left out."""
        asked = {"CPU": self.processors, "GPU": self.demand.get("num_gpus", 0)}
        room = {
            one["NodeID"]: min(
                int(one["Resources"].get(kind, 0) / much + 1e-9) for kind, much in asked.items() if much
            )
            for one in ray.nodes()
            if one["Alive"]
        }
        return {node: seats for node, seats in room.items() if seats}

    def _look(self, nodes: Sequence[str]) -> dict[str, "Seen | str"]:
        arm = next(iter(self.params.arms))
        ours = self.facts(arm)
        asked = {
            node: look.options(
                num_cpus=0,
                max_retries=TRIES - 1,
                num_gpus=self.demand.get("num_gpus", 0),
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote(self.params, arm, self.where, ours.data, [self.bundle])
            for node in nodes
        }
        return {node: answer(ref) for node, ref in asked.items()}

    def _objection(self, name: str, seen: "Seen | str") -> str:
        if isinstance(seen, str):
            return f"node {name}: {seen}"
        if seen.facts is None:
            return f"node {name} does not see the study's data"
        if told := differences(self.facts(next(iter(self.params.arms))), seen.facts):
            return f"node {name} would compute other bits: {'; '.join(told)}"
        if seen.store != self.store:
            return (
                f"node {name} does not see the same store; set LOSSBENCH_STORE to a folder or an address "
                "that all nodes see"
            )
        return ""


def kind_of(job: Job) -> tuple[Any, ...]:
    """Say which jobs take about as long as this one."""
    what = (job.recipe.epochs, len(job.members)) if isinstance(job, Train) else ()
    return (arm_of(job), type(job), *what)


def answer(ref: Any) -> "Seen | str":
    """Wait for what a node says, or say why it does not."""
    try:
        seen: Seen = ray.get(ref, timeout=PATIENCE)
    except exceptions.GetTimeoutError:
        return f"no answer within {PATIENCE:.0f} s"
    except exceptions.OutOfMemoryError:
        return f"killed when it was asked, for its memory is full; {LESS_MEMORY}"
    except exceptions.RayTaskError as error:
        return said(error.cause or error)
    except exceptions.RayError as error:
        return said(error)
    return seen


def said(error: BaseException) -> str:
    """What an exception says, in a line, without Ray's frames; a sentence of ours is that alone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1][:LONGEST] if lines else ""
    if isinstance(error, UserError | GateError):
        return last
    return f"{type(error).__name__}: {last}".rstrip(": ")


def connect() -> None:
    """Connect to the cluster, once.

    Raises:
        UserError: if none answers.

    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is computed here
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")  # tries of 40 s each, else 20
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    address = os.environ[ADDRESS]
    try:
        knock(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=None)
    except (OSError, RuntimeError, ValueError, exceptions.RayError) as error:
        raise UserError(
            f"{ADDRESS} is '{address}', where no cluster takes us ({said(error)}); allowed: host:port of the "
            "cluster's head, of the same versions of Ray and Python"
        ) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def knock(address: str) -> None:
    """Find out whether anybody listens; Ray itself would ask for a quarter of an hour.

    Raises:
        OSError: if nobody does.

    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():  # else 'auto', which Ray finds by itself, or nothing it knows
        socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()


@dataclass
class Batch:
    """Jobs that a task computes, one after another.

    Attributes:
        jobs: in their order.
        ended: how many have; the next is what the task is at.
        heard: messages that came.

    """

    jobs: list[Job]
    ended: int = 0
    heard: int = 0

    @property
    def left(self) -> list[Job]:
        """Those that have not ended."""
        return self.jobs[self.ended :]


@dataclass
class RayExecutor:
    """Runs jobs as tasks; several short ones as one.

    Attributes:
        cluster: where.

    """

    cluster: Cluster
    _account: Account = field(default_factory=lambda: Account(say=tell))
    _running: dict[Any, int] = field(default_factory=dict)
    _batches: dict[int, Batch] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)
    _seconds: dict[tuple[Any, ...], float] = field(default_factory=dict)
    _pull: Any = None
    _asked: tuple[dict[str, Any], Any] | None = None
    _common: dict[str, tuple[Common, Any]] = field(default_factory=dict)
    _due: float = field(default_factory=lambda: time.monotonic() + COUNTED)
    """When the nodes are counted again."""

    def __post_init__(self) -> None:
        here = ray.get_runtime_context().get_node_id()
        near = NodeAffinitySchedulingStrategy(here, soft=True)
        self._channel = News.options(scheduling_strategy=near).remote()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs."""
        self._account.waiting.extend(jobs)

    def next(self) -> Event | None:
        """Hand out what there is room for, and wait for news."""
        while not self._account.news:
            self._begin()
            if self._account.news:
                break
            if not self._running:
                return None
            self._pull = self._pull or self._channel.pull.remote()
            ready, _ = ray.wait([self._pull, *self._running], num_returns=1, timeout=5)
            if self._pull in ready:
                self._hear()
            for ref in ready:
                if ref in self._running:
                    self._end(ref, self._running.pop(ref))
        return self._account.news.popleft()

    def cancel(self) -> None:
        """End what runs; those that train have time to write their checkpoints."""
        self._account.waiting.clear()
        refs = list(self._running)
        for ref in refs:
            ray.cancel(ref)
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=GRACE)
        for ref in refs:
            ray.cancel(ref, force=True)
        self._running.clear()
        ray.kill(self._channel)

    def _begin(self) -> None:
        if time.monotonic() >= self._due:
            self.cluster.count()
            self._due = time.monotonic() + COUNTED
        if self.cluster.refused and not self.cluster.seats:
            self._give_up()
        room = AHEAD * max(1, sum(self.cluster.seats.values()))
        while self._account.waiting and len(self._running) < room:
            number, batch = next(self._numbers), self._batch()
            self._batches[number] = batch
            tasks = [self._task(job) for job in batch.jobs]
            written = pickle.dumps([Parcel.of(task) for task in tasks])
            self._running[self._serve().remote(number, written, self._common_of(tasks[0]))] = number

    def _batch(self) -> Batch:
        """Take the next job; with others of its kind where those that ended were short and many wait."""
        waiting = self._account.waiting
        jobs = [waiting.popleft()]
        kind = kind_of(jobs[0])
        longest = self._seconds.get(kind, TOGETHER)
        share = len(waiting) // (SHARES * max(1, sum(self.cluster.seats.values())))
        while waiting and len(jobs) < min(share, TOGETHER / longest) and kind_of(waiting[0]) == kind:
            jobs.append(waiting.popleft())
        return Batch(jobs)

    def _common_of(self, task: Task) -> Any:
        """Refer to what travels once for an arm's jobs; put anew only where it has changed."""
        wanted = Common(task.job.params, task.facts, task.store, self._channel, self.cluster.bundle)
        known = self._common.get(task.arm)
        if known is None or known[0].params is not wanted.params or known[0].bundle is not wanted.bundle:
            known = self._common[task.arm] = wanted, ray.put(wanted)
        return known[1]

    def _serve(self) -> Any:
        """What is run, with what it asks for; made anew only where that has changed."""
        options = self.cluster.options()
        if self._asked is None or self._asked[0] != options:
            self._asked = options, serve.options(**options)
        return self._asked[1]

    def _give_up(self) -> None:
        """Tell all jobs that wait that no node is left for them."""
        why = "; ".join(self.cluster.refused.values())
        while self._account.waiting:
            self._account.ended(self._account.waiting.popleft(), Outcome("", GateError(f"{NOBODY}: {why}")))

    def _task(self, job: Job) -> Task:
        arm = arm_of(job)
        weights = None
        if isinstance(job, Score) and not isinstance(job.weights, str):
            weights = job.weights.read_bytes()
        return Task(job, arm, self.cluster.facts(arm), self.cluster.store, weights)

    def _hear(self, all_of_them: bool = False) -> None:
        """Take the news that have arrived; or all, those on their way included."""
        rest = self._channel.drain.remote() if all_of_them else None
        for ref in (self._pull, rest):
            if ref is not None:
                for number, gathered in ray.get(ref):
                    batch = self._batches.get(number)
                    if batch is not None:  # of a task that was lost meanwhile its jobs are done once more
                        batch.heard += 1
                        self._take(batch, gathered)
        self._pull = None

    def _take(self, batch: Batch, gathered: Sequence[tuple[int, Any]]) -> None:
        """Take what a task told of its jobs."""
        for at, news in gathered:
            job = batch.jobs[at]
            if isinstance(news, Outcome):
                batch.ended = at + 1
                kind = kind_of(job)
                self._seconds[kind] = max(news.seconds, self._seconds.get(kind, 0.001))
                self._over(job, news)
            else:
                self._account.progress(job, [news])

    def _end(self, ref: Any, number: int) -> None:
        batch = self._batches[number]
        try:
            ending: Ending = ray.get(ref)
        except exceptions.OutOfMemoryError:
            self._lose(batch, "was killed, for its node was out of memory")
        except exceptions.RayTaskError as error:  # of our own carrying; `compute` returns what a job raises
            why = said(error.cause or error)
            self._fail(batch, lambda _: RuntimeError(why))
        except GONE:
            self._lose(batch, "was lost with its worker or node")
            self.cluster.count()
        except exceptions.RayError as error:
            why = said(error)
            self._fail(batch, lambda job: GateError(f"the {job.label}: {why}"))
        else:
            if batch.heard < ending.messages:
                self._hear(all_of_them=True)
            self._take(batch, ending.news)
            self._account.waiting.extendleft(reversed(batch.left))  # not begun: one was asked to end
        del self._batches[number]

    def _lose(self, batch: Batch, how: str) -> None:
        if (at := self._broken_off(batch)) is not None:
            self._account.lost(at, how, MEMORY)

    def _fail(self, batch: Batch, error: Callable[[Job], Exception]) -> None:
        if (at := self._broken_off(batch)) is not None:
            self._account.ended(at, Outcome("", error(at)))

    def _broken_off(self, batch: Batch) -> Job | None:
        """Name the job that a task was at when it ended; what it had not begun is done by another."""
        self._hear(all_of_them=True)
        left = batch.left
        self._account.waiting.extendleft(reversed(left[1:]))
        return left[0] if left else None

    def _over(self, job: Job, outcome: Outcome) -> None:
        if not isinstance(outcome.error, NodeError):
            self._account.ended(job, outcome)
            return
        if outcome.node not in self.cluster.refused:  # it came since the nodes were asked, or was edited
            try:
                self._part_with(outcome.node, outcome.error)
            except GateError as error:
                self._account.ended(job, Outcome(outcome.node, error))
                return
        self._account.waiting.append(job)

    def _part_with(self, node: str, error: NodeError) -> None:
        """Give a node no more jobs; one that only lacks the study's files has them sent with the next.

        Raises:
            GateError: if no node is left.

        """
        why = str(error)
        if isinstance(error, BlindError):
            try:
                return self.cluster.send()
            except GateError as too_large:
                why = f"{why}: {too_large}"
        return self.cluster.refuse(node, why)
