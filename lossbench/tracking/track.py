"""Brings MLflow up to date with the outs: every arm once, whole, whatever happened before."""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.lock import LockedError, lock
from lossbench.params import Params, ScriptExperiment
from lossbench.tracking.claims import LONG, Claim
from lossbench.tracking.experiment import (
    CURRENT,
    KEY,
    NOTE,
    ROLE,
    SHIPPED,
    MlflowExperiment,
    close_stale,
    dead_owner,
    open_experiment,
)
from lossbench.tracking.outs import ArmOuts, home_of
from lossbench.tracking.provenance import digest
from lossbench.tracking.record import ArmRecord, Point, arm_record
from lossbench.tracking.server import RefusedError, connect
from lossbench.tracking.ship import TRIES, LeftError, amend, ship_arm
from lossbench.tracking.store import remember
from lossbench.tracking.summary import Reports, Summary, summarise

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as MlflowRun

SUMMARY = "lossbench.summary"
DATASET = "lossbench.dataset"
MODEL = "lossbench.model"
CHARTS = "lossbench.charts"
OTHER_TRACKER = 300.0
"""Seconds to wait for another `lossbench track` of the same study."""
SHIPPER = 20.0
"""Seconds to wait for the live shipper to finish an arm."""


@dataclass(frozen=True)
class Tracked:
    """What a pass found: arms written now, arms that were there already, arms without outs."""

    written: tuple[str, ...]
    present: tuple[str, ...]
    missing: tuple[str, ...]


COLOUR = "mlflow.runColor"
"""MLflow's own tag; without it a run's colour follows from its id, and two may be alike."""


@dataclass(frozen=True)
class Drawn:
    """An experiment as the report draws it: file name → SVG, and the colour of each of its arms."""

    charts: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)


Charts = Callable[[str], Drawn]
"""From an experiment."""
LogModel = Callable[[MlflowExperiment, str, Params, ArmOuts], str]
"""Logs an arm's model with its run and returns the model's id: :func:`lossbench.serving.logged.log_model`."""


def track(
    params: Params,
    root: Path,
    say: Callable[[str], None] = lambda _: None,
    charts: Charts = lambda _: Drawn(),
    reported: Callable[[], bool] = lambda: True,
    log_model: LogModel | None = None,
) -> Tracked:
    """Record every trained arm in MLflow.

    Args:
        params: of the study.
        root: the study's folder.
        say: hears a line per arm written.
        charts: draws an experiment's charts; asked only where its report has changed.
        reported: returns when the report is written, or False if none will be; called when the rest is done.
        log_model: logs an arm's model, where ``tracking.log_models`` says so; without it none is logged.

    Raises:
        ServerGoneError: the tracking server does not answer (any more); call again later.

    """
    outs = [ArmOuts(root, arm.experiment, name) for name, arm in params.arms.items()]
    trained = [one for one in outs if one.exist()]
    missing = tuple(one.arm for one in outs if not one.exist())
    if not trained:
        return Tracked((), (), missing)
    client = connect(root)
    remember(root)
    with lock(home_of(root) / "track.lock", wait=OTHER_TRACKER):
        done = _Pass(params, root, client, say, charts, log_model)
        before = [one.stamp() for one in trained]
        tracked = done.run(trained, missing)
        if reported():
            if [one.stamp() for one in trained] != before:  # trained anew: what they depend on has changed
                done = _Pass(params, root, client, say, charts, log_model)
                tracked = done.run([ArmOuts(root, one.experiment, one.arm) for one in trained], missing)
            done.add_report()
        return tracked


