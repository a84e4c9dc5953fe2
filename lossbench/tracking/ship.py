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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lossbench.identity import Owner, is_alive
from lossbench.tracking.claims import Claim, Claims
from lossbench.tracking.records import SETTINGS, ArmRecord, Point, Run
from lossbench.tracking.server import RefusedError, ServerGoneError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun

KEY = "lossbench.key"
COMPLETE = "lossbench.complete"
CURRENT = "lossbench.current"
ROLE = "lossbench.role"
OWNER = "lossbench.owner"
ATTEMPT = "lossbench.attempt"
SHIPPED = "lossbench.shipped"
BEAT = "lossbench.beat"
"""When whoever owns a run that is still going on last gave a sign of life, in seconds since the epoch."""
PARENT = "mlflow.parentRunId"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI open the experiment on its training pages instead of the generative-AI ones."""
METRICS_PER_CALL = 1000
OTHERS_PER_CALL = 100
FINISHED, KILLED = "FINISHED", "KILLED"
TRIES = 6
"""How often an arm is begun again when another writer got in between."""
POLL = 0.3
"""Seconds between two looks at what another writer does."""


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut a list into pieces that one call may carry."""
    found = list(items)
    for start in range(0, len(found), size):
        yield found[start : start + size]


class Shelf:
    """The runs of one MLflow experiment."""

    def __init__(self, client: "MlflowClient", name: str, artifacts: str | None = None) -> None:
        """Open an experiment; ``artifacts`` is where a new one keeps files (a server decides itself)."""
        self.client = client
        self.name = name
        found = _experiment(client, name, artifacts)
        self.id, self.location = str(found.experiment_id), str(found.artifact_location)

    def search(self, **tags: str) -> "list[MlflowRun]":
        """Find live runs by tags (``key`` stands for ``lossbench.key``)."""
        wanted = " and ".join(f"tags.`lossbench.{name}` = '{value}'" for name, value in tags.items())
        return self._search(wanted)

    def children(self, run_id: str) -> "list[MlflowRun]":
        """Find the children of a run."""
        return self._search(f"tags.`{PARENT}` = '{run_id}'")

    def running(self) -> "list[MlflowRun]":
        """Find runs of Lossbench that are not closed."""
        return self._search(f"attributes.status = 'RUNNING' and tags.`{OWNER}` != ''")

    def create(self, run: Run, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Begin a run; its identity stands in the same call, so that a lost answer leaves no stranger."""
        all_tags = {**run.tags, **tags, **({PARENT: parent} if parent else {})}
        created = self.client.create_run(self.id, start_time=run.start, run_name=run.name, tags=all_tags)
        return str(created.info.run_id)

    def log(self, run_id: str, points: Sequence[Point], params: Mapping[str, str] | None = None) -> None:
        """Write params and points in as few calls as the server allows."""
        from mlflow.entities import Metric, Param

        settings = list(
            batches((Param(key, value) for key, value in (params or {}).items()), OTHERS_PER_CALL)
        )
        values = list(
            batches(
                (Metric(point.key, point.value, point.time, point.step) for point in points), METRICS_PER_CALL
            )
        )
        for number in range(max(len(settings), len(values))):
            self.client.log_batch(
                run_id,
                metrics=values[number] if number < len(values) else (),
                params=settings[number] if number < len(settings) else (),
            )

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        for some in batches((RunTag(key, value) for key, value in tags.items()), OTHERS_PER_CALL):
            self.client.log_batch(run_id, tags=some)

    def end(self, run_id: str, status: str, at: int) -> None:
        """Close a run."""
        self.client.set_terminated(run_id, status=status, end_time=at)

    def delete_family(self, parent_id: str) -> None:
        """Delete a parent and its children; children first, so that a crash between leaves no orphans.

        Somebody else may be deleting them, too, or still be writing them: those that came late go last.
        """
        self.delete_children(parent_id)
        with suppress(RefusedError):  # it is gone already
            self.client.delete_run(parent_id)
        self.delete_children(parent_id)

    def delete_children(self, parent_id: str) -> None:
        """Delete what is left of a run's children."""
        for child in self.children(parent_id):
            with suppress(RefusedError):  # it is gone already
                self.client.delete_run(child.info.run_id)

    def sweep(self) -> None:
        """Delete the children of deleted parents: a killed writer leaves them when all others have looked."""
        for parent in self._search(f"tags.`{ROLE}` = 'arm'", deleted=True):
            self.delete_children(parent.info.run_id)

    def complete(self, run_id: str, whole: str, claim: Claim) -> None:
        """Say of a run that all of it is written, and let it go."""
        self.tag(run_id, {COMPLETE: whole})
        self.release(run_id, claim)

    def release(self, run_id: str, claim: Claim) -> None:
        """Let a run go."""
        with suppress(RefusedError):  # it was deleted meanwhile
            self.client.delete_tag(run_id, claim.tag)

    def stands(self, run_id: str) -> bool:
        """Say whether a run is there and whole."""
        run = self.client.get_run(run_id)
        return run.info.lifecycle_stage == "active" and COMPLETE in run.data.tags

    def _search(self, wanted: str, deleted: bool = False) -> "list[MlflowRun]":
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        found: list[MlflowRun] = []
        token = None
        while True:
            page = self.client.search_runs([self.id], wanted, view, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found


Extras = Callable[[str, Claim], None]
"""Hangs on a parent run what is no number; the claim must be renewed before anything that takes long."""


def ship_arm(shelf: Shelf, record: ArmRecord, extras: Extras = lambda _run, _claim: None) -> tuple[str, bool]:
    """Leave exactly one whole copy of the arm in MLflow.

    Args:
        shelf: its experiment.
        record: what it should look like.
        extras: written last, before the copy counts as whole.

    Returns:
        The parent's run id, and whether the arm had to be written.

    Raises:
        RefusedError: the server refuses it time and again.

    """
    whole, claims = record.digest(), Claims()
    for left in reversed(range(TRIES)):
        kept = _settle(shelf, record.key, whole, claims)
        if kept is not None:
            return kept, False
        try:
            with Claim() as claim:
                return _record(shelf, record, whole, extras, claim), True
        except RefusedError:  # another writer took it for abandoned, or took it up
            if not left:
                raise
            time.sleep(random.uniform(0, POLL))  # noqa: S311 (no secret)
    raise AssertionError("unreachable")


def amend(shelf: Shelf, run_id: str, needed: Callable[["MlflowRun"], bool], work: Extras) -> None:
    """Add to a whole copy where that is needed: one writer at a time, and those who waited look again.

    Args:
        shelf: its experiment.
        run_id: of the parent.
        needed: says of the run whether something is missing; asked again after any other writer.
        work: adds it.

    Raises:
        RefusedError: the copy is gone or abandoned; the arm must be shipped again.

    """
    claims = Claims()
    while True:
        run = shelf.client.get_run(run_id)
        if run.info.lifecycle_stage != "active":
            raise RefusedError(f"run {run_id} was deleted")
        if COMPLETE in run.data.tags:
            if not needed(run):
                return
            with Claim() as claim:
                if _take(shelf, run_id, COMPLETE, claim):
                    try:
                        work(run_id, claim)
                    finally:  # what was added is marked one by one
                        shelf.complete(run_id, run.data.tags[COMPLETE], claim)
                    return
        elif not claims.living(run.data.tags):
            raise RefusedError(f"run {run_id} was abandoned by its writer")
        time.sleep(POLL)


def _take(shelf: Shelf, run_id: str, tag: str, claim: Claim) -> bool:
    """Take a tag off a run and claim the run; False where another writer was faster.

    Taking off a tag is the one step of MLflow's that succeeds for just one of many.
    """
    shelf.tag(run_id, claim.tags())  # first: a run without its tag must not look abandoned
    try:
        shelf.client.delete_tag(run_id, tag)
    except RefusedError:
        shelf.release(run_id, claim)
        return False
    return True


def _settle(shelf: Shelf, key: str, whole: str, claims: Claims) -> str | None:
    """Wait for other writers of the same arm, delete what dead ones left, and name the whole copy, if any."""
    while True:
        copies = sorted(shelf.search(key=key), key=lambda run: str(run.info.run_id))
        kept = [run for run in copies if run.data.tags.get(COMPLETE) == whole][:1]
        busy = [run for run in copies if COMPLETE not in run.data.tags and claims.living(run.data.tags)]
        for run in copies:
            if run not in kept and run not in busy:
                shelf.delete_family(run.info.run_id)
        if kept:
            return str(kept[0].info.run_id)
        if not busy:
            return None
        time.sleep(POLL)


def _record(shelf: Shelf, record: ArmRecord, whole: str, extras: Extras, claim: Claim) -> str:
    """Write the arm, look whether another whole copy has come meanwhile, and name the one that stays."""
    run_id = _adopt(shelf, record, claim) or _write(shelf, record, claim)
    extras(run_id, claim)
    if not any(run.data.tags.get(COMPLETE) == whole for run in shelf.search(key=record.key)):
        shelf.complete(run_id, whole, claim)
    kept = _chosen(shelf, record.key, whole)
    if kept != run_id:
        shelf.delete_family(run_id)
        if kept is None:
            raise RefusedError(f"run {run_id} was deleted while it was written")
    _delete_leftovers(shelf, record, kept)
    return kept


def _chosen(shelf: Shelf, key: str, whole: str) -> str | None:
    """Choose among whole copies; every writer chooses the same."""
    found = [str(run.info.run_id) for run in shelf.search(key=key) if run.data.tags.get(COMPLETE) == whole]
    return min(found, default=None)


def close_stale(shelf: Shelf) -> None:
    """Close runs that still look alive though the process that owned them is dead."""
    for run in shelf.running():
        if dead_owner(run):
            with suppress(RefusedError):  # somebody deleted it meanwhile
                shelf.end(run.info.run_id, KILLED, int(time.time() * 1000))
                shelf.tag(run.info.run_id, {CURRENT: "false"})


def dead_owner(run: "MlflowRun") -> bool:
    """Say whether the process that wrote the run is gone, or was not heard of for too long."""
    owner = run.data.tags.get(OWNER)
    return owner is not None and not is_alive(Owner.read(owner), _last_sign(run))


def _last_sign(run: "MlflowRun") -> float:
    """When a run's owner last gave a sign of life (start, beat, metric), in seconds since the epoch."""
    written = [int(metric.timestamp) for metric in run.data._metric_objs]
    signs = max(int(run.info.start_time or 0), *written, 0) / 1000
    return max(signs, float(run.data.tags.get(BEAT, 0)))


def _write(shelf: Shelf, record: ArmRecord, claim: Claim) -> str:
    """Write parent and children anew."""
    identity = {KEY: record.key, ROLE: "arm", CURRENT: "true"}
    parent = shelf.create(record.parent, {**identity, **claim.tags()})
    try:
        shelf.log(parent, record.parent.points, record.parent.params)
        for child, role in _children(record):
            if claim.due:
                shelf.tag(parent, claim.tags())
            run_id = shelf.create(child, {ROLE: role, CURRENT: "true"}, parent)
            shelf.log(run_id, child.points, child.params)
            shelf.end(run_id, FINISHED, child.end)
        shelf.end(parent, FINISHED, record.parent.end)
    except RefusedError:
        shelf.delete_family(parent)  # deleted under us, perhaps before the last child was there
        raise
    return parent


def _delete_leftovers(shelf: Shelf, record: ArmRecord, kept: str) -> None:
    """Delete what killed attempts at the same arm, with the same settings, left: the whole copy holds it.

    So does it hold this attempt's own copies, of which a server killed while it answers may leave two: the
    attempt is over, whether or not the process that made it lives on.
    """
    settings, claims = record.parent.tags[SETTINGS], Claims()
    for run in shelf.search(role="arm"):
        tags = run.data.tags
        own = record.attempt is not None and tags.get(ATTEMPT) == record.attempt
        same = tags.get("arm") == record.arm and tags.get(SETTINGS) == settings
        over = (own and not claims.living(tags)) or (same and dead_owner(run))
        if over and run.info.run_id != kept and COMPLETE not in tags:
            shelf.delete_family(run.info.run_id)


def _adopt(shelf: Shelf, record: ArmRecord, claim: Claim) -> str | None:
    """Complete the runs that the live shipper made of the same history, so that their addresses stay.

    Only an attempt that it marked as shipped to the last epoch is adopted; the mark is taken off first,
    since a crash in here would leave a doubtful copy, which the next call must not adopt.

    Raises:
        RefusedError: another checkout with the same journal adopts it.

    """
    if record.attempt is None:
        return None
    live = [run for run in shelf.search(attempt=record.attempt, role="arm") if SHIPPED in run.data.tags]
    if len(live) != 1:
        return None
    parent = str(live[0].info.run_id)
    children = {run.data.tags.get("seed"): run.info.run_id for run in shelf.children(parent)}
    if set(children) != {str(seed) for seed in record.seeds}:
        return None
    if not _take(shelf, parent, SHIPPED, claim):
        raise RefusedError(f"run {parent} is taken up by another writer")
    shelf.tag(parent, {**record.parent.tags, KEY: record.key})
    shelf.log(parent, record.parent.points, record.parent.params)
    for seed, child in record.seeds.items():
        run_id = children[str(seed)]
        shelf.tag(run_id, child.tags)
        shelf.log(run_id, [point for point in child.points if not live_point(point)], child.params)
        shelf.end(run_id, FINISHED, child.end)
    for trial in record.trials:
        run_id = shelf.create(trial, {ROLE: "trial", CURRENT: "true"}, parent)
        shelf.log(run_id, trial.points, trial.params)
        shelf.end(run_id, FINISHED, trial.end)
    shelf.end(parent, FINISHED, record.parent.end)
    return parent


def live_point(point: Point) -> bool:
    """Say whether the live shipper sends such a point: values of epochs, nothing else."""
    return point.step > 0


def _children(record: ArmRecord) -> Iterator[tuple[Run, str]]:
    for run in record.seeds.values():
        yield run, "replicate"
    for run in record.trials:
        yield run, "trial"


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> "Experiment":
    """Find or create an experiment; another process may create it in between."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(client.create_experiment(name, artifacts, tags=KIND))
        except (RefusedError, ServerGoneError):
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        with suppress(RefusedError):  # another checkout was faster
            client.restore_experiment(found.experiment_id)
    return found
