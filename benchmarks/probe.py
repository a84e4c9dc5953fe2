"""Sees every Python process of a command from within, for benchmarks.overhead.

`site_folder` writes a `sitecustomize` module to be put on PYTHONPATH: each process then appends one line when
it ends: what it ran, when it was born and ended, its processor time and its children's, and what its imports
took.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = "LOSSBENCH_PROBE"
CODE = """
import atexit, builtins, importlib, json, os, resource, sys, threading, time

_main, _state = threading.main_thread(), {"depth": 0, "seconds": 0.0, "cpu": 0.0}


def _timed(call):
    def wrapped(*arguments, **options):
        if threading.current_thread() is not _main or _state["depth"]:
            return call(*arguments, **options)
        _state["depth"] = 1
        began, spent = time.perf_counter(), time.process_time()
        try:
            return call(*arguments, **options)
        finally:
            _state["depth"] = 0
            _state["seconds"] += time.perf_counter() - began
            _state["cpu"] += time.process_time() - spent

    return wrapped


def _born():
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _write(born=_born(), pid=os.getpid()):
    if os.getpid() != pid:
        return
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = {
        "argv": sys.orig_argv[1:], "born": born, "ended": time.time(), "imports": _state["seconds"],
        "cpu": time.process_time(), "imports_cpu": _state["cpu"], "cwd": os.getcwd(),
        "children_cpu": children.ru_utime + children.ru_stime, "pid": pid, "parent": os.getppid(),
        "torch": "torch" in sys.modules,
    }
    file = os.open(os.environ["LOSSBENCH_PROBE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (json.dumps(line) + "\\n").encode())
    os.close(file)


if "LOSSBENCH_PROBE" in os.environ:
    builtins.__import__ = _timed(builtins.__import__)
    importlib.import_module = _timed(importlib.import_module)
    atexit.register(_write)
"""

STARTED = {
    "workers": "multiprocessing.forkserver",
    "validation": "multiprocessing.spawn",
    "resource tracker": "multiprocessing.resource_tracker",
}
"""What `multiprocessing` starts, by the module that it runs; workers are forked from the first."""


@dataclass(frozen=True)
class Process:
    """One process: its arguments, when it lived (seconds since the epoch), what it spent.

    Attributes:
        argv: without the interpreter.
        born: seconds since the epoch.
        ended: likewise.
        imports: seconds of import statements, by the clock.
        cpu: processor seconds.
        imports_cpu: processor seconds of import statements.
        children_cpu: processor seconds of all its descendants that have ended.
        pid: its number.
        parent: its parent's number.
        torch: whether it imported torch.

    """

    argv: tuple[str, ...]
    born: float
    ended: float
    imports: float
    cpu: float
    imports_cpu: float
    children_cpu: float = 0.0
    pid: int = 0
    parent: int = 0
    torch: bool = False

    @property
    def wall(self) -> float:
        """Seconds from birth to end."""
        return self.ended - self.born

    @property
    def module(self) -> str:
        """Name what it ran: `stages.train`, `dvc`, the workers' server, or the program's name."""
        if "-m" in self.argv:
            return self.argv[self.argv.index("-m") + 1].removeprefix("lossbench.")
        code = self.argv[self.argv.index("-c") + 1] if "-c" in self.argv[:-1] else ""
        for name, started in STARTED.items():
            if started in code:
                return name
        return Path(self.argv[0]).name if self.argv else Path(sys.executable).name


def site_folder(folder: Path) -> dict[str, str]:
    """Write the module into ``folder``; return the environment that makes processes load it."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(CODE, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder), LOG: str(folder / "log.jsonl")}


def read(folder: Path) -> list[Process]:
    """Read what the processes wrote, in the order of their births."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    keys = ("born", "ended", "imports", "cpu", "imports_cpu", "children_cpu")
    made = [
        Process(
            tuple(one["argv"]), *(float(one[key]) for key in keys), one["pid"], one["parent"], one["torch"]
        )
        for one in found
    ]
    return sorted(made, key=lambda one: one.born)


def workers_cpu(one: Process, processes: Sequence[Process]) -> float:
    """Processor seconds of a process's descendants that wrote no line of their own: its forked workers."""
    wrote = sum(other.cpu + other.children_cpu for other in processes if other.parent == one.pid)
    return max(0.0, one.children_cpu - wrote)
