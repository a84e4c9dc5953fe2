"""One retraining, from "is there anything new?" to a record of what was decided."""

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbench.chain import changed_stages
from lossbench.data.dataset import Dataset
from lossbench.doctor import examine, find_repository, guarded, repair_all
from lossbench.errors import GateError, UserError
from lossbench.execution.identity import use_own_code
from lossbench.lifetime import die_with_parent
from lossbench.lock import REPRO_LOCK, HeldError, only_one
from lossbench.params import Params
from lossbench.retraining import records
from lossbench.retraining.choice import challenger_arm, experiment_of
from lossbench.retraining.contents import UNREADABLE, WEIGHTS, contents, file_digest
from lossbench.retraining.gate import Decision, Groups, Slices, decide
from lossbench.retraining.looks import Looks
from lossbench.retraining.notify import notify
from lossbench.retraining.records import Attempt
from lossbench.retraining.reference import expect_frozen
from lossbench.retraining.registry import (
    DECISION,
    FILES,
    Registry,
    Standing,
    UnsettledError,
    download,
    evidence_tags,
)
from lossbench.retraining.scoring import Contender, contender, read_contender
from lossbench.serving.logged import carry_code, log_model, median_seed
from lossbench.telling import first_line, scrubbed
from lossbench.tracking.experiment import open_experiment
from lossbench.tracking.outs import ArmOuts, home_of
from lossbench.tracking.provenance import data_digest, digest, revision, study_name
from lossbench.tracking.server import RefusedError, ServerGoneError, connect
from lossbench.tracking.store import expect_remembered, remember, store_of
from lossbench.tracking.track import MODEL

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

LOCK = "retraining.lock"
WAITING = ("lossbench retrain", "lossbench rollback")
"""Whoever else retrains or rolls back leaves, or waits, until we let the lock go: they are not at work."""
JUDGING_SPLITS = ("test", "reference")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Told:
    """What somebody says to one call by hand.

    Attributes:
        allow: version that was rolled back and may come in again.
        move_store: the study's record goes on in the store that is named now.
        new_reference: the reference split is right as it is now, and frozen so.

    """

    allow: str | None = None
    move_store: bool = False
    new_reference: bool = False


def retrain(params: Params, root: Path, say: Say = print, told: Told | None = None) -> int:
    """Retrain and decide, once; safe to call from any scheduler at any time.

    Args:
        params: of the study.
        root: its folder.
        say: hears one line per finding.
        told: by hand.

    Returns:
        The exit code: 0 done, nothing new, or another is at work; 1 the data, the training or the registry
        failed and the champion stays; 2 params.yaml has to be corrected.

    """
    experiment_of(params)
    told = told or Told()
    if not told.move_store:
        expect_remembered(root)
    try:
        with only_one(home_of(root) / LOCK, "retraining"):
            return _Attempt(params, root, say, told).run()
    except HeldError as held:
        say(f"{held}; nothing done")
        return 0


def rollback(params: Params, root: Path, say: Say = print) -> None:
    """Give the former champion its place back.

    Raises:
        GateError: if there is none, the registry does not answer, or a retraining is at work.

    """
    expect_remembered(root)
    use_own_code(params, root)  # the former champion's task may be of it
    try:
        with only_one(home_of(root) / LOCK, "retraining"):
            _set_aside(root, say)
            now, before = _roll_back(params, root, say)
    except HeldError as held:
        raise GateError(f"{held}; try again when it has ended") from None
    except (ServerGoneError, RefusedError) as error:
        raise GateError(f"MLflow at {store_of(root).shown}: {error}; the champion stays") from None
    say(f"version {now} of '{params.retraining.model_name}' is champion again, in place of version {before}")
    say(f"version {before} stays out until `lossbench retrain --allow {before}`")


def _roll_back(params: Params, root: Path, say: Say) -> tuple[str, str]:
    with registry_errors():
        registry = Registry(connect(root), params.retraining.model_name)
        _catch_up(registry, params, root, say)
        standing = registry.standing()
        if standing.former is not None and standing.former in standing.versions:
            _read_version(registry, standing.former, "the former champion")
        attempt = Attempt(_now(), "promoted", "")
        now, before = registry.roll_back(asdict(attempt))
    reason = f"rolled back by hand from version {before}"
    _finish(params, root, replace(attempt, reason=reason, version=now, champion=now))
    return now, before


