"""Ray clusters of simulated nodes, in a network that has ``lo`` alone: real jobs, and sleeping ones."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.fault_study import params
from benchmarks.small_study import fetch_data
from lossbench.execution.remote import Bundle, Outcome, Task
from lossbench.store import Store

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
INSIDE = "CLUSTER_BENCHMARK_NETWORK"
ARM = "digits-cross_entropy"
NEWS = 10
"""Epochs a second that a sleeping job tells."""
NODES, PROCESSORS = 4, 2
"""Simulated nodes that sleep, and processors of each."""
JOBS = 1000
AHEAD = 2
"""Tasks in Ray's hands for each that can run, as our executor has them."""
SLEEPS = 1.0
"""Seconds of a sleeping job."""
PATIENCE = 300.0
"""Seconds that a node has to start: a busy machine takes longer than the 30 that Ray gives it."""
KEPT = "CLUSTER_BENCHMARK_SLEEPS"


def within_own_network(module: str, arguments: list[str]) -> int:
    """Run a module again where nobody else reaches Ray, which listens on every interface; its exit code."""
    without = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    script = 'ip link set lo up && exec "$@"'
    command = [*without, "sh", "-c", script, "sh", sys.executable, "-m", module, *arguments]
    environment = {**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=False).returncode


@contextmanager
def cluster(nodes: int, processors: int) -> Iterator[Any]:
    """Start raylets on this machine, each for a node of its own; gives Ray's Cluster, the head first in it.

    Ray reads this process's environment, and takes its signals: one cluster at a time, from the main thread.
    """
    from ray._private import services
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="lb-") as folder:  # Ray's sockets want a short path
        environment = {
            "RAY_memory_monitor_refresh_ms": "0",  # the memory may be others', who are no reason to kill ours
            "RAY_worker_niceness": "0",
            "RAY_worker_register_timeout_seconds": f"{PATIENCE:.0f}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": folder,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        asked: Row = {"num_cpus": processors, "object_store_memory": 80_000_000}
        asked |= {"wait": False, "node_ip_address": "127.0.0.1"}
        head = {**asked, "include_dashboard": False}
        made = Cluster()
        with patch.dict(os.environ, environment):
            try:
                with patch.object(services, "get_node", _patient(services.get_node)):
                    for number in range(nodes):
                        made.add_node(**(asked if number else head))
                made.wait_for_nodes(PATIENCE)
                yield made
            finally:
                made.shutdown()


def on(made: Any) -> dict[str, str]:
    """Say in the environment's words that jobs are computed on a cluster."""
    return {"LOSSBENCH_EXECUTOR": "ray", "RAY_ADDRESS": str(made.address)}


def _patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Ask again until a node is there."""

    def asked(*arguments: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    return asked


def real_study(folder: Path, replicates: int, epochs: int) -> None:
    """Write a study of one arm whose replicates take as long as ``epochs`` asks for, and its data."""
    content = params()
    content["datasets"]["digits"].pop("subset")
    content["experiments"]["digits"]["recipe"]["epochs"] = epochs
    content["arms"] = {ARM: content["arms"][ARM]}
    content["losses"] = {"cross_entropy": content["losses"]["cross_entropy"]}
    content["seeds"] = list(range(replicates))
    fetch_data(folder, content)
    (folder / "reports/validation").mkdir(parents=True)


@contextmanager
def pinned(processors: int) -> Iterator[None]:
    """Have what starts in this block run on as many processors of this machine as a cluster's nodes have.

    A node whose Ray and driver ran on this machine's other processor would be none of one processor.
    """
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(ours)[:processors]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def trained(folder: Path, store: Path, where: Mapping[str, str]) -> Row:
    """Train the arm into a store of its own; seconds by the clock, the replicates' own, and their weights."""
    shutil.rmtree(folder / ".lossbench", ignore_errors=True)
    shutil.rmtree(folder / "models", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOSSBENCH_STORE": str(store), **where}
    began = time.perf_counter()
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "lossbench.stages.train", ARM]
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        code = child.wait()
    if code:
        raise RuntimeError(f"training ended with {code}: {(folder / 'log').read_text()[-3000:]}")
    seconds = time.perf_counter() - began
    kept = Store(str(store))
    found = {key: kept.get(kind, key) for kind, key in kept.entries() if kind == "replicates"}
    return {
        "seconds": seconds,
        "replicate_seconds": [float(one.content["seconds"]) for one in found.values() if one],
        "weights": {key: dict(one.files) for key, one in sorted(found.items()) if one},
    }


def scaling(folder: Path, replicates: int, epochs: int) -> list[Row]:
    """Train the same on one node of one processor, on two, and by the local executor."""
    study = folder / "study"
    real_study(study, replicates, epochs)
    rows = []
    for nodes in (1, 2):
        with pinned(nodes), cluster(nodes, 1) as made:
            where = on(made)
            rows.append(
                {"what": f"Ray, {nodes} × 1 processor", **trained(study, folder / f"on-{nodes}", where)}
            )
    local = trained(study, folder / "local", {"LOSSBENCH_EXECUTOR": "local"})
    return [*rows, {"what": "local executor", **local}]


def sleeping(*given: Any) -> Any:
    """Be what nodes run, but for the computing: a worker sleeps and tells of epochs."""
    from lossbench.execution import ray_worker

    with patch.object(ray_worker, "compute", _sleep):
        return ray_worker.serve_here(*given)


def _sleep(task: Task, emit: Callable[[Any], None], _bundle: Callable[[], Bundle | None]) -> Outcome:
    seed = task.job.members[0].seed  # type: ignore[union-attr]  # all of them train
    emit(("begun", seed, {}))
    for epoch in range(int(float(os.environ[KEPT]) * NEWS)):
        time.sleep(1 / NEWS)
        emit(("epoch", seed, epoch + 1, {"train/loss": 0.5, "validation/accuracy": 0.5}))
    emit(("finished", seed, ""))
    return Outcome(socket.gethostname())


def alone(jobs: int, seconds: float) -> Row:
    """Have Ray run as many tasks that only sleep: what the driver's processor does for Ray itself."""
    import ray

    def sleep(_number: int) -> None:
        time.sleep(seconds)

    task = ray.remote(num_cpus=1, max_retries=0)(sleep)
    running: list[Any] = [task.remote(number) for number in range(NODES * PROCESSORS)]
    ray.get(running)  # a worker's start is no part of a job
    cpu, began, handed, running = time.process_time(), time.perf_counter(), 0, []
    while handed < jobs or running:
        while handed < jobs and len(running) < AHEAD * NODES * PROCESSORS:
            running.append(task.remote(handed))
            handed += 1
        ready, running = ray.wait(running, num_returns=1)
        ray.get(ready)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    return {
        "what": "the same, as tasks of Ray without us",
        "seconds": wall,
        "processor_seconds": cpu,
        "driver_ms_a_job": 1000 * cpu / jobs,
    }


def many(folder: Path, jobs: int, seconds: float) -> list[Row]:
    """Hand sleeping jobs to the executor, and say what the driver's processor did; and for Ray alone."""
    import ray

    from lossbench.execution import ray_site
    from lossbench.execution.jobs import Train
    from lossbench.outs import Outs
    from lossbench.params import load_params
    from lossbench.training.member import Member

    content = params()
    fetch_data(folder, content)
    made, store = load_params(folder / "params.yaml"), Store(str(folder / "store"))
    os.environ |= {KEPT: str(seconds), "LOSSBENCH_STORE": store.address}
    messages = 0
    take = ray_site.RayExecutor._take  # what is counted is told to nobody else

    def counted(executor: ray_site.RayExecutor, batch: ray_site.Batch, gathered: Any) -> None:
        nonlocal messages
        messages += isinstance(gathered, list)  # what comes with a task's end is a tuple, and no message
        take(executor, batch, gathered)

    with cluster(NODES, PROCESSORS) as nodes, patch.dict(os.environ, on(nodes)):
        site = ray_site.RaySite(made, Outs(folder), store)
        where, recipe = site.where(), made.experiments["digits"].recipe
        waiting = [Train(where, made, ARM, recipe, (Member(seed),), (f"key{seed}",)) for seed in range(jobs)]
        with (
            patch.object(ray_site, "serve", ray.remote(sleeping)),
            patch.object(ray_site.RayExecutor, "_take", counted),
        ):
            executor = site.executor()
            cpu, began, done, epochs = time.process_time(), time.perf_counter(), 0, 0
            executor.submit(waiting)
            while (event := executor.next()) is not None:
                if event.kind == "failed":
                    raise event.content
                done += event.kind == "done"
                epochs += event.kind == "progress" and event.content[0] == "epoch"
            cpu, wall = time.process_time() - cpu, time.perf_counter() - began
            executor.cancel()
        without_us = alone(jobs, seconds)
        ray.shutdown()
    expected = jobs * int(seconds * NEWS)
    if (done, epochs) != (jobs, expected):
        raise RuntimeError(f"{done} of {jobs} jobs and {epochs} of {expected} epochs were told")
    ours = {
        "what": f"{jobs} jobs that sleep {seconds:g} s, on {NODES} × {PROCESSORS} processors",
        "seconds": wall,
        "processor_seconds": cpu,
        "driver_ms_a_job": 1000 * cpu / jobs,
        "messages_a_second_a_job": messages / (jobs * seconds),
    }
    return [ours, without_us]
