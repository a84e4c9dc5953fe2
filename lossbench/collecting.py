"""All that the store holds written as outs at once: one process, and two writes of ``dvc.lock``.

DVC starts a process for each stage, and reads and writes the whole of ``dvc.lock`` after it: with fifty
arms minutes in which nothing is computed. What is done here is what the stages would do: ``dvc repro``
afterwards finds them unchanged.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lossbench.documents import read_document
from lossbench.errors import UserError
from lossbench.execution.collect import LostError, collect_all
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.processes import step
from lossbench.project import TEMPLATES
from lossbench.store import Store
from lossbench.written import CHAIN

GROUPS = ("train", "evaluate")
"""Stages that only copy from a filled store."""
FEWEST = 2
"""Arms from which on this costs less than the stages themselves."""


def collect_at_once(params: Params, outs: Outs, store: Store, settled: Collection[str]) -> None:
    """Write the outs of all arms and experiments, and have DVC record them, where that is worth it.

    Else, and where an entry is lost meanwhile, nothing is recorded: the stages do it, one after another.

    Args:
        params: of the study.
        outs: of the study.
        store: filled.
        settled: stages whose outs are there though the store lacks them; they cannot be written anew.

    """
    if settled or not _as_shipped(outs.study) or len(unrecorded(params, outs)) < FEWEST:
        return
    try:
        collect_all(params, outs, store)
    except LostError:  # a stage fills it in anew
        return
    print(f"collected {len(params.arms)} arms of {len(params.experiments)} experiments", flush=True)
    step("dvc", "commit", "--quiet", "--force", *(f"{CHAIN}:{name}" for name in GROUPS))


def unrecorded(params: Params, outs: Outs) -> list[str]:
    """Name arms that dvc.lock does not know, or knows to be made by other code."""
    noted = _stages(outs.study / "dvc.lock")
    return [name for name in params.arms if not _recorded(noted.get(f"train@{name}"), name, outs)]


def _recorded(stage: Any, arm: str, outs: Outs) -> bool:
    file = outs.checked / "arms" / f"{arm}.json"
    now = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC hashes
    deps = stage.get("deps", ()) if isinstance(stage, dict) else ()
    return any(one.get("md5") == now for one in deps)


def _as_shipped(study: Path) -> bool:
    """Whether the stages are those we know: a chain may have been changed by hand."""
    theirs, ours = _stages(study / CHAIN), _stages(TEMPLATES / CHAIN)
    return all(theirs.get(name) == ours[name] for name in GROUPS)


def _stages(file: Path) -> dict[str, Any]:
    try:
        content = read_document(file, "")
    except UserError:  # none yet, or none that can be read: DVC will tell
        return {}
    stages = content.get("stages") if isinstance(content, dict) else None
    return stages if isinstance(stages, dict) else {}