def _catch_up(registry: Registry, params: Params, root: Path, say: Say) -> None:
    """Complete an interrupted promotion or rollback, and the record of it."""
    row = registry.settle()
    if row is None or not row.get("id"):  # promoted by an older version of ours, or by somebody else
        return
    attempt = Attempt.of(row)
    if not records.knows(root, attempt):
        say(f"an interrupted call had made version {attempt.version} champion; its record is completed")
        _finish(params, root, attempt)


def _set_aside(root: Path, say: Say) -> None:
    sentence = records.set_aside_if_unreadable(root)
    if sentence is not None:
        say(sentence)


def _finish(params: Params, root: Path, attempt: Attempt) -> None:
    attempt = replace(attempt, reason=scrubbed(attempt.reason))
    records.add(root, attempt)
    failed = notify(params.retraining.notify, attempt)
    if failed:
        print(f"warning: {scrubbed(failed)}", file=sys.stderr)


@dataclass
class _Attempt:
    params: Params
    root: Path
    say: Say
    told: Told
    id: str = field(default_factory=lambda: Attempt("", "", "").id)

    def run(self) -> int:
        _set_aside(self.root, self.say)
        attempt = Attempt(_now(), "failed", "", id=self.id)
        try:
            if self._in_use() or not self._anything_new():
                return 0
            self._repro()
            attempt = self._decide()
        except HeldError:
            raise
        except UserError as error:  # somebody has to put it right: they are told as of any failure
            self._end(replace(attempt, reason=f"{error}; the champion stays"))
            raise
        except UnsettledError as error:
            attempt = replace(attempt, reason=str(error))
        except (GateError, ServerGoneError, RefusedError) as error:
            attempt = replace(attempt, reason=f"{error}; the champion stays")
        except Exception as error:  # a bug, or a machine's failure: an attempt that failed all the same
            print(scrubbed(traceback.format_exc()), file=sys.stderr)
            attempt = replace(
                attempt, reason=f"{type(error).__name__}: {first_line(error)}; the champion stays"
            )
        self._end(attempt)
        return 1 if attempt.outcome == "failed" else 0

    def _end(self, attempt: Attempt) -> None:
        self.say(f"{attempt.outcome}: {scrubbed(attempt.reason)}")
        _finish(self.params, self.root, attempt)

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
        """Raise HeldError where `lossbench run` is at work."""
        with only_one(home_of(self.root) / REPRO_LOCK, "`lossbench run`"):
            pass

    def _registry(self) -> Registry:
        registry = Registry(connect(self.root), self.params.retraining.model_name)
        remember(self.root, self.told.move_store)
        return registry

    def _anything_new(self) -> bool:
        with registry_errors():
            registry = self._registry()
            if self.told.allow is not None:
                registry.allow(self.told.allow)
                self.say(f"version {self.told.allow} is allowed again")
            _catch_up(registry, self.params, self.root, self.say)
            champion = registry.champion()
        stages = sorted(changed_stages(self.root))
        if stages:
            self.say(f"new: {len(stages)} stages have changed dependencies ({', '.join(stages[:3])}…)")
            return True
        if champion is None:
            self.say("there is no champion")
            return True
        if self.told != Told():
            return True
        if records.last_fingerprint(self.root) == records.fingerprint(self.root, self.params):
            self.say("nothing new since the last retraining; nothing done")
            return False
        self.say("the comparison is up to date, but no retraining has judged it yet")
        return True

    def _repro(self) -> None:
        command = [sys.executable, "-m", "lossbench", "run"]
        ended = subprocess.run(command, cwd=self.root, check=False, preexec_fn=die_with_parent)
        if ended.returncode == 2:
            raise UserError("`lossbench run` refused params.yaml; its sentence stands above")
        if ended.returncode:
            self._leave_to_make_repro()  # one that has begun since refused ours
            raise GateError(
                "`lossbench run` failed (data that fail validation, or a stage); its output stands above"
            )

    def _decide(self) -> Attempt:
        experiment = experiment_of(self.params)
        arm = challenger_arm(self.params, self.root, experiment)
        outs = ArmOuts(self.root, experiment, arm)
        data = Dataset.open(self.root / "data" / self.params.arms[arm].dataset)
        table = _manifest(data)
        self._expect_frozen(data, table)
        challenger, seed = _challenger(outs, self.params, data)
        weights = file_digest(outs.folder / f"seed-{seed}.safetensors")
        key = digest(outs.key(study_name(self.params, self.root)), seed)
        metric = self.params.experiments[experiment].metric
        with registry_errors():
            registry = self._registry()
            registry.settle()
            judged = registry.standing()
            held = _champion(registry, judged.champion, metric)
        decision = decide(
            challenger,
            held,
            data,
            metric,
            self.params.retraining,
            self._slices(table),
            _groups(table),
            partial(self._spend, data, table, f"{weights} {judged.champion}"),
        )
        attempt = Attempt(
            outcome="kept",
            arm=arm,
            seed=str(seed),
            champion=judged.champion or "",
            metric=metric,
            fingerprint=records.fingerprint(self.root, self.params),
            id=self.id,
            **self._described(data, decision),
        )
        refused = judged.refused(key, weights)
        if decision.promote and refused is not None:
            version, why = refused
            reason = (
                f"version {version} is this challenger, and was {why}; `lossbench retrain --allow {version}` "
                "lets it in again"
            )
            return replace(attempt, reason=reason, version=version)
        if decision.promote:
            with registry_errors():
                return self._promote(registry, judged, outs, seed, key, decision, attempt)
        return attempt

    def _expect_frozen(self, data: Dataset, table: "pd.DataFrame") -> None:
        name, arms = data.folder.name, self.params.arms
        promoted = any(
            one.outcome == "promoted" and one.arm in arms and arms[one.arm].dataset == name
            for one in records.read(self.root)
        )
        added = expect_frozen(self.root, name, table, self.told.new_reference, promoted)
        if added:
            self.say(f"{added} samples of the reference split are frozen from now on")

    def _spend(self, data: Dataset, table: "pd.DataFrame", what: str) -> float:
        """Take one look at the test split; see :mod:`lossbench.retraining.looks`."""
        examples = table.loc[table["split"] == "test", "sha256"].astype(str).tolist()
        looks = Looks.read(self.root, data.folder.name)
        return looks.spend(digest(what), examples, self.params.retraining.level)

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
            "level": "" if decision.level is None else f"{decision.level:.6g}",
            "challenger_score": f"{decision.challenger['test']:.6f}",
            "samples": str(sum(data.info.sizes.values())),
            "data": data_digest(data.folder),
            "commit": revision(self.root).get("git_commit", ""),
            **compared,
        }

    def _slices(self, table: "pd.DataFrame") -> Slices:
        """Parts of test and reference split by the manifest's declared columns."""
        found: dict[str, dict[str, Any]] = {}
        for column in self.params.retraining.slices:
            if column not in table:
                raise UserError(
                    f"params.yaml: 'retraining.slices' names no column of the manifest: '{column}'; allowed: "
                    + ", ".join(sorted(map(str, table.columns)))
                )
            for (split, value), rows in table.groupby(["split", column]):
                if split in JUDGING_SPLITS:
                    name = f"{column}={value}"
                    found.setdefault(str(split), {})[name] = rows["index"].to_numpy(dtype=np.int64)
        return found

    def _promote(
        self,
        registry: Registry,
        judged: Standing,
        outs: ArmOuts,
        seed: int,
        key: str,
        decision: Decision,
        attempt: Attempt,
    ) -> Attempt:
        run_id, model_id = _logged(registry.client, self.params, self.root, outs)
        carry_code(registry.client, model_id)
        tags = {
            "arm": outs.arm,
            "experiment": outs.experiment,
            "seed": str(seed),
            "dvc_stage": f"train@{outs.arm}",
            "params_hash": attempt.fingerprint,
            "data_hash": attempt.data,
            **revision(self.root),
            **evidence_tags(decision.evidence),
            DECISION: decision.reason,
            FILES: json.dumps(_logged_contents(model_id, outs, seed)),
        }
        version = registry.register(key, model_id, run_id, tags, f"Promoted: {decision.reason}.")
        promoted = replace(attempt, outcome="promoted", version=version, champion=version)
        registry.take_over(version, judged, asdict(promoted))
        return promoted