class _Pass:
    """One pass over the arms.

    Another checkout may delete a copy that it takes for abandoned, or that says something else: then the arm
    is recorded again.
    """

    def __init__(
        self,
        params: Params,
        root: Path,
        client: "MlflowClient",
        say: Callable[[str], None],
        charts: Charts,
        log_model: LogModel | None,
    ) -> None:
        self._params = params
        self._root = root
        self._client = client
        self._say = say
        self._charts = cache(charts)
        self._log_model = log_model if params.tracking.log_models else None
        self._recorded: list[tuple[MlflowExperiment, str, ArmOuts]] = []

    def run(self, trained: list[ArmOuts], missing: tuple[str, ...]) -> Tracked:
        written: list[str] = []
        present: list[str] = []
        for experiment in dict.fromkeys(outs.experiment for outs in trained):
            target = open_experiment(self._client, self._params, self._root, experiment)
            close_stale(target)
            kept = {}
            for outs in (one for one in trained if one.experiment == experiment):
                kept[outs.arm], fresh = self._arm(target, outs)
                self._recorded.append((target, kept[outs.arm], outs))
                (written if fresh else present).append(outs.arm)
            self._mark_current(target, set(kept.values()))
            target.sweep()
        return Tracked(tuple(written), tuple(present), missing)

    def add_report(self) -> None:
        """Bring the arms' summaries and charts up to date with the report."""
        reports = Reports(self._root)
        for target in {one.id: one for one, _, _ in self._recorded}.values():
            self._describe(target, reports)
        for target, run_id, outs in self._recorded:
            self._persist(target, run_id, outs, partial(self._report, target, outs, reports))

    def _describe(self, target: MlflowExperiment, reports: Reports) -> None:
        """Put the report's answer where the experiment's description stands."""
        (name,) = {outs.experiment for one, _, outs in self._recorded if one.id == target.id}
        said = reports.answer(name, home_of(self._root))
        if said and self._client.get_experiment(target.id).tags.get(NOTE) != said:
            self._client.set_experiment_tag(target.id, NOTE, said)

    def _persist(
        self, target: MlflowExperiment, run_id: str, outs: ArmOuts, work: Callable[[str], None]
    ) -> str:
        """Do something to an arm's run; where that is deleted meanwhile, to the one that takes its place."""
        for left in reversed(range(TRIES)):
            try:
                work(run_id)
                break
            except RefusedError as error:
                stands = target.stands(run_id)
                # A writer that was taken for dead may have come back, and made it whole.
                if not left or (stands and not isinstance(error, LeftError)):
                    raise
                if not stands:
                    run_id, _ = self._ship(target, outs)
        return run_id

    def _arm(self, target: MlflowExperiment, outs: ArmOuts) -> tuple[str, bool]:
        run_id, fresh = self._ship(target, outs)
        add = partial(self._add_extras, target, outs)
        lacks = partial(self._lacks_extras, outs)
        kept = self._persist(target, run_id, outs, lambda one: amend(target, one, lacks, add))
        return kept, fresh

    def _ship(self, target: MlflowExperiment, outs: ArmOuts) -> tuple[str, bool]:
        record = arm_record(self._params, outs)
        self._wait_for_shipper(target, record)
        run_id, fresh = ship_arm(target, record, partial(self._add_extras, target, outs))
        if fresh:
            self._say(f"recorded {outs.arm}: {len(record.seeds)} replicates, {len(record.trials)} trials")
        return run_id, fresh

    def _wait_for_shipper(self, target: MlflowExperiment, record: ArmRecord) -> None:
        """Let a live shipper finish an arm whose training has just ended, so that its runs are kept."""
        deadline = time.monotonic() + SHIPPER
        while record.attempt is not None and time.monotonic() < deadline and self._shipper_alive():
            live = target.search(attempt=record.attempt, role="arm")
            if not live or all(SHIPPED in run.data.tags or KEY in run.data.tags for run in live):
                return
            time.sleep(0.5)

    def _shipper_alive(self) -> bool:
        try:
            with lock(home_of(self._root) / "shipper.lock"):
                return False
        except LockedError:
            return True

    def _report(self, target: MlflowExperiment, outs: ArmOuts, reports: Reports, run_id: str) -> None:
        metric = self._params.experiments[outs.experiment].metric
        summary = summarise(outs, reports, metric, self._curves(target, run_id))
        marks = {SUMMARY: digest(dict(summary.metrics), dict(summary.tags))}
        reported = reports.digest(outs.experiment)
        if reported is not None:
            marks[CHARTS] = reported

        def needed(run: "MlflowRun") -> bool:
            return any(run.data.tags.get(tag) != said for tag, said in marks.items())

        def add(run_id: str, claim: Claim) -> None:
            current = self._client.get_run(run_id).data
            if current.tags.get(SUMMARY) != marks[SUMMARY]:
                self._summarise(target, run_id, summary, current.metrics)
                target.tag(run_id, {SUMMARY: marks[SUMMARY]})
            if reported is not None and current.tags.get(CHARTS) != reported:
                target.tag(run_id, claim.tags(LONG))
                self._add_charts(target, run_id, outs)
                target.tag(run_id, {CHARTS: reported})

        amend(target, run_id, needed, add)

    def _curves(self, target: MlflowExperiment, run_id: str) -> dict[int, str]:
        """Find where the replicates' curves are: a run's own page opens on its tags."""
        return {
            int(child.data.tags["seed"]): f"#/experiments/{target.id}/runs/{child.info.run_id}/model-metrics"
            for child in target.children(run_id)
            if child.data.tags.get(ROLE) == "replicate"
        }

    def _summarise(
        self, target: MlflowExperiment, run_id: str, summary: Summary, current: Mapping[str, float]
    ) -> None:
        """Write the summary's values where they changed: a verdict may change though the arm did not."""
        now = int(time.time() * 1000)
        changed = [
            Point(key, value, 0, now) for key, value in summary.metrics.items() if current.get(key) != value
        ]
        target.log(run_id, changed)
        target.tag(run_id, summary.tags)

    def _lacks_extras(self, outs: ArmOuts, run: "MlflowRun") -> bool:
        tags = run.data.tags
        return DATASET not in tags or (MODEL not in tags and self._model_of(outs) is not None)

    def _model_of(self, outs: ArmOuts) -> LogModel | None:
        """What logs the arm's model; nothing where a script trains it: its model is not known here."""
        scripted = isinstance(self._params.experiments[outs.experiment], ScriptExperiment)
        return None if scripted else self._log_model

    def _add_extras(self, target: MlflowExperiment, outs: ArmOuts, run_id: str, claim: Claim) -> None:
        """Hang the manifest and the model on the run, each once."""
        tags = self._client.get_run(run_id).data.tags
        if DATASET not in tags:
            log_dataset(self._client, run_id, outs)
            target.tag(run_id, {DATASET: str(outs.described["dataset"])})
        log_model = self._model_of(outs)
        if MODEL not in tags and log_model is not None:
            target.tag(run_id, claim.tags(LONG))
            target.tag(run_id, {MODEL: log_model(target, run_id, self._params, outs)})

    def _add_charts(self, target: MlflowExperiment, run_id: str, outs: ArmOuts) -> None:
        """Hang the experiment's charts on the run."""
        drawn = self._charts(outs.experiment)
        for name, svg in drawn.charts.items():
            self._client.log_text(run_id, svg, f"charts/{name}")
        if outs.arm in drawn.colours:
            target.tag(run_id, {COLOUR: drawn.colours[outs.arm]})

    def _mark_current(self, target: MlflowExperiment, kept: set[str]) -> None:
        """Tell the runs of the present outs from those of earlier ones.

        A copy that is kept may have given way to one of the same key since: that one is present, too.
        """
        keys = {self._client.get_run(run_id).data.tags.get(KEY) for run_id in kept}
        for parent in target.search(role="arm", current="true"):
            run_id, key = parent.info.run_id, parent.data.tags.get(KEY)
            if run_id in kept or key in keys or not (key or dead_owner(parent)):
                continue  # the present ones, and those that a living training is writing
            self._mark(target, run_id, "false")
        for run_id in kept:
            if self._client.get_run(run_id).data.tags.get(CURRENT) != "true":
                self._mark(target, run_id, "true")

    def _mark(self, target: MlflowExperiment, run_id: str, current: str) -> None:
        """Mark an arm's runs, the parent last: a crash leaves it to be found."""
        for one in (*(child.info.run_id for child in target.children(run_id)), run_id):
            with suppress(RefusedError):  # another checkout deleted it meanwhile
                target.tag(one, {CURRENT: current})


def log_dataset(client: "MlflowClient", run_id: str, outs: ArmOuts) -> None:
    """Log the dataset's manifest, a row per sample with its SHA-256, as the run's input."""
    name = str(outs.described["dataset"])
    if (outs.root / "data" / name / "manifest.parquet").exists():
        client.log_inputs(run_id, [_dataset_input(outs.root, name)])


@cache
def _dataset_input(root: Path, name: str) -> "DatasetInput":
    import pandas as pd
    from mlflow.data import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    path = root / "data" / name / "manifest.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it suggests doubles for whole numbers without gaps
        dataset = from_pandas(pd.read_parquet(path), source=f"data/{name}/manifest.parquet", name=name)
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])
