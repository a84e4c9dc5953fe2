"""One MLflow experiment: finding, writing and deleting its runs, and which of them only look alive."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.identity import Owner, is_alive
from lossbench.params import Params
from lossbench.tracking import artifacts
from lossbench.tracking.claims import Claim
from lossbench.tracking.provenance import study_name
from lossbench.tracking.record import Point, Run
from lossbench.tracking.server import RefusedError, ServerGoneError, tracking_uri

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
NOTE = "mlflow.note.content"
"""The description, of a run or an experiment."""
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


class MlflowExperiment:
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


def experiment_name(params: Params, root: Path, experiment: str) -> str:
    """Name an MLflow experiment: the Lossbench experiment's name, after its study's if it has one."""
    study = study_name(params, root)
    return f"{study}/{experiment}" if study else experiment


def open_experiment(client: "MlflowClient", params: Params, root: Path, experiment: str) -> MlflowExperiment:
    """Open the MLflow experiment of a Lossbench experiment.

    Raises:
        RefusedError: its files cannot be written; the message says what helps.

    """
    name, uri = experiment_name(params, root, experiment), tracking_uri(root)
    local = artifacts.folder(uri)
    target = MlflowExperiment(client, name, None if local is None else (local / name).as_uri())
    problem = artifacts.unusable(name, target.location, uri)
    if problem is not None:
        raise RefusedError(problem)
    return target


def close_stale(target: MlflowExperiment) -> None:
    """Close runs that still look alive though the process that owned them is dead."""
    for run in target.running():
        if dead_owner(run):
            with suppress(RefusedError):  # somebody deleted it meanwhile
                target.end(run.info.run_id, KILLED, int(time.time() * 1000))
                target.tag(run.info.run_id, {CURRENT: "false"})


def dead_owner(run: "MlflowRun") -> bool:
    """Say whether the process that wrote the run is gone, or was not heard of for too long."""
    owner = run.data.tags.get(OWNER)
    return owner is not None and not is_alive(Owner.read(owner), _last_sign(run))


def _last_sign(run: "MlflowRun") -> float:
    """When a run's owner last gave a sign of life (start, beat, metric), in seconds since the epoch."""
    written = [int(metric.timestamp) for metric in run.data._metric_objs]
    signs = max(int(run.info.start_time or 0), *written, 0) / 1000
    return max(signs, float(run.data.tags.get(BEAT, 0)))


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
