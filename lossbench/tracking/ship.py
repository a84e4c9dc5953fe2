"""Writes records to MLflow: whole or not at all, once.

Writing is not atomic on any tracking server, so the last thing written to an arm's parent run is a tag,
``lossbench.complete``, with the hash of everything written before. An arm whose parent lacks the right
tag is deleted, children and all, and written again whole. Hence whatever killed whom in between, one more
call leaves exactly one whole copy.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossbench.tracking.identity import Owner
from lossbench.tracking.records import SETTINGS, ArmRecord, Point, Run
from lossbench.tracking.server import RefusedError, ServerGoneError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

KEY = "lossbench.key"
COMPLETE = "lossbench.complete"
CURRENT = "lossbench.current"
ROLE = "lossbench.role"
OWNER = "lossbench.owner"
ATTEMPT = "lossbench.attempt"
SHIPPED = "lossbench.shipped"
PARENT = "mlflow.parentRunId"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI open the experiment on its training pages instead of the generative-AI ones."""
METRICS_PER_CALL = 1000
OTHERS_PER_CALL = 100
FINISHED, KILLED = "FINISHED", "KILLED"


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
        self.id = _experiment_id(client, name, artifacts)

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
        """Delete a parent and its children; children first, so that a crash between leaves no orphans."""
        for child in self.children(parent_id):
            self.client.delete_run(child.info.run_id)
        self.client.delete_run(parent_id)

    def _search(self, wanted: str) -> "list[MlflowRun]":
        found: list[MlflowRun] = []
        token = None
        while True:
            page = self.client.search_runs([self.id], wanted, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found


def ship_arm(shelf: Shelf, record: ArmRecord) -> tuple[str, bool]:
    """Leave exactly one whole copy of the arm in MLflow.

    Returns:
        The parent's run id, and whether anything had to be written.

    """
    whole = record.digest()
    copies = shelf.search(key=record.key)
    kept = [run for run in copies if run.data.tags.get(COMPLETE) == whole]
    for run in copies:
        if run not in kept[:1]:
            shelf.delete_family(run.info.run_id)
    if kept:
        return kept[0].info.run_id, False
    run_id = _adopt(shelf, record) or _write(shelf, record)
    shelf.tag(run_id, {COMPLETE: whole})
    _delete_leftovers(shelf, record, run_id)
    return run_id, True


def close_stale(shelf: Shelf) -> None:
    """Close runs that still look alive though the process that owned them is dead."""
    for run in shelf.running():
        if dead_owner(run):
            shelf.end(run.info.run_id, KILLED, int(time.time() * 1000))
            shelf.tag(run.info.run_id, {CURRENT: "false"})


def dead_owner(run: "MlflowRun") -> bool:
    """Say whether the process that wrote the run is known to be gone."""
    owner = run.data.tags.get(OWNER)
    return owner is not None and Owner.read(owner).dead()


def _write(shelf: Shelf, record: ArmRecord) -> str:
    """Write parent and children anew."""
    parent = shelf.create(record.parent, {KEY: record.key, ROLE: "arm", CURRENT: "true"})
    shelf.log(parent, record.parent.points, record.parent.params)
    for child, role in _children(record):
        run_id = shelf.create(child, {ROLE: role, CURRENT: "true"}, parent)
        shelf.log(run_id, child.points, child.params)
        shelf.end(run_id, FINISHED, child.end)
    shelf.end(parent, FINISHED, record.parent.end)
    return parent


def _delete_leftovers(shelf: Shelf, record: ArmRecord, kept: str) -> None:
    """Delete what killed attempts at the same arm, with the same settings, left: the whole copy holds it.

    So does it hold this attempt's own copies, of which a server killed while it answers may leave two: the
    attempt is over, whether or not the process that made it lives on.
    """
    settings = record.parent.tags[SETTINGS]
    for run in shelf.search(role="arm"):
        tags = run.data.tags
        own = record.attempt is not None and tags.get(ATTEMPT) == record.attempt
        same = tags.get("arm") == record.arm and tags.get(SETTINGS) == settings
        over = own or (same and dead_owner(run))
        if over and run.info.run_id != kept and COMPLETE not in tags:
            shelf.delete_family(run.info.run_id)


def _adopt(shelf: Shelf, record: ArmRecord) -> str | None:
    """Complete the runs that the live shipper made of the same history, so that their addresses stay.

    Only an attempt that it marked as shipped to the last epoch is adopted; the mark is taken off first,
    since a crash in here would leave a doubtful copy, which the next call must not adopt.
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
    shelf.client.delete_tag(parent, SHIPPED)
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


def _experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """Find or create an experiment; another process may create it in between."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts, tags=KIND))
        except (RefusedError, ServerGoneError):
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
