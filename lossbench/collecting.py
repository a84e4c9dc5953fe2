"""All that the store holds written as outs at once: one process, and two writes of ``dvc.lock``.

DVC starts a process for each stage, and reads and writes the whole of ``dvc.lock`` after it: with fifty
arms minutes in which nothing is computed. What is done here is what the stages would do: ``dvc repro``
afterwards finds them unchanged.
"""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lossbench.data.current import younger
from lossbench.documents import read_document
from lossbench.errors import UserError
from lossbench.execution.collect import LostError, collect_all
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.store import Store
from lossbench.written import CHAIN, TEMPLATES, cache, relinked

DATA = ("check", "fetch", "validate")
"""Stages before anything is trained."""
GROUPS = ("train", "evaluate")
"""Stages that only copy from a filled store."""
REPORT = "report"
"""The stage after them."""
FEWEST = 2
"""Arms from which on this costs less than the stages themselves."""


def data_at_once(params: Params, outs: Outs, store: Store) -> tuple[str, ...]:
    """Fetch and validate as the stages do, where dvc.lock knows nothing of data that are there.

    Args:
        params: of the study, which are checked.
        outs: of the study.
        store: holds what the expectations say of the data that are there.

    Returns:
        The stages done, which :func:`collect_at_once` is to have recorded; none where DVC is to call them.

    Raises:
        UserError: what a source says.
        GateError: a sentence per failed critical expectation.

    """
    shipped = _as_shipped(outs.study, (*DATA, *GROUPS)) and _none_added(outs.study)
    if not shipped or _stages(outs.study / "dvc.lock"):
        return ()
    from lossbench.data.fetching import fetch
    from lossbench.execution.identity import use_own_code
    from lossbench.execution.validation import collect_validation

    use_own_code(params, outs.study)
    for name, dataset in params.datasets.items():
        fetch(dataset, name, outs.data(name))
        collect_validation(params, name, outs, store)
    return DATA


def nothing_to_restore(params: Params, outs: Outs) -> bool:
    """Whether there are no data, and DVC keeps nothing that it could give back: a fresh clone."""
    kept = cache(outs.study)
    return (
        _as_shipped(outs.study, DATA)
        and _none_added(outs.study)
        and not any(os.path.lexists(outs.data(name)) for name in params.datasets)
        and kept is not None
        and not (kept / "files").exists()
    )


def validation_at_once(params: Params, outs: Outs, store: Store) -> tuple[str, ...]:
    """Write what the stages that validate write, of data that DVC has just had fetched.

    Takes and raises what :func:`data_at_once` does; the same is to be done with what it returns.
    """
    if not _as_shipped(outs.study, (*DATA, *GROUPS)):
        return ()
    from lossbench.execution.validation import collect_validation

    for name in params.datasets:
        collect_validation(params, name, outs, store)
    return DATA[-1:]


def collect_at_once(
    params: Params, outs: Outs, store: Store, settled: Collection[str], done: Sequence[str] = ()
) -> tuple[str, ...]:
    """Write the outs of all arms and experiments, where that is worth it.

    Else, and where an entry is lost meanwhile, there is nothing to record: the stages do it, one by one.

    Args:
        params: of the study.
        outs: of the study.
        store: filled.
        settled: stages whose outs are there though the store lacks them; they cannot be written anew.
        done: what :func:`data_at_once` has done.

    Returns:
        The command with which DVC records it; () where there is nothing to record.

    """
    if params.comparison.looks and DATA[0] not in done and _as_shipped(outs.study, DATA[:1]):
        done = (DATA[0], *done)  # which says on which seeds each arm is trained
    if DATA[0] in done:  # what `check` does: now, for looks may have been begun since
        from lossbench.execution.lineage import write_lineage

        write_lineage(params, outs)
    if DATA[1] in done and not all(younger(outs.study, name, one) for name, one in params.datasets.items()):
        return ()  # DVC would note originals, edited while arms were trained, as what data were made from
    if len(unrecorded(params, outs)) < FEWEST or not outs_at_once(params, outs, store, settled):
        return ()
    print(f"collected {len(params.arms)} arms of {len(params.experiments)} experiments", flush=True)
    return noting(outs.study, *done, *GROUPS)


def noting(study: Path, *stages: str) -> tuple[str, ...]:
    """Give the command with which DVC records stages whose outs are written.

    Whoever reads meanwhile finds all of them: DVC would put each file away and write it anew, though no link
    is to take its place. Where one is, see :func:`~lossbench.written.relinked`, nobody may read meanwhile.
    """
    still = () if relinked(study) else ("--no-relink",)
    return ("commit", "--force", *still, *(f"{CHAIN}:{name}" for name in stages))


def outs_at_once(params: Params, outs: Outs, store: Store, settled: Collection[str]) -> bool:
    """Write the outs of all arms and experiments; says whether that was possible.

    It is not where some are there though the store lacks them, where a stage does something of its own, or
    where an entry is lost meanwhile: a stage fills it in anew.
    """
    if settled or not _as_shipped(outs.study, GROUPS):
        return False
    try:
        collect_all(params, outs, store)
    except LostError:
        return False
    return True


def report_as_shipped(outs: Outs) -> bool:
    """Whether the stage that reports does what ours does."""
    return _as_shipped(outs.study, (REPORT,))


def unrecorded(params: Params, outs: Outs) -> list[str]:
    """Name arms that are not there, not known to dvc.lock, or known to be of other code, params or data."""
    noted, told = _stages(outs.study / "dvc.lock"), read_document(outs.study / "params.yaml", "")
    made = {one.get("path"): one.get("md5") for stage in noted.values() for one in _listed(stage, "outs")}
    return [
        name
        for name, arm in params.arms.items()
        if not outs.arm(arm.experiment, name).exists()
        or not _recorded(noted.get(f"train@{name}"), name, outs, made, told)
    ]


def _recorded(stage: Any, arm: str, outs: Outs, made: Mapping[Any, Any], told: Any) -> bool:
    deps = _listed(stage, "deps")
    file = outs.checked / "arms" / f"{arm}.json"
    now = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC hashes
    if not any(one.get("md5") == now for one in deps):
        return False
    if any(made.get(one.get("path"), one.get("md5")) != one.get("md5") for one in deps):
        return False
    params = stage.get("params", {}).get("params.yaml", {})
    return all(_at(told, key.split(".")) == value for key, value in params.items())


def _listed(stage: Any, what: str) -> Sequence[dict[str, Any]]:
    found = stage.get(what) if isinstance(stage, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _at(content: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _as_shipped(study: Path, names: Sequence[str]) -> bool:
    """Whether the stages are those we know: a chain may have been changed by hand."""
    theirs, ours = _stages(study / CHAIN), _stages(TEMPLATES / CHAIN)
    return all(_done(theirs.get(name)) == _done(ours[name]) for name in names)


def _none_added(study: Path) -> bool:
    """Whether the chain has no stage of the user's, which may make what is fetched: DVC knows the order."""
    return _stages(study / CHAIN).keys() <= _stages(TEMPLATES / CHAIN).keys()


def _done(stage: Any) -> Any:
    """What a stage does; on what `check` depends is another matter where the package is installed."""
    if not isinstance(stage, dict) or stage.get("deps") is None or "cmd" not in stage:
        return stage
    return {key: value for key, value in stage.items() if key != "deps"}


def _stages(file: Path) -> dict[str, Any]:
    try:
        content = read_document(file, "")
    except UserError:  # none yet, or none that can be read: DVC will tell
        return {}
    stages = content.get("stages") if isinstance(content, dict) else None
    return stages if isinstance(stages, dict) else {}
