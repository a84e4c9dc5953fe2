"""How long a process lives: no longer than whoever started it, and no longer than its work."""

import atexit
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1
LIBRARY = ctypes.CDLL(None, use_errno=True)
"""Loaded before any fork: between fork and exec nothing may wait for a lock that another thread held."""
ALLOCATIONS = 50_000
"""Between two looks for garbage; Python's own 700 means hundreds of them while torch is imported."""


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to end this process with its parent, so that a killed dvc leaves nothing running."""
    parent = os.getppid()
    LIBRARY.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), number)


def collect_rarely() -> None:
    """Look for cyclic garbage rarely, and not at all when the process ends.

    A command that imports torch, works for seconds and goes spends half a second less; what it held goes
    back to the kernel with it. Handlers that run at the end still do; what a cycle alone keeps alive is not
    finalised. MLflow's connections are such cycles; ``lossbench.tracking.server`` closes them when we end.
    """
    gc.set_threshold(ALLOCATIONS)
    atexit.register(gc.freeze)


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not run the calling script anew.

    ``multiprocessing`` would: a script that calls us without ``if __name__ == "__main__"`` would call us
    again in each worker. What our workers need stands in modules.
    """
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    try:
        main.__spec__ = None
        vars(main).pop("__file__", None)
        yield
    finally:
        vars(main).update(kept)
