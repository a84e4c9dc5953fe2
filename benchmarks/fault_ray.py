"""Faults on a Ray cluster of two nodes of one processor each: worker, node, driver or head is killed."""

import importlib.util
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from benchmarks.cluster_ray import cluster, on
from benchmarks.fault_study import REPRO, Inject, Kind, Study, end, family, left_running

ON_RAY = "on a Ray cluster"
"""What all these kinds are called by."""
NODES = 2
SERVES = "ray::serve_here"
"""What Ray calls a process that computes a job."""
LONGEST = 600.0
"""Seconds that a run may take."""
LATEST = 0.95
"""Share of the undisturbed run's seconds by when harm comes."""
Strike = Callable[[Any, "subprocess.Popen[bytes]"], int | None]
"""Kills something of a cluster on which a command runs; returns how many processes outlived it.

None: the run was over before anything could be killed.
"""


def serving() -> list[psutil.Process]:
    """List the processes on our nodes that compute a job; they are descendants of ours."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended just now
            if "".join(one.cmdline()[:1]).startswith(SERVES):
                found.append(one)
    return found


def kill_worker(nodes: Any, running: "subprocess.Popen[bytes]") -> int | None:
    """Kill a process that computes a job; where there is none just now, the next one."""
    del nodes
    while running.poll() is None:
        if found := serving():
            found[0].kill()
            return 0
        time.sleep(0.05)
    return None


def kill_node(nodes: Any, running: "subprocess.Popen[bytes]") -> int:
    """Kill the node that is not the driver's: Ray's own processes there, and those that compute."""
    del running
    (node,) = nodes.worker_nodes
    return _kill(nodes, node)


def kill_head(nodes: Any, running: "subprocess.Popen[bytes]") -> int:
    """Kill the head, and what computes there; Ray ends the driver and the other node for want of it."""
    del running
    return _kill(nodes, nodes.head_node)


def _kill(nodes: Any, node: Any) -> int:
    processes = [psutil.Process(one.process.pid) for all_of in node.all_processes.values() for one in all_of]
    everyone = [*processes, *(child for one in processes for child in one.children(recursive=True))]
    for one in everyone:
        with suppress(psutil.NoSuchProcess):  # it ended with another
            one.kill()
    nodes.remove_node(node, allow_graceful=False)
    return left_running(everyone)


def kill_driver(nodes: Any, running: "subprocess.Popen[bytes]") -> int:
    """Kill the command and all that it started; what it had workers compute has to end by itself."""
    del nodes
    children = [*family(running), *serving()]
    end(running)
    return left_running(children)


def killing(strike: Strike, until: float = LATEST) -> Inject:
    """Kill something at a random moment of `make repro` on a cluster of the trial's own."""

    def inject(study: Study, chance: random.Random) -> int:
        nodes = study.companions.enter_context(cluster(NODES, 1))
        return _struck(study, chance, strike, nodes, until)

    return inject


def losing_the_head(study: Study, chance: random.Random) -> int:
    """Kill the head, with which its cluster is gone: for the recovery there is another one."""
    with cluster(NODES, 1) as nodes:
        left = _struck(study, chance, kill_head, nodes)
    study.environment |= on(study.companions.enter_context(cluster(NODES, 1)))
    return left


def _struck(study: Study, chance: random.Random, strike: Strike, nodes: Any, until: float = LATEST) -> int:
    study.environment |= on(nodes)
    process = study.start(*REPRO)
    try:
        time.sleep(chance.uniform(0.05, until) * study.repro_seconds)  # on Ray a run takes longer than that
        left = None if process.poll() is not None else strike(nodes, process)
        process.wait(timeout=LONGEST)
    finally:
        end(process)
    study.late = left is None
    return left or 0


def missing() -> str:
    """Say what is not installed; empty where everything is."""
    return "" if importlib.util.find_spec("ray") else "ray not installed: make cluster"


def kinds() -> list[Kind]:
    """List a kind for a worker, a node, the driver and the head."""
    struck: dict[str, Inject] = {
        "worker": killing(kill_worker, 0.5),  # later there may be none: arms are collected
        "node": killing(kill_node),
        "driver": killing(kill_driver),
        "head": losing_the_head,
    }
    return [
        Kind(f"{name} killed, {ON_RAY}", "ready", inject, missing=missing, alone=True)
        for name, inject in struck.items()
    ]