def _manifest(data: Dataset) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(data.folder / "manifest.parquet")


def _groups(table: "pd.DataFrame") -> Groups:
    """Number the groups of test and reference split, where the manifest has a column ``group``.

    A sample without a group is one of its own.
    """
    if "group" not in table:
        return {}
    found = {}
    for split in JUDGING_SPLITS:
        rows = table[table["split"] == split].sort_values("index")
        named = rows["group"].where(rows["group"].notna(), "\0" + rows["id"])
        found[split] = np.unique(named.astype(str).to_numpy(), return_inverse=True)[1]
    return found


def _challenger(outs: ArmOuts, params: Params, data: Dataset) -> tuple[Contender, int]:
    """Load the arm's replicate with the median validation score: the best one's luck would not last."""
    seed = median_seed(outs, params)
    weights = outs.folder / f"seed-{seed}.safetensors"
    metric = params.experiments[outs.experiment].metric
    return contender(f"{outs.arm}, seed {seed}", outs.described, weights, data.info, metric), seed


def _champion(registry: Registry, version: str | None, metric: str) -> Contender | None:
    if version is None:
        return None
    return _read_version(registry, version, "the champion", metric)


def _read_version(registry: Registry, version: str, what: str, metric: str = "") -> Contender:
    """Load a version as it is in the registry; to be scored by a metric, or only to see that it is whole.

    Raises:
        GateError: its files are not what was promoted, or no model.

    """
    try:
        with registry.folder_of(version) as folder:
            return read_contender(f"version {version}", folder, metric)
    except (ServerGoneError, RefusedError):
        raise
    except GateError as error:
        raise GateError(f"{what} cannot be read: {error}") from None
    except UNREADABLE as error:
        raise GateError(
            f"{what} cannot be read (version {version}: {type(error).__name__}: {first_line(error)}); "
            "restore it from a backup, or roll back"
        ) from None


