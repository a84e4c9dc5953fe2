"""Several checkouts record to one store at once: nothing doubled, nothing missing, nobody fails."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.entities import ViewType

from benchmarks.fault_kinds import of_records
from benchmarks.fault_study import TRACK, Study, points, running
from lossbench.identity import Owner
from lossbench.params import load_params
from lossbench.tracking import ship
from lossbench.tracking import track as track_module
from lossbench.tracking.claims import WRITER, Claim
from lossbench.tracking.experiment import (
    COMPLETE,
    CURRENT,
    KEY,
    PARENT,
    ROLE,
    MlflowExperiment,
    open_experiment,
)
from lossbench.tracking.server import RefusedError, connect
from lossbench.tracking.ship import LeftError, amend
from lossbench.tracking.track import Drawn, track
from lossbench.tracking.ui import mlflow_server
from tests.test_tracking_ship import assert_mirrors, role, runs_of
from tests.tracking_study import train, write_outs, write_report, write_study

ROOT = Path(__file__).resolve().parents[1]


def clones(folder, models=False, reported=True):
    """Two checkouts with the same outs; each trained them itself."""
    found = [folder / "one", folder / "two"]
    for root in found:
        params = write_study(root)
        content = json.loads((root / "params.yaml").read_text())
        content["tracking"]["log_models"] = models
        (root / "params.yaml").write_text(json.dumps(content))
        for arm in params.arms:
            train(root, params, arm, weights=True)
        if reported:
            write_report(root, params)
    return found


@pytest.fixture
def store(tmp_path, empty_store, monkeypatch):
    """A database that both checkouts use."""
    (tmp_path / "shared").mkdir()
    shutil.copy(empty_store, tmp_path / "shared" / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'shared' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def assert_once(root, shift=0.0):
    """Each arm, epoch, model, manifest and chart stands there once; no child outlives its parent."""
    assert_mirrors(root, shift=shift)
    client = connect(root)
    runs = runs_of(root)
    for run in runs:
        for key in run.data.metrics:
            points = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, key)]
            assert len(points) == len(set(points)), (run.data.tags["arm"], key)
    for parent in role(runs, "arm"):
        assert len(parent.inputs.dataset_inputs) == 1
        assert not any(tag.startswith(WRITER) for tag in parent.data.tags), "nobody writes it any more"
    return runs


class Slow:
    """A client that hesitates before each call and after it, at random."""

    def __init__(self, client, chance, rate):
        self._client, self._chance, self._rate = client, chance, rate

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def slow(*arguments, **options):
            time.sleep(self._chance.expovariate(self._rate))
            answer = call(*arguments, **options)
            time.sleep(self._chance.expovariate(self._rate))
            return answer

        return slow


@pytest.mark.parametrize(
    ("seed", "rate"),  # a second
    [(0, 1000), *(pytest.param(seed, 100, marks=pytest.mark.slow) for seed in (0, 1, 2))],
)
def test_two_checkouts_that_record_at_once_leave_one_copy(tmp_path, store, monkeypatch, seed, rate):
    monkeypatch.setattr(
        "lossbench.tracking.track.connect",
        lambda root: Slow(connect(root), random.Random(f"{root}{seed}"), rate),
    )
    failed = []

    def record(root):
        try:
            track(load_params(root / "params.yaml"), root, charts=lambda _: Drawn({"scores.svg": "<svg/>"}))
        except Exception as error:  # of any kind: a thread's would be lost, and the test shows it
            failed.append(error)

    threads = [threading.Thread(target=record, args=(root,)) for root in clones(tmp_path)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    runs = assert_once(tmp_path / "one")
    assert {run.data.tags["verdict"] for run in role(runs, "arm")} == {"baseline", "better"}


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))  # whose copy stays, ids decide, which are random
def test_two_whole_copies_of_the_same_moment_leave_one(tmp_path, store, monkeypatch, round_):
    """Both write, since neither saw the other; both find no whole copy; one has left when the other says so."""
    write, complete, chosen = ship._write, MlflowExperiment.complete, ship._settle
    both, last, left = threading.Barrier(2), [], threading.Event()

    def together():
        with suppress(threading.BrokenBarrierError):  # by then the first arm, which counts, is over
            both.wait(3)

    def written(*arguments):
        together()
        return write(*arguments)

    def completed(*arguments):
        together()
        if not last and both.n_waiting == 0:
            last.append(threading.get_ident())
        if last == [threading.get_ident()]:
            left.wait(3)
        complete(*arguments)

    def settled(*arguments):
        found = chosen(*arguments)
        if found is not None and last and last != [threading.get_ident()]:
            left.set()
        return found

    monkeypatch.setattr(ship, "_write", written)
    monkeypatch.setattr(ship, "_settle", settled)
    monkeypatch.setattr(MlflowExperiment, "complete", completed)
    roots, failed = clones(tmp_path), []

    def record(root):
        try:
            track(load_params(root / "params.yaml"), root)
        except Exception as error:  # of any kind: a thread's would be lost, and the test shows it
            failed.append(error)

    threads = [threading.Thread(target=record, args=(root,)) for root in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert left.is_set()
    assert_once(roots[0])


def rounds(folder, uri, count, models):
    """Record from two checkouts at once, in processes of their own, again and again with outs made anew."""
    found = clones(folder, models, reported=False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    for number in range(count):
        for root in found:
            params = load_params(root / "params.yaml")
            for arm in params.arms:
                write_outs(root, params, arm, shift=float(number), weights=True)
        with ExitStack() as stack:
            at_once = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-m", "lossbench", "track"], cwd=root, env=environment,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    )
                )
                for root in found
            ]  # fmt: skip
            said = [one.communicate()[0] for one in at_once]
        assert [one.returncode for one in at_once] == [0, 0], "\n".join(said)
        runs = [run for run in assert_once(found[0], float(number)) if run.data.tags[CURRENT] == "true"]
        client = connect(found[0])
        experiment = client.get_experiment_by_name("toy").experiment_id
        logged = [
            model.source_run_id
            for model in client.search_logged_models([experiment])
            if model.status == "READY"
        ]
        for parent in role(runs, "arm"):
            assert logged.count(parent.info.run_id) == models
        assert len(role(runs_of(found[0]), "arm")) == 2 * (number + 1)


@pytest.mark.slow
def test_two_processes_that_record_at_once_leave_one_copy(tmp_path, store):
    rounds(tmp_path, store, count=1, models=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_clones_record_to_one_server_thrice_at_once(tmp_path, empty_store, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "server.log", port=0) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        rounds(tmp_path, uri, count=3, models=True)


def planted(root, owner, at):
    """A half-written copy of each arm, as a writer leaves it that was killed."""
    track(load_params(root / "params.yaml"), root)
    client = connect(root)
    for parent in role(runs_of(root), "arm"):
        with Claim() as claim:
            said = json.loads(claim.tags()[claim.tag])
        said |= {"owner": str(owner), "at": at}
        client.set_tag(parent.info.run_id, claim.tag, json.dumps(said))
        client.delete_tag(parent.info.run_id, COMPLETE)
    return {run.info.run_id for run in runs_of(root)}


ELSEWHERE = Owner("another host", "another boot", 1, 0.0, "1")
GONE = Owner(Owner.me().host, Owner.me().boot, 2**22 - 1, 1.0, Owner.me().space)


@pytest.mark.parametrize(
    ("owner", "age", "lease", "spared"),
    [
        (GONE, 0.0, 120.0, False),  # its process is known to be gone
        # nothing is known of it: it may be writing
        pytest.param(ELSEWHERE, 0.0, 4.0, True, marks=pytest.mark.slow),
        # nothing was heard of it for a day
        pytest.param(ELSEWHERE, 86_400.0, 120.0, False, marks=pytest.mark.slow),
    ],
)
def test_a_half_written_copy_is_spared_while_its_writer_may_live(
    tmp_path, store, monkeypatch, owner, age, lease, spared
):
    root = clones(tmp_path)[0]
    monkeypatch.setattr("lossbench.tracking.claims.LEASE", lease)
    Claim.tags.__defaults__, before = (lease,), Claim.tags.__defaults__
    try:
        old = planted(root, owner, time.time() - age)
    finally:
        Claim.tags.__defaults__ = before
    began = time.monotonic()
    track(load_params(root / "params.yaml"), root)
    assert (time.monotonic() - began > lease) == spared
    assert_once(root)
    assert old.isdisjoint(run.info.run_id for run in runs_of(root))


def test_children_that_outlived_their_parent_are_swept(tmp_path, store):
    root = clones(tmp_path)[0]
    track(load_params(root / "params.yaml"), root)
    client = connect(root)
    experiment = client.get_experiment_by_name("toy").experiment_id
    parent = client.create_run(experiment, tags={ROLE: "arm", KEY: "of other outs", CURRENT: "false"})
    child = client.create_run(experiment, tags={ROLE: "replicate", PARENT: parent.info.run_id})
    client.delete_run(parent.info.run_id)
    track(load_params(root / "params.yaml"), root)
    deleted = client.search_runs([experiment], "", ViewType.DELETED_ONLY)
    assert {run.info.run_id for run in deleted} == {parent.info.run_id, child.info.run_id}


@pytest.mark.slow
def test_an_arm_deleted_while_it_is_recorded_is_recorded_again(tmp_path, store, monkeypatch):
    """By another checkout, or by hand: at any call."""
    root = clones(tmp_path)[0]
    params = load_params(root / "params.yaml")
    for call in range(5, 30, 6):
        left = [call]

        class Deleting:
            def __init__(self, client):
                self._client = client

            def __getattr__(self, name, left=left):
                left[0] -= 1
                if left[0] == 0:
                    for parent in role(runs_of(root), "arm"):
                        self._client.delete_run(parent.info.run_id)
                return getattr(self._client, name)

        with monkeypatch.context() as patch:
            patch.setattr("lossbench.tracking.track.connect", lambda path: Deleting(connect(path)))
            track(params, root)
        track(params, root)
        assert_once(root)


@pytest.mark.slow
def test_of_two_who_were_told_that_they_took_a_run_one_goes_first(tmp_path, store, monkeypatch):
    """As on a database that lets two delete the same row: both delete it, one amends, the other looks again."""
    root = clones(tmp_path)[0]
    params = load_params(root / "params.yaml")
    track(params, root)
    parent = role(runs_of(root), "arm")[0].info.run_id
    both, added = threading.Barrier(2), []

    class Lax:
        """A client that tells everyone that the tag was taken off."""

        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            return getattr(self._client, name)

        def delete_tag(self, run_id, key):
            if key != COMPLETE:
                self._client.delete_tag(run_id, key)
                return
            both.wait(30)  # both have seen that the run is whole
            with suppress(RefusedError):
                self._client.delete_tag(run_id, key)

    def add(run_id, _claim):
        added.append(run_id)
        connect(root).set_tag(run_id, "added", "true")

    def amend_it():
        target = open_experiment(Lax(connect(root)), params, root, "toy")
        amend(target, parent, lambda run: "added" not in run.data.tags, add)

    threads = [threading.Thread(target=amend_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert added == [parent]
    assert_once(root)


@pytest.mark.slow
@pytest.mark.parametrize("kind", of_records(), ids=lambda kind: kind.name)
def test_the_faults_of_records_lose_and_double_nothing(tmp_path, empty_store, monkeypatch, kind):
    """The kinds of `python -m benchmarks.faults`, on a study that was not trained."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = clones(tmp_path, reported=False)[0]
    shutil.copy(empty_store, root / "mlflow.db")
    study = Study(root, environment={"PYTHONPATH": str(ROOT)})
    right = study.copy(tmp_path / "undisturbed")
    right.environment = study.environment.copy()
    assert right.run(*TRACK) == 0, right.said
    try:
        assert kind.inject(study, random.Random(kind.name)) == 0
        assert study.run(*kind.recovery) == 0, study.said
    finally:
        study.companions.close()
    assert points(study) == points(right)
    assert running(study) == 0


@pytest.mark.parametrize("error", [LeftError("run 1 was abandoned by its writer"), RefusedError("no")])
def test_who_finds_a_run_abandoned_whose_writer_comes_back_looks_again(error):
    """A writer that stood still for long; what the server refuses of a run that stands is an error."""
    tried = []

    def work(run_id):
        tried.append(run_id)
        if len(tried) == 1:
            raise error

    one = object.__new__(track_module._Pass)
    target = SimpleNamespace(stands=lambda _: True)
    if isinstance(error, LeftError):
        assert one._persist(target, "1", None, work) == "1"
        assert tried == ["1", "1"]
    else:
        with pytest.raises(RefusedError, match="no"):
            one._persist(target, "1", None, work)
