"""One retraining, from "is there anything new?" to a record of what was decided."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbench.chain import changed_stages
from lossbench.data.dataset import Dataset
from lossbench.doctor import examine, find_repository, guarded, repair_all
from lossbench.errors import GateError, UserError
from lossbench.lifetime import die_with_parent
from lossbench.lock import REPRO_LOCK, HeldError, only_one
from lossbench.params import Params
from lossbench.retraining import records
from lossbench.retraining.changes import fingerprint
from lossbench.retraining.gate import Decision, Slices, decide
from lossbench.retraining.notify import notify
from lossbench.retraining.promotion import (
    CHAMPION,
    DECISION,
    Registry,
    evidence_tags,
    roll_back,
)
from lossbench.retraining.records import Attempt
from lossbench.retraining.scoring import Contender, contender, read_contender
from lossbench.serving.logged import log_model, median_seed
from lossbench.tracking.experiment import open_experiment
from lossbench.tracking.outs import ArmOuts, home_of
from lossbench.tracking.provenance import data_digest, digest, revision, study_name
from lossbench.tracking.server import RefusedError, ServerGoneError, connect
from lossbench.tracking.track import MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK = "retraining.lock"
WAITING = ("lossbench retrain", "lossbench rollback")
"""Whoever else retrains or rolls back leaves, or waits, until we let the lock go: they are not at work."""
Say = Callable[[str], None]


def retrain(params: Params, root: Path, say: Say = print) -> int:
    """Retrain and decide, once; safe to call from any scheduler at any time.

    Args:
        params: of the study.
        root: its folder.
        say: hears one line per finding.

    Returns:
        The exit code: 0 done, nothing new, or another is at work; 1 the data, the training or the registry
        failed and the champion stays; 2 params.yaml has to be corrected.

    """
    experiment_of(params)
    try:
        with only_one(home_of(root) / LOCK, "retraining"):
            return _Attempt(params, root, say).run()
    except HeldError as held:
        say(f"{held}; nothing done")
        return 0


def rollback(params: Params, root: Path, say: Say = print) -> None:
    """Give the former champion its place back.

    Raises:
        GateError: if there is none, or a retraining is at work.

    """
    try:
        with only_one(home_of(root) / LOCK, "retraining"), _registry_errors():
            now, before = roll_back(Registry(connect(root), params.retraining.model_name))
    except HeldError as held:
        raise GateError(f"{held}; try again when it has ended") from None
    attempt = Attempt(
        _now(), "promoted", f"rolled back by hand from version {before}", version=now, champion=now
    )
    records.add(root, attempt)
    say(f"version {now} of '{params.retraining.model_name}' is champion again, in place of version {before}")


def experiment_of(params: Params) -> str:
    """Name the experiment whose winner goes into service.

    Raises:
        UserError: if params do not say and there are several.

    """
    if params.retraining.experiment is not None:
        return params.retraining.experiment
    if len(params.experiments) == 1:
        return next(iter(params.experiments))
    raise UserError(
        "params.yaml: 'retraining.experiment' is missing; it names whose winner goes into service: "
        + ", ".join(params.experiments)
    )


def challenger_arm(params: Params, root: Path, experiment: str) -> str:
    """Choose the arm: the best of those shown to be better than the baseline, else the baseline.

    An arm that merely happens to have the highest mean does not count.
    """
    baseline = params.baseline_of(experiment)
    verdicts = json.loads((root / "reports/verdicts.json").read_bytes())["verdicts"]
    better = [
        one
        for one in verdicts
        if one["experiment"] == experiment and one["baseline"] == baseline and one["verdict"] == "better"
    ]
    if better:
        return str(max(better, key=lambda one: abs(one["difference"]))["arm"])
    if baseline is None:
        raise GateError(
            f"experiment '{experiment}' has no arm with the baseline loss; nothing to put into service"
        )
    return baseline


@dataclass
class _Attempt:
    params: Params
    root: Path
    say: Say

    def run(self) -> int:
        if self._in_use() or not self._anything_new():
            return 0
        attempt = Attempt(_now(), "failed", "")
        try:
            self._repro()
            attempt = self._decide()
        except UserError:
            raise
        except (GateError, ServerGoneError, RefusedError) as error:
            attempt = replace(attempt, reason=f"{error}; the champion stays")
        self._finish(attempt)
        return 1 if attempt.outcome == "failed" else 0

    def _in_use(self) -> bool:
        """Repair what a crash left, and leave a study alone that somebody else works on."""
        self._leave_to_make_repro()
        with guarded(find_repository(self.root)) as undisturbed:
            made = examine(self.root, undisturbed, WAITING)
            if made.busy:
                self.say(f"at work: {', '.join(made.busy)}; nothing done")
                return True
            if failed := repair_all(made.findings, self.say):
                raise GateError(f"{failed} of {len(made.findings)} things a crash left could not be repaired")
        return False

    def _leave_to_make_repro(self) -> None:
        """Raise HeldError where `make repro` is at work."""
        with only_one(home_of(self.root) / REPRO_LOCK, "`make repro`"):
            pass

    def _anything_new(self) -> bool:
        stages = sorted(changed_stages(self.root))
        if stages:
            self.say(f"new: {len(stages)} stages have changed dependencies ({', '.join(stages[:3])}…)")
            return True
        if records.last_fingerprint(self.root) == fingerprint(self.root, self.params):
            self.say("nothing new since the last retraining; nothing done")
            return False
        self.say("the comparison is up to date, but no retraining has judged it yet")
        return True

    def _repro(self) -> None:
        command = [sys.executable, "-m", "lossbench", "run"]
        ended = subprocess.run(command, cwd=self.root, check=False, preexec_fn=die_with_parent)
        if ended.returncode == 2:
            raise UserError("`make repro` refused params.yaml; its sentence stands above")
        if ended.returncode:
            self._leave_to_make_repro()  # one that has begun since refused ours
            raise GateError(
                "`make repro` failed (data that fail validation, or a stage); its output stands above"
            )

    def _decide(self) -> Attempt:
        experiment = experiment_of(self.params)
        arm = challenger_arm(self.params, self.root, experiment)
        outs = ArmOuts(self.root, experiment, arm)
        data = Dataset.open(self.root / "data" / self.params.arms[arm].dataset)
        challenger, seed = _challenger(outs, data)
        metric = self.params.experiments[experiment].metric
        with _registry_errors():
            registry = Registry(connect(self.root), self.params.retraining.model_name)
            registry.settle()
            champion = registry.version_of(CHAMPION)
            held = _champion(registry, champion)
        decision = decide(challenger, held, data, metric, self.params.retraining, self._slices(data))
        version = ""
        if decision.promote:
            with _registry_errors():
                version = self._promote(registry, outs, seed, decision)
        described = self._described(data, decision)
        return Attempt(
            outcome="promoted" if decision.promote else "kept",
            arm=arm,
            seed=str(seed),
            version=version,
            champion=version or champion or "",
            metric=metric,
            fingerprint=fingerprint(self.root, self.params),
            **described,
        )

    def _described(self, data: Dataset, decision: Decision) -> dict[str, str]:
        test = decision.evidence.get("test")
        compared = {} if test is None else {
            "champion_score": f"{test.champion:.6f}",
            "gain": f"{test.gain:.6f}",
            "low": f"{test.low:.6f}",
            "high": f"{test.high:.6f}",
        }  # fmt: skip
        return {
            "time": _now(),
            "reason": decision.reason,
            "challenger_score": f"{decision.challenger['test']:.6f}",
            "samples": str(sum(data.info.sizes.values())),
            "data": data_digest(data.folder),
            "commit": revision(self.root).get("git_commit", ""),
            **compared,
        }

    def _slices(self, data: Dataset) -> Slices:
        """Parts of test and reference split by the manifest's declared columns."""
        if not self.params.retraining.slices:
            return {}
        import pandas as pd

        table = pd.read_parquet(data.folder / "manifest.parquet")
        found: dict[str, dict[str, Any]] = {}
        for column in self.params.retraining.slices:
            if column not in table:
                raise UserError(
                    f"params.yaml: 'retraining.slices' names no column of the manifest: '{column}'; allowed: "
                    + ", ".join(sorted(map(str, table.columns)))
                )
            for (split, value), rows in table.groupby(["split", column]):
                if split in ("test", "reference"):
                    name = f"{column}={value}"
                    found.setdefault(str(split), {})[name] = rows["index"].to_numpy(dtype=np.int64)
        return found

    def _promote(self, registry: Registry, outs: ArmOuts, seed: int, decision: Decision) -> str:
        run_id, model_id = _logged(registry.client, self.params, self.root, outs)
        tags = {
            "arm": outs.arm,
            "experiment": outs.experiment,
            "seed": str(seed),
            "dvc_stage": f"train@{outs.arm}",
            "params_hash": fingerprint(self.root, self.params),
            "data_hash": data_digest(self.root / "data" / outs.described["dataset"]),
            **revision(self.root),
            **evidence_tags(decision.evidence),
            DECISION: decision.reason,
        }
        key = digest(outs.key(study_name(self.params, self.root)), seed)
        version = registry.register(key, model_id, run_id, tags, f"Promoted: {decision.reason}.")
        registry.promote(version)
        return version

    def _finish(self, attempt: Attempt) -> None:
        records.add(self.root, attempt)
        self.say(f"{attempt.outcome}: {attempt.reason}")
        failed = notify(self.params.retraining.notify, attempt)
        if failed:
            print(f"warning: {failed}", file=sys.stderr)