def _logged_contents(model_id: str, outs: ArmOuts, seed: int) -> dict[str, str]:
    """Digest the logged model as MLflow gives it back; it has to be what was judged.

    Raises:
        GateError: if it is not.

    """
    wanted = {
        WEIGHTS: file_digest(outs.folder / f"seed-{seed}.safetensors"),
        "arm.json": file_digest(outs.folder / "arm.json"),
        "dataset.json": file_digest(outs.root / "data" / outs.described["dataset"] / "dataset.json"),
    }
    with TemporaryDirectory() as scratch:
        folder = download(f"models:/{model_id}", Path(scratch), {})
        found = contents(folder)
    for name, sha256 in wanted.items():
        if found.get(name) != sha256:
            raise GateError(
                f"MLflow's model {model_id} of '{outs.arm}' is not what was judged ({name} differs); "
                f"delete the runs of '{outs.arm}' in MLflow, and `lossbench track` records it anew"
            )
    return found


def _logged(client: "MlflowClient", params: Params, root: Path, outs: ArmOuts) -> tuple[str, str]:
    """Find the arm's run and its logged model; the model is logged now where params leave that out."""
    shelf = open_experiment(client, params, root, outs.experiment)
    runs = shelf.search(key=outs.key(study_name(params, root)), role="arm")
    if not runs:
        raise GateError(f"MLflow has no run of '{outs.arm}'; `lossbench track` completes the record")
    run = runs[0]
    model_id = run.data.tags.get(MODEL)
    if model_id is None:
        model_id = log_model(shelf, run.info.run_id, params, outs)
        shelf.tag(run.info.run_id, {MODEL: model_id})
    return str(run.info.run_id), str(model_id)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def registry_errors() -> Iterator[None]:
    """What MLflow raises becomes one of two exceptions."""
    from lossbench.tracking.server import server_errors
    from lossbench.tracking.store import prepare_environment

    prepare_environment()
    with server_errors():
        yield
