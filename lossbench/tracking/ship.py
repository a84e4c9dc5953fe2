"""Writes records to MLflow: whole or not at all, once, whoever else writes to the same server.

Writing is not atomic on any tracking server, so the last thing written to an arm's parent run is a tag,
``lossbench.complete``, with the hash of everything written before. A parent without it is in the hands of
a writer, whom another tag names (:mod:`lossbench.tracking.claims`): while that one lives it is waited for,
otherwise the copy is deleted, children and all, and the arm written again whole. Whoever finishes looks
again, since two may have begun in the same moment: one whole copy stays, the same for both. Hence whatever
killed whom in between, and however many checkouts record at once, one whole copy is left.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lossbench.tracking.claims import Claim, Claims
from lossbench.tracking.experiment import (
    ATTEMPT,
    COMPLETE,
    CURRENT,
    FINISHED,
    KEY,
    ROLE,
    SHIPPED,
    MlflowExperiment,
    dead_owner,
)
from lossbench.tracking.record import SETTINGS, ArmRecord, Point, Run
from lossbench.tracking.server import RefusedError

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

TRIES = 6
"""How often an arm is begun again when another writer got in between."""
POLL = 0.3
"""Seconds between two looks at what another writer does."""


class LeftError(RefusedError):
    """A run was deleted, or is no longer its writer's, when somebody came to add to it."""


Extras = Callable[[str, Claim], None]
"""Hangs on a parent run what is no number; the claim must be renewed before anything that takes long."""


def ship_arm(
    target: MlflowExperiment, record: ArmRecord, extras: Extras = lambda _run, _claim: None
) -> tuple[str, bool]:
    """Leave exactly one whole copy of the arm in MLflow.

    Args:
        target: its experiment.
        record: what it should look like.
        extras: written last, before the copy counts as whole.

    Returns:
        The parent's run id, and whether the arm had to be written.

    Raises:
        RefusedError: the server refuses it time and again.

    """
    whole, claims = record.digest(), Claims()
    for left in reversed(range(TRIES)):
        kept = _settle(target, record.key, whole, claims)
        if kept is not None:
            return kept, False
        try:
            with Claim() as claim:
                return _record(target, record, whole, extras, claim), True
        except RefusedError:  # another writer took it for abandoned, or took it up
            if not left:
                raise
            time.sleep(random.uniform(0, POLL))  # noqa: S311 (no secret)
    raise AssertionError("unreachable")


def amend(target: MlflowExperiment, run_id: str, needed: Callable[["MlflowRun"], bool], work: Extras) -> None:
    """Add to a whole copy where that is needed: one writer at a time, and those who waited look again.

    Args:
        target: its experiment.
        run_id: of the parent.
        needed: says of the run whether something is missing; asked again after any other writer.
        work: adds it.

    Raises:
        LeftError: the copy is gone, abandoned or gave way to another: to be looked at again, or shipped.
        RefusedError: the server refuses.

    """
    claims = Claims()
    while True:
        run = target.client.get_run(run_id)
        if run.info.lifecycle_stage != "active":
            raise LeftError(f"run {run_id} was deleted")
        if COMPLETE in run.data.tags:
            if not needed(run):
                return
            with Claim() as claim:
                if _take(target, run_id, COMPLETE, claim):
                    try:
                        work(run_id, claim)
                    finally:  # what was added is marked one by one
                        target.complete(run_id, run.data.tags[COMPLETE], claim)
                    # While it was in our hands another whole copy may have come, and found none.
                    if _settle(target, run.data.tags[KEY], run.data.tags[COMPLETE], claims) != run_id:
                        raise LeftError(f"run {run_id} gave way to a copy that was written meanwhile")
                    return
        elif not claims.living(run.data.tags):
            raise LeftError(f"run {run_id} was abandoned by its writer")
        time.sleep(POLL)


def _take(target: MlflowExperiment, run_id: str, tag: str, claim: Claim) -> bool:
    """Take a tag off a run and claim the run; False where another writer was faster.

    Taking off a tag is a step of MLflow's that fails for who comes second. In one and the same moment it may
    succeed for two. Both have said before that they want the run, so each sees the other, and one goes first.
    """
    target.tag(run_id, claim.tags())  # first: a run without its tag must not look abandoned
    try:
        target.client.delete_tag(run_id, tag)
        claims = Claims()
        while claims.before(claim, tags := target.client.get_run(run_id).data.tags):
            time.sleep(POLL)
    except RefusedError:
        target.release(run_id, claim)
        return False
    if tag in tags or COMPLETE in tags:  # who went first has done it
        target.release(run_id, claim)
        return False
    return True