def _challenger(outs: ArmOuts, data: Dataset) -> tuple[Contender, int]:
    """Load the arm's replicate with the median validation score: the best one's luck would not last."""
    from lossbench.tasks.base import task_class

    seed = median_seed(outs, task_class(outs.described["task"]).monitor)
    weights = outs.folder / f"seed-{seed}.safetensors"
    return contender(f"{outs.arm}, seed {seed}", outs.described, weights, data.info), seed


def _champion(registry: Registry, version: str | None) -> Contender | None:
    if version is None:
        return None
    with registry.folder_of(version) as folder:
        return read_contender(f"version {version}", folder)


def _logged(client: "MlflowClient", params: Params, root: Path, outs: ArmOuts) -> tuple[str, str]:
    """Find the arm's run and its logged model; the model is logged now where params leave that out."""
    shelf = open_experiment(client, params, root, outs.experiment)
    runs = shelf.search(key=outs.key(study_name(params, root)), role="arm")
    if not runs:
        raise GateError(f"MLflow has no run of '{outs.arm}'; `make track` completes the record")
    run = runs[0]
    model_id = run.data.tags.get(MODEL)
    if model_id is None:
        model_id = log_model(shelf, run.info.run_id, params, outs)
        shelf.tag(run.info.run_id, {MODEL: model_id})
    return str(run.info.run_id), str(model_id)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _registry_errors() -> Any:
    """What MLflow raises becomes one of two exceptions."""
    from lossbench.tracking.server import prepare_environment, server_errors

    prepare_environment()
    return server_errors()
