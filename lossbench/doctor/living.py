"""Which processes are at work in a study: what they hold is no leftover."""

import os
from collections.abc import Container
from itertools import pairwise
from pathlib import Path

import psutil

STAGES = ("check", "fetch", "validate", "train", "evaluate", "report")
MODULES = frozenset(f"stages.{name}" for name in STAGES)
"""As a checkout's dvc.yaml calls them; elsewhere `lossbench.` stands before."""
DVC = ("dvc", "lossbench.chain")
"""Modules that are DVC: itself, and what gives it several commands."""
VERBS = ("run", "retrain", "rollback")
"""Those that write outs, checkpoints, downloads or DVC's files."""
SLACK = 2.0
"""Seconds by which clocks of files and processes may differ."""


def at_work(root: Path, repository: Path, waiting: Container[str] = ()) -> list[str]:
    """Describe the living processes of DVC and of stages in ``root`` or elsewhere in ``repository``.

    A process whose folder cannot be seen (another user's) counts as being here. The calling process and
    those that started it do not count, nor do the modules in ``waiting``.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.pid in own or process.info["status"] == psutil.STATUS_ZOMBIE or not _ours(words, waiting):
            continue
        try:
            folder = Path(process.cwd())
            if _only_asks_for_news(process):
                continue
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            found.append(f"process {process.pid} ({_brief(words)})")
            continue
        if any(one in (folder, *folder.parents) for one in (root.resolve(), repository.resolve())):
            found.append(f"process {process.pid} ({_brief(words)})")
    return found


def _only_asks_for_news(process: psutil.Process) -> bool:
    """Whether a command of DVC is over but for the process that asks, once a day, for a newer DVC.

    That one is started by a copy of the command, which waits for it under the command's own name.
    """
    return any(
        Path(before).parts[-2:] == ("dvc", "__main__.py") and after == "daemon"
        for child in process.children()
        for before, after in pairwise(_words(child))
    )


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it is gone, or another user's
        return []


def _ours(words: list[str], waiting: Container[str]) -> bool:
    """Say whether a command line is DVC's or a stage's."""
    if "dvc" in [Path(word).name for word in words[:2]]:
        return True
    for before, after in pairwise(words):
        if before == "-m" and (after in DVC or after.removeprefix("lossbench.") in MODULES):
            return True
        if Path(before).name == "lossbench" and after in VERBS and f"lossbench {after}" not in waiting:
            return True
    return False


def _brief(words: list[str]) -> str:
    return " ".join([Path(words[0]).name, *words[1:]])[:80]


def gone(pid: int, since: float) -> bool:
    """Say whether the process that wrote something at ``since`` (seconds since the epoch) is gone.

    A process that began later only has the number of the one that wrote.
    """
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > since + SLACK
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
