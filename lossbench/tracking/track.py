"""Brings MLflow up to date with the outs: every arm once, whole, whatever happened before."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.params import Params
from lossbench.tracking import places
from lossbench.tracking.build import arm_record
from lossbench.tracking.extras import log_dataset
from lossbench.tracking.identity import digest
from lossbench.tracking.locks import LockedError, lock
from lossbench.tracking.models import log_model
from lossbench.tracking.names import open_shelf
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.records import ArmRecord, Point
from lossbench.tracking.remembered import remember
from lossbench.tracking.server import connect
from lossbench.tracking.ship import CURRENT, KEY, SHIPPED, Shelf, close_stale, dead_owner, ship_arm
from lossbench.tracking.summary import Reports, Summary, summarise

if TYPE_CHECKING:
    from mlflow import MlflowClient

SUMMARY = "lossbench.summary"
DATASET = "lossbench.dataset"
MODEL = "lossbench.model"
CHARTS = "lossbench.charts"
OTHER_TRACKER = 300.0
"""Seconds to wait for another `stages.track` of the same study."""
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


def track(
    params: Params,
    root: Path,
    say: Callable[[str], None] = lambda _: None,
    charts: Charts = lambda _: Drawn(),
    reported: Callable[[], bool] = lambda: True,
) -> Tracked:
    """Record every trained arm in MLflow.

    Args:
        params: of the study.
        root: the study's folder.
        say: hears a line per arm written.
        charts: draws an experiment's charts; asked only where its report has changed.
        reported: returns when the report is written, or False if none will be; called when the rest is done.

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
    with lock(places.home(root) / "track.lock", wait=OTHER_TRACKER):
        done = _Pass(params, root, client, say, charts)
        before = [one.stamp() for one in trained]
        tracked = done.run(trained, missing)
        if reported():
            if [one.stamp() for one in trained] != before:  # trained anew: what they depend on has changed
                done = _Pass(params, root, client, say, charts)
                tracked = done.run([ArmOuts(root, one.experiment, one.arm) for one in trained], missing)
            done.add_report()
        return tracked


class _Pass:
    """One pass over the arms."""

    def __init__(
        self,
        params: Params,
        root: Path,
        client: "MlflowClient",
        say: Callable[[str], None],
        charts: Charts,
    ) -> None:
        self._params = params
        self._root = root
        self._client = client
        self._say = say
        self._charts = cache(charts)
        self._recorded: list[tuple[Shelf, str, ArmOuts]] = []

    def run(self, trained: list[ArmOuts], missing: tuple[str, ...]) -> Tracked:
        written: list[str] = []
        present: list[str] = []
        for experiment in dict.fromkeys(outs.experiment for outs in trained):
            shelf = open_shelf(self._client, self._params, self._root, experiment)
            close_stale(shelf)
            kept = {}
            for outs in (one for one in trained if one.experiment == experiment):
                kept[outs.arm], fresh = self._arm(shelf, outs)
                self._recorded.append((shelf, kept[outs.arm], outs))
                (written if fresh else present).append(outs.arm)
            self._mark_current(shelf, set(kept.values()))
        return Tracked(tuple(written), tuple(present), missing)

    def add_report(self) -> None:
        """Bring the arms' summaries and charts up to date with the report."""
        reports = Reports(self._root)
        for shelf, run_id, outs in self._recorded:
            metric = self._params.experiments[outs.experiment].metric
            self._summarise(shelf, run_id, summarise(outs, reports, metric))
            self._add_charts(shelf, run_id, outs, reports.digest(outs.experiment))

    def _arm(self, shelf: Shelf, outs: ArmOuts) -> tuple[str, bool]:
        record = arm_record(self._params, outs)
        self._wait_for_shipper(shelf, record)
        run_id, fresh = ship_arm(shelf, record)
        self._add_extras(shelf, run_id, outs)
        if fresh:
            self._say(f"recorded {outs.arm}: {len(record.seeds)} replicates, {len(record.trials)} trials")
        return run_id, fresh

    def _wait_for_shipper(self, shelf: Shelf, record: ArmRecord) -> None:
        """Let a live shipper finish an arm whose training has just ended, so that its runs are kept."""
        deadline = time.monotonic() + SHIPPER
        while record.attempt is not None and time.monotonic() < deadline and self._shipper_alive():
            live = shelf.search(attempt=record.attempt, role="arm")
            if not live or all(SHIPPED in run.data.tags or KEY in run.data.tags for run in live):
                return
            time.sleep(0.5)

    def _shipper_alive(self) -> bool:
        try:
            with lock(places.home(self._root) / "shipper.lock"):
                return False
        except LockedError:
            return True

    def _summarise(self, shelf: Shelf, run_id: str, summary: Summary) -> None:
        """Write the summary where it changed: a verdict may change though the arm did not."""
        current = self._client.get_run(run_id).data
        said = digest(dict(summary.metrics), dict(summary.tags))
        if current.tags.get(SUMMARY) == said:
            return
        now = int(time.time() * 1000)
        changed = [
            Point(key, value, 0, now)
            for key, value in summary.metrics.items()
            if current.metrics.get(key) != value
        ]
        shelf.log(run_id, changed)
        shelf.tag(run_id, {**summary.tags, SUMMARY: said})

    def _add_extras(self, shelf: Shelf, run_id: str, outs: ArmOuts) -> None:
        """Hang the manifest and the model on the run, each once."""
        tags = self._client.get_run(run_id).data.tags
        if DATASET not in tags:
            log_dataset(self._client, run_id, outs)
            shelf.tag(run_id, {DATASET: str(outs.described["dataset"])})
        if MODEL not in tags and self._params.tracking.log_models:
            shelf.tag(run_id, {MODEL: log_model(shelf, run_id, self._params, outs)})

    def _add_charts(self, shelf: Shelf, run_id: str, outs: ArmOuts, reported: str | None) -> None:
        """Hang the experiment's charts on the run, anew where its report has changed."""
        if reported is None or self._client.get_run(run_id).data.tags.get(CHARTS) == reported:
            return
        drawn = self._charts(outs.experiment)
        for name, svg in drawn.charts.items():
            self._client.log_text(run_id, svg, f"charts/{name}")
        colour = {COLOUR: drawn.colours[outs.arm]} if outs.arm in drawn.colours else {}
        shelf.tag(run_id, {**colour, CHARTS: reported})

    def _mark_current(self, shelf: Shelf, kept: set[str]) -> None:
        """Tell the runs of the present outs from those of earlier ones."""
        for parent in shelf.search(role="arm", current="true"):
            run_id = parent.info.run_id
            if run_id in kept or not (KEY in parent.data.tags or dead_owner(parent)):
                continue  # the present ones, and those that a living training is writing
            for run in (*shelf.children(run_id), parent):  # the parent last: a crash leaves it to be found
                shelf.tag(run.info.run_id, {CURRENT: "false"})
        for run_id in kept:
            if self._client.get_run(run_id).data.tags.get(CURRENT) != "true":
                for run in shelf.children(run_id):
                    shelf.tag(run.info.run_id, {CURRENT: "true"})
                shelf.tag(run_id, {CURRENT: "true"})