def _settle(target: MlflowExperiment, key: str, whole: str, claims: Claims) -> str | None:
    """Wait for other writers of the same arm, delete what dead ones left, and name the whole copy, if any."""
    while True:
        copies = sorted(target.search(key=key), key=lambda run: str(run.info.run_id))
        kept = [run for run in copies if run.data.tags.get(COMPLETE) == whole][:1]
        busy = [run for run in copies if COMPLETE not in run.data.tags and claims.living(run.data.tags)]
        for run in copies:
            if run not in kept and run not in busy:
                target.delete_family(run.info.run_id)
        if kept:
            return str(kept[0].info.run_id)
        if not busy:
            return None
        time.sleep(POLL)


def _record(target: MlflowExperiment, record: ArmRecord, whole: str, extras: Extras, claim: Claim) -> str:
    """Write the arm, look whether another whole copy has come meanwhile, and name the one that stays."""
    run_id = _adopt(target, record, claim) or _write(target, record, claim)
    extras(run_id, claim)
    kept = _chosen(target, record.key, whole)
    if kept is None:
        target.complete(run_id, whole, claim)
        # Two may have seen none in the same moment; who comes second clears up: the first may be gone.
        kept = _settle(target, record.key, whole, Claims())
    if kept != run_id:
        target.delete_family(run_id)
        if kept is None:
            raise RefusedError(f"run {run_id} was deleted while it was written")
    _delete_leftovers(target, record, kept)
    return kept


def _chosen(target: MlflowExperiment, key: str, whole: str) -> str | None:
    """Choose among whole copies; every writer chooses the same."""
    found = [str(run.info.run_id) for run in target.search(key=key) if run.data.tags.get(COMPLETE) == whole]
    return min(found, default=None)


def _write(target: MlflowExperiment, record: ArmRecord, claim: Claim) -> str:
    """Write parent and children anew."""
    identity = {KEY: record.key, ROLE: "arm", CURRENT: "true"}
    parent = target.create(record.parent, {**identity, **claim.tags()})
    try:
        target.log(parent, record.parent.points, record.parent.params)
        for child, role in _children(record):
            if claim.due:
                target.tag(parent, claim.tags())
            run_id = target.create(child, {ROLE: role, CURRENT: "true"}, parent)
            target.log(run_id, child.points, child.params)
            target.end(run_id, FINISHED, child.end)
        target.end(parent, FINISHED, record.parent.end)
    except RefusedError:
        target.delete_family(parent)  # deleted under us, perhaps before the last child was there
        raise
    return parent


def _delete_leftovers(target: MlflowExperiment, record: ArmRecord, kept: str) -> None:
    """Delete what killed attempts at the same arm, with the same settings, left: the whole copy holds it.

    So does it hold this attempt's own copies, of which a server killed while it answers may leave two: the
    attempt is over, whether or not the process that made it lives on.
    """
    settings, claims = record.parent.tags[SETTINGS], Claims()
    for run in target.search(role="arm"):
        tags = run.data.tags
        own = record.attempt is not None and tags.get(ATTEMPT) == record.attempt
        same = tags.get("arm") == record.arm and tags.get(SETTINGS) == settings
        over = (own and not claims.living(tags)) or (same and dead_owner(run))
        if over and run.info.run_id != kept and COMPLETE not in tags:
            target.delete_family(run.info.run_id)


def _adopt(target: MlflowExperiment, record: ArmRecord, claim: Claim) -> str | None:
    """Complete the runs that the live shipper made of the same history, so that their addresses stay.

    Only an attempt that it marked as shipped to the last epoch is adopted; the mark is taken off first,
    since a crash in here would leave a doubtful copy, which the next call must not adopt.

    Raises:
        RefusedError: another checkout with the same journal adopts it.

    """
    if record.attempt is None:
        return None
    live = [run for run in target.search(attempt=record.attempt, role="arm") if SHIPPED in run.data.tags]
    if len(live) != 1:
        return None
    parent = str(live[0].info.run_id)
    children = {run.data.tags.get("seed"): run.info.run_id for run in target.children(parent)}
    if set(children) != {str(seed) for seed in record.seeds}:
        return None
    if not _take(target, parent, SHIPPED, claim):
        raise RefusedError(f"run {parent} is taken up by another writer")
    target.tag(parent, {**record.parent.tags, KEY: record.key})
    target.log(parent, record.parent.points, record.parent.params)
    for seed, child in record.seeds.items():
        run_id = children[str(seed)]
        target.tag(run_id, child.tags)
        target.log(run_id, [point for point in child.points if not live_point(point)], child.params)
        target.end(run_id, FINISHED, child.end)
    for trial in record.trials:
        run_id = target.create(trial, {ROLE: "trial", CURRENT: "true"}, parent)
        target.log(run_id, trial.points, trial.params)
        target.end(run_id, FINISHED, trial.end)
    target.end(parent, FINISHED, record.parent.end)
    return parent


def live_point(point: Point) -> bool:
    """Say whether the live shipper sends such a point: values of epochs, nothing else."""
    return point.step > 0


def _children(record: ArmRecord) -> Iterator[tuple[Run, str]]:
    for run in record.seeds.values():
        yield run, "replicate"
    for run in record.trials:
        yield run, "trial"
